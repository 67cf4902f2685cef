"""Wrapping a method of one instance, so that it can be undone."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

Undo = Callable[[], None]


def hook(target: object, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Undo:
    """Replace the method ``name`` of ``target`` by ``make(original)``. Returns what undoes it.

    If somebody else has wrapped the wrapper meanwhile, it stays in place: it must work as ``original`` does, for good.
    """
    own = vars(target).get(name)
    original = getattr(target, name)
    wrapper = functools.wraps(original)(make(original))
    setattr(target, name, wrapper)

    def undo() -> None:
        if vars(target).get(name) is not wrapper:
            return
        if own is None:
            delattr(target, name)
        else:
            setattr(target, name, own)

    return undo


def quietly(what: str, fn: Callable[..., None], *args: Any) -> None:
    """Call ``fn``; what it raises is logged. The agent's own work, within which this runs, must not notice."""
    try:
        fn(*args)
    except Exception:
        logger.exception("Observing %s failed", what)
