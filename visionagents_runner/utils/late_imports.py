"""Imports that stand within a function, done ahead of its first call."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator
from typing import Any

_LOADS = {"LOAD_CONST", "LOAD_SMALL_INT"}


def import_ahead(function: Callable[..., Any]) -> None:
    """Do now what imports stand in a function's own code; one that fails is left to the function, which will say so.

    For a thread: importing an agent's plugins takes seconds, which would hold the event loop that calls the function.
    """
    code = inspect.unwrap(function)
    namespace = getattr(code, "__globals__", {})
    for name, names, level in _imports(code):
        try:
            __import__(name, namespace, None, names, level)
        except (Exception, SystemExit, KeyboardInterrupt):
            return  # what comes after it may rely on it


def _imports(function: Callable[..., Any]) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Yield ``(module, names from it, level)``, as `__import__` takes them."""
    code = getattr(function, "__code__", None)
    if code is None:
        return
    constants: list[Any] = [0, None]
    for instruction in dis.get_instructions(code):
        if instruction.opname in _LOADS:
            constants = [constants[-1], instruction.argval]
        elif instruction.opname == "IMPORT_NAME":
            level, names = constants
            yield instruction.argval, tuple(names or ()), int(level)
