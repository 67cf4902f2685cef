"""Pages of a session's history: bounded by count and by bytes, read and written in a reader's thread."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..models import SessionEvent

MAX_PAGE_BYTES = 1024 * 1024
"""Of what a page says of its events. It has at least one, which takes no more than a tenth of that."""

_CHUNK = 100
"""Events, of 16 KB at most, that are read at once."""

T = TypeVar("T")


@dataclass(slots=True)
class Page(Generic[T]):
    items: list[T] = field(default_factory=list)
    next: int | None = None
    """The number to go on after; None if there is no more."""


def page_of(
    key: uuid.UUID, after: int, limit: int, kinds: Collection[str] | None, make: Callable[[SessionEvent], tuple[T, int]]
) -> Page[T]:
    """Return what ``make`` makes of a session's events after a number, as many as fit. It queries.

    ``make`` returns an item and its size in bytes. No more is read than the page has, but for a chunk.
    """
    page: Page[T] = Page()
    size = last = 0
    for row in _rows(key, after, limit + 1, kinds):
        item, bytes_of_item = make(row)
        size += bytes_of_item
        if len(page.items) == limit or (page.items and size > MAX_PAGE_BYTES):
            page.next = last
            break
        page.items.append(item)
        last = row.seq
    return page


def _rows(key: uuid.UUID, after: int, most: int, kinds: Collection[str] | None) -> Iterator[SessionEvent]:
    events = SessionEvent.objects.filter(session=key).order_by("seq")
    if kinds is not None:
        events = events.filter(kind__in=kinds)
    while most > 0:
        # Not `iterator()`: MySQL's driver fetches all of it at once, and so does PostgreSQL's behind some poolers.
        rows = list(events.filter(seq__gt=after)[: min(_CHUNK, most)])
        yield from rows
        if len(rows) < _CHUNK:
            return
        most -= _CHUNK
        after = rows[-1].seq
