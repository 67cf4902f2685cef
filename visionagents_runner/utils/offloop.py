"""Computing beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# One thread, and one of its own: what it does takes milliseconds and waits for nothing, so it is never starved by what
# blocks elsewhere; and one more could only take turns with it, since both need the interpreter.
_thread = ThreadPoolExecutor(1, thread_name_prefix="visionagents-compute")


async def compute(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what ``fn`` returns, computed in a thread. It must not wait for anything."""
    return await asyncio.get_running_loop().run_in_executor(_thread, lambda: fn(*args, **kwargs))
