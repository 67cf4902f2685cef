"""What goes on after whoever asked for it has gone: connections that close."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from ..utils.tasks import HeldTasks

logger = logging.getLogger(__name__)

_running = HeldTasks()


def in_background(coroutine: Coroutine[Any, Any, Any], *, name: str) -> None:
    """Run to its end what bounds itself; a failure is logged."""
    _running.spawn(coroutine, name=name).add_done_callback(_tell_failure)


def _tell_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s failed", task.get_name(), exc_info=error)


async def idle() -> None:
    """Wait until nothing is left of it on this event loop; for tests and for a process that ends."""
    loop = asyncio.get_running_loop()
    while mine := [task for task in _running if task.get_loop() is loop]:
        await asyncio.wait(mine)
