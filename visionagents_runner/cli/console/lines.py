"""Lines from standard input, without a thread that could keep the process alive."""

from __future__ import annotations

import asyncio
import codecs
import io
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

_CHUNK_BYTES = 65536

_Deliver = Callable[["str | None"], None]


class LineReader:
    """Reads lines on demand, so that a long file is not read faster than it is used.

    Terminals, pipes and sockets are watched by the event loop, and their mode is not changed. What an event loop cannot
    watch (a regular file, a stream without a file descriptor) is read by a daemon thread.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """``stream`` is None where the process has no standard input at all; it then reads as empty."""
        self._stream = io.StringIO() if stream is None else stream
        self._fd = _file_descriptor(self._stream)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._over = stream is None
        self._requests: queue.SimpleQueue[_Deliver | None] | None = None

    @property
    def interactive(self) -> bool:
        """Whether somebody types at a terminal."""
        return self._fd is not None and os.isatty(self._fd)

    async def readline(self) -> str | None:
        """The next line without its end; None at the end of input."""
        while "\n" not in self._pending and not self._over:
            piece = await self._piece()
            if piece is None:
                self._over = True
            else:
                self._pending += piece
        if not self._pending:
            return None
        line, _, self._pending = self._pending.partition("\n")
        return line.removesuffix("\r")

    def close(self) -> None:
        """Stop reading. A line half typed at a terminal is dropped: it was not meant for the shell."""
        self._over = True
        if self._requests is not None:
            self._requests.put(None)
        if self._fd is not None and self.interactive:
            _discard_typed(self._fd)

    async def _piece(self) -> str | None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str | None] = loop.create_future()

        def deliver(piece: str | None) -> None:
            if not future.done():
                future.set_result(piece)

        def readable() -> None:
            with suppress(BlockingIOError):  # somebody else shares the descriptor and was faster
                deliver(self._read())

        if self._fd is not None and self._requests is None:
            try:
                loop.add_reader(self._fd, readable)
            except (NotImplementedError, OSError):
                pass  # epoll refuses regular files, Windows' event loop everything
            else:
                try:
                    return await future
                finally:
                    loop.remove_reader(self._fd)

        def from_thread(piece: str | None) -> None:
            loop.call_soon_threadsafe(deliver, piece)

        if self._requests is None:
            self._requests = queue.SimpleQueue()
            threading.Thread(target=self._serve, args=(self._requests,), name="read-stdin", daemon=True).start()
        self._requests.put(from_thread)
        return await future

    def _serve(self, requests: queue.SimpleQueue[_Deliver | None]) -> None:
        while (deliver := requests.get()) is not None:
            try:
                piece = self._read()
            except (OSError, ValueError):
                piece = None  # closed meanwhile
            try:
                deliver(piece)
            except RuntimeError:
                return  # the event loop is closed

    def _read(self) -> str | None:
        """Read what there is, blocking if there is nothing; None at the end."""
        if self._fd is None:
            return self._stream.readline() or None
        try:
            chunk = os.read(self._fd, _CHUNK_BYTES)
        except BlockingIOError:
            raise
        except OSError:
            chunk = b""  # the terminal is gone
        piece = self._decoder.decode(chunk, final=not chunk)
        return piece if chunk or piece else None


def _file_descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _discard_typed(fd: int) -> None:
    try:
        import termios
    except ImportError:
        return
    with suppress(OSError, termios.error):  # the terminal is gone
        termios.tcflush(fd, termios.TCIFLUSH)
