"""`Listeners`: callables that want to be told of something, which come and go on any thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

L = TypeVar("L", bound=Callable[..., object])


class Listeners(Generic[L]):
    """Iterating gives those of this moment, in the order in which they came."""

    def __init__(self) -> None:
        self._all: tuple[L, ...] = ()

    def __iter__(self) -> Iterator[L]:
        return iter(self._all)

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, listener: L) -> Callable[[], None]:
        """Returns what takes it away again; to call that twice does nothing more."""
        self._all = (*self._all, listener)

        def remove() -> None:
            rest = list(self._all)
            with suppress(ValueError):
                rest.remove(listener)
            self._all = tuple(rest)

        return remove
