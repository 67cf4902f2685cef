"""Messages to other processes from one that has no event loop of its own: WSGI, Celery, commands, a shell.

A thread sends them, so that nobody waits for a channel layer that does not answer. It ends when nothing came for a
while, and the process, at its end, waits a moment for what it has not sent.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from collections import deque
from typing import Any

from ..utils.bounded import Seldom
from .layer import Message, deliver, get_layer, send_by_open_link

logger = logging.getLogger(__name__)

_MOST_WAITING = 256
_SEND_SECONDS = 2.0
_IDLE_SECONDS = 30.0
_RETRY_SECONDS = 2.0
"""After a failure: what comes meanwhile is dropped."""
_LAST_SECONDS = 1.0
_COMPLAIN_SECONDS = 60.0


class Outbox:
    """One a process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[str, Message]] = deque()
        self._sending = False
        self._thread: threading.Thread | None = None
        self._down_until = 0.0
        self._may_complain = Seldom(_COMPLAIN_SECONDS)

    def post(self, group: str, message: Message) -> bool:
        """Send soon, in the order of the calls. False if dropped: too many wait, or the layer failed a moment ago."""
        with self._changed:
            if len(self._waiting) >= _MOST_WAITING or time.monotonic() < self._down_until:
                return False
            self._waiting.append((group, message))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="visionagents-outbox", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter ends, or there are too many
                    self._waiting.clear()
                    return False
                self._thread = thread
            self._changed.notify_all()
        return True

    def flush(self, timeout: float) -> bool:
        """Wait until nothing waits any more; False if that took longer than ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._sending, timeout)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            while (item := self._next()) is not None:
                try:
                    runner.run(_transmit(*item))
                except Exception as error:
                    self._failed(error)
                with self._changed:
                    self._sending = False
                    self._changed.notify_all()

    def _next(self) -> tuple[str, Message] | None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting, _IDLE_SECONDS):
                self._thread = None
                return None
            self._sending = True
            return self._waiting.popleft()

    def _failed(self, error: Exception) -> None:
        now = time.monotonic()
        with self._changed:
            self._waiting.clear()
            self._down_until = now + _RETRY_SECONDS
        if self._may_complain():
            logger.warning("The channel layer does not work (%r): workers learn by polling", error)


async def _transmit(group: str, message: Message) -> None:
    layer: Any = get_layer()
    if layer is not None:
        async with asyncio.timeout(_SEND_SECONDS):
            await deliver(layer, group, message)


_outbox = Outbox()


def send_from_anywhere(group: str, message: Message) -> None:
    """Send to ``group``, from any thread of any process: with a worker or without, on an event loop or not.

    It waits for nothing, and never fails: like all messages this one may be lost.
    """
    if (layer := get_layer()) is not None and not send_by_open_link(layer, group, message):
        post(group, message)


def post(group: str, message: Message) -> bool:
    return _outbox.post(group, message)


def flush(timeout: float = _LAST_SECONDS) -> bool:
    """Wait until what was posted is sent, or given up."""
    return _outbox.flush(timeout)


def _after_fork() -> None:
    global _outbox
    _outbox = Outbox()  # the thread stayed behind


atexit.register(flush)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
