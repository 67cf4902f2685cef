"""`Link`: hints between processes, over the channel layer, if there is one that reaches other processes.

Nothing waits for it and nothing depends on it: what cannot be sent is dropped, and the polls find it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

from ..tasks import spawn

logger = logging.getLogger(__name__)

Message: TypeAlias = dict[str, Any]
Make: TypeAlias = Callable[[], Message | None]
Handler: TypeAlias = Callable[[Message], None]

LIST_GROUP = "va.sessions"

_OUTBOX_SIZE = 256
_ROUND_SECONDS = 0.02
"""Between two rounds of sending: what replaces each other meanwhile is sent once."""
_SEND_SECONDS = 2.0
_RETRY_SECONDS = 2.0
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
        self._to_send = asyncio.Event()
        self._entered: set[str] = set()
        self._changed = asyncio.Event()
        self._channel = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._complained_at = -_COMPLAIN_SECONDS

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

    # Its tasks

    def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._outbox.clear()
        entered, channel = list(self._entered), self._channel
        self._entered.clear()
        self._channel = ""
        if entered and channel:
            _leaving(spawn(self._leave(entered, channel), name="feeds-link-leave"))

    async def _leave(self, groups: list[str], channel: str) -> None:
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                for group in groups:
                    await self._layer.group_discard(group, channel)
        except Exception as error:
            logger.debug("Groups of the channel layer were not left: %r", error)

    async def _keep(self, work: Callable[[], Any]) -> None:
        while True:
            try:
                await work()
            except Exception as error:
                self._outbox.clear()
                self._entered.clear()
                now = time.monotonic()
                if now - self._complained_at >= _COMPLAIN_SECONDS:
                    self._complained_at = now
                    logger.warning(
                        "The channel layer does not work (%r): viewers in other processes learn later", error
                    )
                await asyncio.sleep(_RETRY_SECONDS)
                self._changed.set()

    async def _receive(self) -> None:
        if not self._channel:
            self._channel = await self._layer.new_channel("va.feeds")
            self._changed.set()
        while True:
            try:
                message = await self._layer.receive(self._channel)
            except Exception as error:
                # channels_redis waits 5 s for a message, and so does redis-py 8 for any answer: then nothing came.
                if "Timeout" in type(error).__name__:
                    continue
                raise
            group = message.get("group")
            for handler in tuple(self._handlers.get(group, ())):
                try:
                    handler(message)
                except Exception:
                    logger.exception("A message of the channel layer could not be taken")

    async def _enter(self) -> None:
        """Be in the groups that somebody here listens to, and in no others."""
        while True:
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
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            waiting, self._outbox = self._outbox, {}
            for group, make in waiting.values():
                message = make()
                if message is not None:
                    async with asyncio.timeout(_SEND_SECONDS):
                        await self._layer.group_send(group, {**message, "group": group})
            await asyncio.sleep(_ROUND_SECONDS)


_last: set[asyncio.Task[None]] = set()


def _leaving(task: asyncio.Task[None]) -> None:
    _last.add(task)
    task.add_done_callback(_last.discard)


async def settle() -> None:
    """Wait until links that closed have left their groups; it takes a moment at most."""
    if _last:
        await asyncio.wait(_last, timeout=_SEND_SECONDS)


_link: tuple[asyncio.AbstractEventLoop, Any, Link] | None = None


def get_link() -> Link | None:
    """Return the link of this event loop; None where no channel layer reaches other processes."""
    global _link
    from channels.layers import InMemoryChannelLayer, get_channel_layer  # type: ignore[import-untyped]

    try:
        layer = get_channel_layer()
    except Exception:
        logger.exception("The channel layer cannot be used: viewers in other processes learn by polling")
        return None
    if layer is None or isinstance(layer, InMemoryChannelLayer):
        return None
    loop = asyncio.get_running_loop()
    if _link is None or _link[0] is not loop or _link[1] is not layer:
        _link = (loop, layer, Link(layer))
    return _link[2]
