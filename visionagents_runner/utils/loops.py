"""What one needs of an event loop besides tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def call_from_thread(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> bool:
    """Have ``loop`` call ``callback(*args)`` soon, whichever thread this is. False if it is closed."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        return False
    return True


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Wait until ``event`` is set, ``seconds`` at most. Returns whether it is; it is left as it is."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


def one_per_loop(make: Callable[[], T]) -> Callable[[], T]:
    """Return a function that returns the same object as long as the event loop that runs is the same.

    Another loop is given one of its own, by ``make()``, and that of the loop before is forgotten.
    """
    found: tuple[asyncio.AbstractEventLoop, T] | None = None

    def get() -> T:
        nonlocal found
        loop = asyncio.get_running_loop()
        if found is None or found[0] is not loop:
            found = loop, make()
        return found[1]

    return get
