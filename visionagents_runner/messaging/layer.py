"""`Link`: hints between processes, over the channel layer, if there is one that reaches other processes.

Nothing depends on it: what cannot be sent is dropped, and the polls find it. Only what is worth having live, partial
words and the relay of calls, goes no other way. All of it is sealed (see `sealing`): the layer is not trusted.
"""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

from channels.layers import InMemoryChannelLayer, get_channel_layer  # type: ignore[import-untyped]
from django.conf import settings

from ..utils.bounded import Seldom
from ..utils.loops import call_from_thread, wait_for_event
from ..utils.tasks import HeldTasks, spawn
from .sealing import Unreadable, Unsealer, seal

logger = logging.getLogger(__name__)

Message: TypeAlias = dict[str, Any]
Make: TypeAlias = Callable[[], Message | None]
Handler: TypeAlias = Callable[[Message], None]

LIST_GROUP = "va.sessions"
QUEUE_GROUP = "va.queue"

_OUTBOX_SIZE = 256
_URGENT_SIZE = 2048
_ROUND_SECONDS = 0.02
"""Between two rounds of sending: what replaces each other meanwhile is sent once."""
_SEND_SECONDS = 2.0
_RETRY_SECONDS = 2.0
_STEADY_SECONDS = 10.0
"""After so long without a failure, one alone is none to speak of."""
_RENEW_SECONDS = 60.0
"""How often groups are entered again: a layer that lost its memory, or dropped us, has us back then."""
_COMPLAIN_SECONDS = 60.0


def session_group(key: uuid.UUID) -> str:
    return f"va.feed.{_digest(key)}"


def worker_group(key: uuid.UUID) -> str:
    return f"va.worker.{_digest(key)}"


def _digest(key: uuid.UUID) -> str:
    return hashlib.sha256(key.bytes).hexdigest()[:32]


class Link:
    """One a process. It opens its channel with the first group that somebody joins, and closes it with the last."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._handlers: dict[str, list[Handler]] = {}
        self._outbox: dict[Hashable, tuple[str, Make]] = {}
        self._urgent: deque[tuple[str, Message]] = deque()
        self._to_send = asyncio.Event()
        self._to_send_now = asyncio.Event()
        self._entered: set[str] = set()
        self._changed = asyncio.Event()
        self._channel = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._may_complain = Seldom(_COMPLAIN_SECONDS)
        self._unsealer = Unsealer()
        self._unread = 0
        """Messages that did not count, since the log spoke of them."""
        self._spoke_at = -_COMPLAIN_SECONDS

    # For who uses it; all of it returns at once

    def join(self, group: str, handler: Handler) -> Callable[[], None]:
        """Have ``handler`` given each message to ``group``. Returns what ends that."""
        self._handlers.setdefault(group, []).append(handler)
        self._changed.set()
        if not self._tasks:
            self._tasks = [
                spawn(self._keep(self._receive), name="feeds-link-receive"),
                spawn(self._keep(self._enter), name="feeds-link-groups"),
                spawn(self._keep(self._send), name="feeds-link-send"),
            ]

        def leave() -> None:
            handlers = self._handlers.get(group, [])
            if handler in handlers:
                handlers.remove(handler)
                if not handlers:
                    del self._handlers[group]
                    self._changed.set()
                if not self._handlers:
                    self._close()

        return leave

    def post(self, group: str, make: Make, *, key: Hashable) -> None:
        """Send to ``group``, soon, what ``make()`` returns then. It takes the place of what waits with the same key."""
        if not self._tasks or (key not in self._outbox and len(self._outbox) >= _OUTBOX_SIZE):
            return
        self._outbox[key] = (group, make)
        self._to_send.set()

    def send(self, group: str, message: Message) -> bool:
        """Send to ``group`` at once, in the order of the calls. False if dropped: too many wait, or nobody joined.

        It may be lost on the way all the same.
        """
        if not self._tasks or len(self._urgent) >= _URGENT_SIZE:
            return False
        self._urgent.append((group, message))
        self._to_send_now.set()
        self._to_send.set()
        return True

    @property
    def is_open(self) -> bool:
        """Whether somebody here has joined a group: only then does it send."""
        return bool(self._tasks)

    @property
    def waiting(self) -> int:
        """How many urgent messages have not been sent yet: who has many more to send should hold back."""
        return len(self._urgent)

    # Its tasks

    def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._outbox.clear()
        self._urgent.clear()
        entered, channel = list(self._entered), self._channel
        self._entered.clear()
        self._channel = ""
        if entered and channel:
            _last.hold(spawn(self._leave(entered, channel), name="feeds-link-leave"))

    async def _leave(self, groups: list[str], channel: str) -> None:
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                for group in groups:
                    await self._layer.group_discard(group, channel)
        except Exception as error:
            logger.debug("Groups of the channel layer were not left: %r", error)

    async def _keep(self, work: Callable[[], Any]) -> None:
        failed_at = -_STEADY_SECONDS
        while not _is_cancelled():
            try:
                await work()
            except Exception as error:
                if _is_cancelled():
                    return
                self._entered.clear()
                now = time.monotonic()
                once, failed_at = now - failed_at >= _STEADY_SECONDS, now
                if once:
                    # Something held the loop (models that are imported, say), and an answer seems late that is not.
                    logger.debug("The channel layer failed once: %r", error)
                    await asyncio.sleep(_ROUND_SECONDS)
                else:
                    self._outbox.clear()
                    self._urgent.clear()
                    self._complain(error)
                    await asyncio.sleep(_RETRY_SECONDS)
                self._changed.set()
                self._to_send.set()

    def _complain(self, error: Exception) -> None:
        if self._may_complain():
            logger.warning("The channel layer does not work (%r): viewers in other processes learn later", error)

    async def _receive(self) -> None:
        if not self._channel:
            self._channel = await self._layer.new_channel("va.feeds")
            self._changed.set()
        while not _is_cancelled():
            try:
                message = await self._layer.receive(self._channel)
            except Exception as error:
                # channels_redis waits 5 s for a message, and so does redis-py 8 for any answer: then nothing came.
                if "Timeout" in type(error).__name__:
                    continue
                raise
            group = message.get("group")
            handlers = tuple(self._handlers.get(group, ())) if isinstance(group, str) else ()
            if not handlers:
                continue
            try:
                opened = self._unsealer.unseal(group, _sealed(message))
            except Unreadable as error:
                self._speak_of_unread(error)
                continue
            for handler in handlers:
                try:
                    handler(opened)
                except Exception:
                    logger.exception("A message of the channel layer could not be taken")

    def _speak_of_unread(self, error: Unreadable) -> None:
        self._unread += 1
        now = time.monotonic()
        if now - self._spoke_at >= _COMPLAIN_SECONDS:
            logger.warning(
                "%d messages of the channel layer do not count (the last: %s). Have all processes of the project the "
                "same SECRET_KEY? Or somebody else writes there",
                self._unread,
                error,
            )
            self._spoke_at = now
            self._unread = 0

    async def _enter(self) -> None:
        """Be in the groups that somebody here listens to, and in no others."""
        while not _is_cancelled():
            try:
                async with asyncio.timeout(_RENEW_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                self._entered.clear()
            self._changed.clear()
            if not self._channel:
                continue
            for group in list(self._handlers):
                if group not in self._entered:
                    async with asyncio.timeout(_SEND_SECONDS):
                        await self._layer.group_add(group, self._channel)
                    self._entered.add(group)
            for group in [each for each in self._entered if each not in self._handlers]:
                self._entered.discard(group)
                async with asyncio.timeout(_SEND_SECONDS):
                    await self._layer.group_discard(group, self._channel)

    async def _send(self) -> None:
        while not _is_cancelled():
            await self._to_send.wait()
            self._to_send.clear()
            self._to_send_now.clear()
            await self._send_urgent()
            waiting, self._outbox = self._outbox, {}
            for group, make in waiting.values():
                message = make()
                if message is not None:
                    await self._transmit(group, message)
                await self._send_urgent()
            await wait_for_event(self._to_send_now, _ROUND_SECONDS)

    async def _send_urgent(self) -> None:
        while self._urgent:
            await self._transmit(*self._urgent.popleft())

    async def _transmit(self, group: str, message: Message) -> None:
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await deliver(self._layer, group, message)
        except TypeError:
            # That one message is lost, and the others go on.
            logger.exception("A message of type %s does not fit into the channel layer", message.get("type"))


async def deliver(layer: Any, group: str, message: Message) -> None:
    """Send ``message`` to ``group``, sealed.

    Raises:
        TypeError: it holds what cannot be sent.
        Exception: the layer failed, as layers do.
    """
    sealed = seal(group, message)
    envelope = {"type": "va.sealed", "group": group}
    try:
        await layer.group_send(group, {**envelope, "sealed": sealed})
    except TypeError:  # a layer that was told to write JSON takes no bytes
        await layer.group_send(group, {**envelope, "sealed": binascii.b2a_base64(sealed, newline=False).decode()})


def _sealed(envelope: Message) -> bytes:
    sealed = envelope.get("sealed")
    if isinstance(sealed, str):
        try:
            return binascii.a2b_base64(sealed)
        except ValueError:
            raise Unreadable("it is neither bytes nor base64") from None
    if not isinstance(sealed, bytes):
        raise Unreadable("it is not sealed")
    return sealed


def _is_cancelled() -> bool:
    """Whether this task was to end, though whatever it awaited took no notice.

    redis-py swallows a cancellation now and then, in the middle of a command, and channels_redis may fail over one.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


_last = HeldTasks()

"""Of links that leave their groups."""


async def settle() -> None:
    """Wait until links that closed have left their groups; it takes a moment at most."""
    loop = asyncio.get_running_loop()
    # An earlier loop may have been closed before all that ran on it had ended.
    mine = {task for task in _last if task.get_loop() is loop}
    if mine:
        await asyncio.wait(mine, timeout=_SEND_SECONDS)


_link: tuple[asyncio.AbstractEventLoop, Any, Link] | None = None


def get_link() -> Link | None:
    """Return the link of this event loop; None where no channel layer reaches other processes."""
    global _link
    if (layer := get_layer()) is None:
        return None
    loop = asyncio.get_running_loop()
    if _link is None or _link[0] is not loop or _link[1] is not layer:
        _link = (loop, layer, Link(layer))
    return _link[2]


def layer_in_settings() -> str:
    """Return the backend that CHANNEL_LAYERS names; "" where it names none."""
    layer = (getattr(settings, "CHANNEL_LAYERS", None) or {}).get("default") or {}
    return str(layer.get("BACKEND") or "")


def reaches_others(backend: str) -> bool:
    """Whether a backend of channels carries messages to other processes."""
    return bool(backend) and not backend.endswith(".InMemoryChannelLayer")


def get_layer() -> Any:
    """Return the channel layer; None if there is none that reaches other processes."""
    try:
        layer = get_channel_layer()
    except Exception:
        logger.exception("The channel layer cannot be used: viewers in other processes learn by polling")
        return None
    return None if isinstance(layer, InMemoryChannelLayer) else layer


def send_by_open_link(layer: Any, group: str, message: Message) -> bool:
    """Have the link that is open in this process send, whatever its loop; from any thread. False if none is."""
    if _link is None or _link[1] is not layer or not _link[2].is_open:
        return False
    return call_from_thread(_link[0], _link[2].send, group, message)


def _forget_link() -> None:
    global _link
    _link = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_link)
