"""Tasks that belong to nobody's request."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

from .bounded import keep

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


class HeldTasks(set["asyncio.Task[Any]"]):
    """Tasks that nobody awaits, each held until it has ended: the event loop alone may lose one before."""

    def hold(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        self.add(task)
        task.add_done_callback(self.discard)
        return task

    def spawn(
        self, coroutine: Coroutine[Any, Any, T], *, name: str, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        """Run ``coroutine`` as `spawn` does, and hold it."""
        return self.hold(spawn(coroutine, name=name, context=context))


async def wait_for_any(task: asyncio.Task[Any], *until: asyncio.Event, timeout: float | None = None) -> None:
    """Wait until ``task`` has ended, an event is set, or ``timeout`` seconds are over, whichever is first."""
    events = [spawn(event.wait(), name=f"{task.get_name()}-or-event") for event in until]
    try:
        await asyncio.wait({task, *events}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for event in events:
            event.cancel()


_looks: dict[Hashable, tuple[float, asyncio.Task[Any]]] = {}
_MOST_LOOKS = 1024


async def shared(key: Hashable, since: float, look: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return what ``look()`` returns, or what it did for somebody else, if that began at ``since`` or later.

    ``since`` is in monotonic seconds. So the many who are judged at one moment cost one look for each thing that they
    have in common.
    """
    began, task = _looks.pop(key, (0.0, None))
    if task is None or began < since or (task.done() and (task.cancelled() or task.exception() is not None)):
        began, task = time.monotonic(), spawn(look(), name="visionagents-look")
        task.add_done_callback(_take_note)
    keep(_looks, key, (began, task), most=_MOST_LOOKS)
    # Who asked first may go away; the others still want to know.
    return await asyncio.shield(task)


def _take_note(task: asyncio.Task[Any]) -> None:
    """Nobody may be waiting for it any more: that is no "exception never retrieved"."""
    if not task.cancelled():
        task.exception()
