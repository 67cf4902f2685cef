"""`TerminalCapture`: what this process writes to its terminal besides the chat, which would land on the prompt."""

from __future__ import annotations

import faulthandler
import os
import select
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

_STREAMS = (1, 2)
_CHUNK_BYTES = 65536
_MOST_HELD_BYTES = 65536
"""Of a line that does not end."""
_PATIENCE_SECONDS = 0.1
"""After which a piece of a line is shown as one: a question, or a bar that grows."""


class TerminalCapture:
    """Takes what is written to the terminal, line by line, for as long as it is started.

    It works on the file descriptors: log handlers made before, ``print``, warnings, libraries in C and children of this
    process are all in it. What it takes, it hands to ``show``, on a thread of its own, so that nothing waits while the
    event loop is held. Who shows it writes to `terminal`.
    """

    def __init__(self) -> None:
        self._taken = [number for number in _STREAMS if os.name == "posix" and os.isatty(number)]
        self._saved: dict[int, int] = {}
        self._thread: threading.Thread | None = None
        self._reading = self._writing = self._stopped = self._running = -1
        self.terminal: TextIO = sys.stdout
        """The terminal itself, while it is captured too; standard output, where that is none."""
        if 1 in self._taken:
            encoding = sys.stdout.encoding
            self.terminal = os.fdopen(os.dup(1), "w", encoding=encoding, errors="backslashreplace")

    def start(self, show: Callable[[str], None]) -> None:
        """Begin. ``show`` is given whole lines, with their ends; where output is no terminal, nothing happens."""
        if 1 not in self._taken:
            return
        _flush()
        self._saved = {number: os.dup(number) for number in self._taken}
        self._reading, self._writing = os.pipe()
        self._stopped, self._running = os.pipe()
        for number in self._taken:
            os.dup2(self._writing, number)
        if faulthandler.is_enabled():
            faulthandler.enable(self._saved[1])  # a process that crashes reads no pipe any more
        self._thread = threading.Thread(target=self._read, args=(show,), name="console-capture", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give the terminal back, and show what was written until now. Stopping twice does nothing."""
        if self._thread is not None:
            _flush()
            for number, saved in self._saved.items():
                os.dup2(saved, number)
            if faulthandler.is_enabled():
                faulthandler.enable()
            os.close(self._writing)
            os.close(self._running)
            self._thread.join()
            self._thread = None
            for descriptor in (*self._saved.values(), self._reading, self._stopped):
                os.close(descriptor)
        if self.terminal is not sys.stdout:
            self.terminal.close()
            self.terminal = sys.stdout

    def _read(self, show: Callable[[str], None]) -> None:
        held = b""
        stopping = ended = False
        while not ended:
            waits = [self._reading] if stopping else [self._reading, self._stopped]
            # Children may hold the other end for longer than we do: what is there by now is all.
            seconds = 0 if stopping else _PATIENCE_SECONDS if held else None
            ready, _, _ = select.select(waits, [], [], seconds)
            if self._reading in ready:
                chunk = os.read(self._reading, _CHUNK_BYTES)
                ended = not chunk
                whole, newline, held = (held + chunk).rpartition(b"\n")
                if newline:
                    show((whole + newline).decode(errors="replace"))
                if chunk and len(held) <= _MOST_HELD_BYTES:
                    continue
            elif ready:
                stopping = True
                continue
            else:
                ended = stopping
            if held:
                show(held.decode(errors="replace") + "\n")
                held = b""


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it has gone
            stream.flush()
