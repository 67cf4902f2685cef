"""`Cluster`: what the database knows of all workers together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db.models import BooleanField, Case, Count, Value, When

from .. import store
from ..conf import get_settings
from ..models import AgentSession, Worker
from ..models.worker import seconds_ago
from ..tasks import spawn

logger = logging.getLogger(__name__)

ENDED_HOURS = 24
_FRESH_SECONDS = 5.0
_SHARE = 0.02
_STALE_SECONDS = 60.0
_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Census:
    live: dict[tuple[str, str], int]
    """By agent and status."""
    ended: dict[tuple[str, str], int]
    """Of those asked for in the last ENDED_HOURS, by agent and end reason."""
    workers: dict[str, int]
    """By state, one of them "silent": no heartbeat for longer than WORKER_TTL."""
    capacity: int | None
    """Of the workers that run and are not silent; None if one has no limit."""


class Cluster:
    """Asked at every scrape, it reads the database rarely: one query at a time, whose share of time is bounded."""

    def __init__(self, track: Callable[[asyncio.Task[Any]], None]) -> None:
        self._track = track
        self._census: Census | None = None
        self._read_at = float("-inf")
        self._fresh_seconds = _FRESH_SECONDS
        self._reading: asyncio.Task[None] | None = None

    async def census(self) -> Census | None:
        """Return what was read last; None if the database did not answer for a minute, or not in time."""
        age = time.monotonic() - self._read_at
        if age > self._fresh_seconds:
            if self._reading is None or self._reading.done():
                self._reading = spawn(self._read(), name="agent-census")
                self._track(self._reading)
            await asyncio.wait({self._reading}, timeout=_PATIENCE_SECONDS)
            age = time.monotonic() - self._read_at
        return self._census if age < _STALE_SECONDS else None

    async def _read(self) -> None:
        began = time.monotonic()
        try:
            self._census = await store.read(take_census)
        except store.DATABASE_ERRORS as error:
            logger.warning("Metrics lack the cluster's numbers: the database does not answer (%s)", error)
            return
        self._read_at = now = time.monotonic()
        # A long history takes long to count: then it is counted more rarely.
        self._fresh_seconds = max(_FRESH_SECONDS, (now - began) / _SHARE)


def take_census() -> Census:
    sessions = AgentSession.objects.order_by()
    live = sessions.live().values_list("agent", "status").annotate(count=Count("pk"))
    # By the moment they were asked for, which has an index.
    recent = sessions.ended().filter(created_at__gte=seconds_ago(ENDED_HOURS * 3600.0))
    ended = recent.values_list("agent", "end_reason").annotate(count=Count("pk"))
    silent = When(heartbeat_at__lt=seconds_ago(get_settings().WORKER_TTL), then=Value(True))
    running = Worker.objects.running().order_by()
    rows = running.annotate(silent=Case(silent, default=Value(False), output_field=BooleanField()))
    workers = {"running": 0, "draining": 0, "silent": 0}
    capacity: int | None = 0
    for state, limit, is_silent in rows.values_list("state", "capacity", "silent"):
        workers["silent" if is_silent else state] += 1
        if state == "running" and not is_silent:
            capacity = None if capacity is None or limit is None else capacity + limit
    return Census(
        live={(agent, status): count for agent, status, count in live},
        ended={(agent, reason): count for agent, reason, count in ended},
        workers=workers,
        capacity=capacity,
    )
