"""`Cluster`: what the database knows of all workers together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import BooleanField, Case, Count, Value, When

from ..conf.settings import get_settings
from ..models import AgentSession, Chore, Worker
from ..models.worker import seconds_ago
from ..utils.tasks import spawn
from . import database, errors
from .queue_stats import Queue, queues

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
    queues: dict[tuple[str, str], Queue]
    """By agent and what they wait for, one of `queue_stats.FOR`."""
    capacity: int | None
    """Of the workers that run and are not silent; None if one has no limit."""


class Cluster:
    """Asked at every scrape, it reads the database rarely, and one of all workers counts for the others."""

    def __init__(self, track: Callable[[asyncio.Task[Any]], None]) -> None:
        self._track = track
        self._census: Census | None = None
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def census(self) -> Census | None:
        """Return what was read last; None if the database did not answer for a minute, or not in time."""
        age = time.monotonic() - self._read_at
        if age > _FRESH_SECONDS:
            if self._reading is None or self._reading.done():
                self._reading = spawn(self._read(), name="agent-census")
                self._track(self._reading)
            await asyncio.wait({self._reading}, timeout=_PATIENCE_SECONDS)
            age = time.monotonic() - self._read_at
        return self._census if age < _STALE_SECONDS else None

    async def _read(self) -> None:
        try:
            self._census = await database.read(read_census)
        except errors.DATABASE_ERRORS as error:
            logger.warning(
                "Metrics lack the cluster's numbers: the database does not answer (%s)", errors.first_line(error)
            )
            return
        self._read_at = time.monotonic()


def read_census() -> Census:
    """Return what some worker counted lately, or count, if it is time."""
    now, before = _shared("census", _count_present), _shared("census of ends", _count_ends)
    return Census(
        live={(agent, status): count for agent, status, count in now["live"]},
        ended={(agent, reason): count for agent, reason, count in before["ended"]},
        workers=now["workers"],
        queues={(agent, what): Queue(count, timedelta(seconds=oldest)) for agent, what, count, oldest in now["queues"]},
        capacity=now["capacity"],
    )


def _shared(name: str, count: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    kept = Chore.objects.kept(name)
    if not Chore.objects.take(name, _FRESH_SECONDS) and kept is not None:
        return dict(kept)
    began = time.monotonic()
    counted = count()
    # Many sessions, or a long history, take long to count: then it is done more rarely.
    pause = max(_FRESH_SECONDS, (time.monotonic() - began) / _SHARE)
    Chore.objects.keep(name, counted, next_in=pause, valid=2 * pause + _STALE_SECONDS)
    return counted


def _count_present() -> dict[str, Any]:
    live = AgentSession.objects.order_by().live().values_list("agent", "status").annotate(count=Count("pk"))
    silent = When(heartbeat_at__lt=seconds_ago(get_settings().WORKER_TTL), then=Value(True))
    running = Worker.objects.running().order_by()
    rows = running.annotate(silent=Case(silent, default=Value(False), output_field=BooleanField()))
    workers = {"running": 0, "draining": 0, "silent": 0}
    capacity: int | None = 0
    for state, limit, is_silent in rows.values_list("state", "capacity", "silent"):
        workers["silent" if is_silent else state] += 1
        if state == "running" and not is_silent:
            capacity = None if capacity is None or limit is None else capacity + limit
    waiting = [(*key, queue.count, queue.oldest.total_seconds()) for key, queue in queues().items()]
    return {"live": list(live), "workers": workers, "queues": waiting, "capacity": capacity}


def _count_ends() -> dict[str, Any]:
    # By the moment they were asked for, which has an index.
    recent = AgentSession.objects.order_by().ended().filter(created_at__gte=seconds_ago(ENDED_HOURS * 3600.0))
    return {"ended": list(recent.values_list("agent", "end_reason").annotate(count=Count("pk")))}
