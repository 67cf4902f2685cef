"""Things that load once in a process, in a thread, and that everybody then uses."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_SECONDS = 30.0
_END_SECONDS = 10.0

_process_ends = threading.Event()
_loading: set[threading.Thread] = set()


class Ending(Exception):
    """The process ends; loading goes no further."""


def stop_if_process_ends() -> None:
    """Called between the steps of loading, so that a process that ends meanwhile need not wait for all of them."""
    if _process_ends.is_set():
        raise Ending


class Shared(Generic[T]):
    """A value that ``load`` makes in a thread of its own, once; a failure is kept for a while, then tried again."""

    def __init__(self, name: str, load: Callable[[], T]) -> None:
        self._name = name
        self._load = load
        self._lock = threading.Lock()
        self._future: Future[T] | None = None
        self._failed_at = 0.0

    def start(self) -> Future[T]:
        """Begin to load, unless that was done. Does not wait."""
        with self._lock:
            failed = self._future is not None and self._future.done() and self._future.exception() is not None
            if self._future is None or (failed and time.monotonic() - self._failed_at > _RETRY_SECONDS):
                self._future = Future()
                # A daemon, and waited for at exit with a limit: a download must not keep the process alive.
                thread = threading.Thread(target=self._run, args=(self._future,), name="speech-load", daemon=True)
                _loading.add(thread)
                thread.start()
            return self._future

    @property
    def value(self) -> T | None:
        """What was loaded; None if it is not there yet, or could not be loaded."""
        future = self._future
        if future is None or not future.done() or future.exception() is not None:
            return None
        return future.result()

    async def wait(self) -> T:
        """Load it, if nobody has, and wait.

        Raises what loading raised.
        """
        return await asyncio.shield(asyncio.wrap_future(self.start()))

    def _run(self, future: Future[T]) -> None:
        began = time.monotonic()
        try:
            value = self._load()
        except BaseException as error:
            self._failed_at = time.monotonic()
            if not isinstance(error, Ending):
                logger.error("Loading the %s failed: %s", self._name, error)
            future.set_exception(error if isinstance(error, Exception) else RuntimeError(f"ended by {error!r}"))
        else:
            logger.info("Loaded the %s in %.1f s", self._name, time.monotonic() - began)
            future.set_result(value)
        finally:
            _loading.discard(threading.current_thread())


@atexit.register
def _end() -> None:
    _process_ends.set()
    for thread in tuple(_loading):
        thread.join(_END_SECONDS)
