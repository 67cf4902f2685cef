"""A worker process under a supervisor: how it comes to serve, and its end of the pipe between the two."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from ..utils.process import add_server_process

if TYPE_CHECKING:
    from .options import ProcessOptions

logger = logging.getLogger(__name__)

SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
"""Blocked in a worker until it can answer them: what comes before that is not lost."""
STARTUP_FAILURE = 3
"""What uvicorn, too, ends with if it could not start."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker process is to serve: the project's runner with ``options``, or what its parent's script does."""

    options: ProcessOptions | None = None
    script: str = ""
    """Path of the script that called ``serve`` or ``cli``; it is run again, up to that call."""
    module: str = ""
    """The same of one that was run by ``python -m``."""
    reload: bool = False
    """Whether it tells when its code changes, and waits for that where the code cannot be loaded."""


class Supervised:
    """This process's place under its supervisor."""

    def __init__(self, connection: Connection, listener: socket.socket, *, late: bool, reload: bool = False) -> None:
        self.began = time.time()
        self.listener = listener
        self.reload = reload
        """Whether it tells the supervisor of changes in its code."""
        self.late = late
        """Whether others serve already: it takes no connections from them that it would answer with 503, until warm."""
        self.begun = False
        self._connection = connection

    def tell(self, what: str, text: str = "") -> None:
        with suppress(OSError):  # it is gone, which `_hear` sees too
            self._connection.send((what, text))

    def is_orphaned(self) -> bool:
        """Return whether the supervisor is gone; for a process that does not `begin`."""
        try:
            while self._connection.poll():
                self._connection.recv()
        except (EOFError, OSError):
            return True
        return False

    def begin(
        self,
        *,
        on_signal: Callable[[int, int], None],
        on_retire: Callable[[], None],
        on_reload: Callable[[], None],
        on_orphaned: Callable[[], None],
    ) -> None:
        """Take part in what the supervisor says from now on; the event loop runs and signals are answered.

        ``on_signal`` is given how many the supervisor has had, and which it was. ``on_retire``: another worker takes
        this one's place. ``on_reload``: one with newer code does. ``on_orphaned``: the supervisor is gone.
        """
        self.begun = True
        self._on_signal, self._on_retire, self._on_reload = on_signal, on_retire, on_reload
        self._on_orphaned = on_orphaned
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self._hear)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self.tell("begun")

    def _hear(self) -> None:
        try:
            while self._connection.poll():
                what, *values = self._connection.recv()
                if what == "ping":
                    self.tell("pong")
                elif what == "signal":
                    self._on_signal(*values)
                elif what == "retire":
                    self._on_retire()
                elif what == "reload":
                    self._on_reload()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._on_orphaned()


_this: Supervised | None = None


def become_supervised(supervised: Supervised) -> None:
    """Make this process a worker under a supervisor; whoever serves it is one server with its workers."""
    global _this
    _this = supervised
    add_server_process(os.getppid())


def this_supervised() -> Supervised | None:
    """Return this process's place under a supervisor, if it has one."""
    return _this
