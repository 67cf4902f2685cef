"""The end of a serving process that a thread would hold."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time

from ..store import database
from .lifecycle import LAST_REQUESTS_SECONDS

logger = logging.getLogger(__name__)

_THREADS = "visionagents-"
_LOADING_THREADS = "speech-load"


def leave_if_held(code: int) -> None:
    """End the process now, with ``code``, if a thread would keep Python from it; else do nothing.

    Python would join a thread that still waits (for the database, for a ``create_agent`` that never returns), for as
    long as that takes. One that loads models for speech is waited for neither: nobody will hear them.
    """
    if not database.close():
        logger.error("The database does not answer; leaving without saying goodbye to it")
    elif held := _threads_left(LAST_REQUESTS_SECONDS):
        logger.error("Left behind: %s", ", ".join(f"the thread {name}" for name in held))
    elif not any(thread.name.startswith(_LOADING_THREADS) for thread in threading.enumerate()):
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever read it has gone
            stream.flush()
    os._exit(code)


def _threads_left(seconds: float) -> list[str]:
    """Return which threads of this package still run ``seconds`` from now: those whose work never comes back."""
    ours = [each for each in threading.enumerate() if each.name.startswith(_THREADS) and not each.daemon]
    deadline = time.monotonic() + seconds
    for thread in ours:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread.name for thread in ours if thread.is_alive()]
