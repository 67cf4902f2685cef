"""Whom it concerns, in this process, that histories of sessions went on: a hint, told once it is committed.

It is told on the thread that wrote, by the models; what is new stands in the database.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from functools import partial

from django.db import transaction

from ..utils.listeners import Listeners

logger = logging.getLogger(__name__)

Listener = Callable[[Sequence[uuid.UUID], bool], None]
"""``listener(session ids, whether their states changed)``, on any thread: it must only pass that on."""

_listeners = Listeners[Listener]()


def on_news(listener: Listener) -> Callable[[], None]:
    """Have ``listener`` told of what this process commits from now on. Returns what ends that."""
    return _listeners.add(listener)


def tell_on_commit(keys: Sequence[uuid.UUID], *, using: str, states: bool) -> None:
    """Tell of these sessions when the transaction of ``using`` is committed. Costs nothing where nobody listens."""
    if _listeners and keys:
        transaction.on_commit(partial(_tell, keys, states), using=using, robust=True)


def _tell(keys: Sequence[uuid.UUID], states: bool) -> None:
    for listener in _listeners:
        try:
            listener(keys, states)
        except Exception:
            logger.exception("A listener to news of sessions failed")
