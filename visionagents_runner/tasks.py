"""Tasks that belong to nobody's request."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def spawn(
    coroutine: Coroutine[Any, Any, T], *, name: str, context: contextvars.Context | None = None
) -> asyncio.Task[T]:
    """Run ``coroutine`` as a task that inherits nothing from whoever starts it, or only ``context``.

    A task made inside a view would inherit asgiref's thread of that request, and fail at its first query after the
    request has ended.
    """
    return asyncio.get_running_loop().create_task(
        coroutine, name=name, context=contextvars.Context() if context is None else context
    )


async def wait_for_any(task: asyncio.Task[Any], *until: asyncio.Event, timeout: float | None = None) -> None:
    """Wait until ``task`` has ended, an event is set, or ``timeout`` seconds are over, whichever is first."""
    events = [spawn(event.wait(), name=f"{task.get_name()}-or-event") for event in until]
    try:
        await asyncio.wait({task, *events}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for event in events:
            event.cancel()
