"""The page that Prometheus reads."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import cache
from importlib.metadata import version
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import django
from prometheus_client import PROCESS_COLLECTOR, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as TEXT
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from .. import __version__
from ..models import SessionStatus
from ..quotas import refused
from ..store.census import ENDED_HOURS, Census
from ..store.queue_stats import FOR, TIME, Queue
from ..telemetry import connections
from ..telemetry.looplag import BUCKETS

if TYPE_CHECKING:
    from ..worker.worker import AgentWorker

__all__ = ["OPENMETRICS", "TEXT", "expose"]

_HERE = (SessionStatus.STARTING, SessionStatus.ACTIVE, SessionStatus.CLOSING)
_EMPTY = Queue(0, timedelta())
_LIVE = (SessionStatus.QUEUED, *_HERE, SessionStatus.UNREACHABLE)


async def expose(numbers: dict[str, Any], worker: AgentWorker | None, *, openmetrics: bool) -> bytes:
    """Return the metrics of this process and, where a worker runs, of the cluster. ``numbers`` are `schemas.Metrics`.

    It is read from memory on the loop, and written in a thread: the text takes milliseconds.
    """
    families = [*_sessions(numbers), *_connections()]
    collectors: list[Collector] = [PROCESS_COLLECTOR]
    if worker is not None:
        for agent in numbers["agents"]:
            worker.instruments.know(agent)
        families += _worker(worker)
        families += _cluster(await worker.cluster.census(), numbers["agents"])
        collectors.append(worker.instruments.registry)
    families.append(_refused())
    families.append(_media_refused())
    families.append(_build_info())
    generate = generate_openmetrics if openmetrics else generate_latest
    return await asyncio.to_thread(generate, _Page(families, collectors))


class _Page(Collector):
    def __init__(self, families: list[Metric], collectors: list[Collector]) -> None:
        self._families = families
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        yield from self._families
        for collector in self._collectors:
            for family in collector.collect():
                # When a counter began to count is a time series more for each of them, which nobody asks for.
                family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
                yield family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"visionagents_{name}", text, value=value)


def _by(
    name: str,
    text: str,
    labels: Iterable[str],
    samples: Iterable[tuple[tuple[str, ...], float]],
    *,
    counter: bool = False,
) -> Metric:
    kind = CounterMetricFamily if counter else GaugeMetricFamily
    family = kind(f"visionagents_{name}", text, labels=tuple(labels))
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _sessions(numbers: dict[str, Any]) -> Iterator[Metric]:
    agents: dict[str, dict[str, Any]] = numbers["agents"]
    yield _by(
        "sessions",
        "Sessions that this process runs.",
        ("agent", "status"),
        (
            ((name, status.value), agent["sessions_by_status"].get(status.value, 0))
            for name, agent in agents.items()
            for status in _HERE
        ),
    )
    yield _by(
        "sessions_limit",
        "Most sessions of an agent on this process (max_concurrent_sessions); none without a limit.",
        ("agent",),
        (
            ((name,), agent["max_concurrent_sessions"])
            for name, agent in agents.items()
            if agent["max_concurrent_sessions"] is not None
        ),
    )
    started = (((name,), agent["total_sessions_started"]) for name, agent in agents.items())
    yield _by("sessions_started", "Sessions that this process has begun.", ("agent",), started, counter=True)
    warm = (((name,), agent["warmed_up"]) for name, agent in agents.items())
    yield _by("warmed_up", "Whether the agent is warmed up.", ("agent",), warm)
    limits = [agent["max_concurrent_sessions"] for agent in agents.values()]
    if None not in limits:
        text = "Sessions that this process takes, of all its agents together; none if one has no limit."
        yield _gauge("capacity_sessions", text, sum(limits))
    yield _gauge("running", "Whether the worker runs.", numbers["running"])
    yield _gauge("draining", "Whether the worker drains.", numbers["draining"])


def _refused() -> Metric:
    text = "What was refused because somebody had more than their share (LIMITS), by what and whose share."
    return _by("refused", text, ("what", "by"), refused().items(), counter=True)


def _media_refused() -> Metric:
    # Not imported: with it would come vision-agents, where nobody has joined a call in a browser yet.
    bounds = sys.modules.get("visionagents_runner.edge.bounds")
    counts = {"connections": 0, "offers": 0} if bounds is None else dict(bounds.refused)
    text = "WebRTC offers that were refused, and connections that were shut out, for what no browser sends."
    return _by("media_refused", text, ("what",), (((what,), count) for what, count in counts.items()), counter=True)


def _connections() -> Iterator[Metric]:
    requests, websockets = connections.numbers()
    open_now = ((("http",), requests), (("websocket",), websockets))
    yield _by("connections", "Connections that are open, where serveagents serves.", ("kind",), open_now)
    why = (((reason,), count) for reason, count in connections.refused.items())
    text = "Connections that this process refused or ended, by reason."
    yield _by("connections_refused", text, ("reason",), why, counter=True)


def _worker(worker: AgentWorker) -> Iterator[Metric]:
    lag, recorder = worker.lag, worker.recorder
    bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
    yield HistogramMetricFamily(
        "visionagents_loop_lag_seconds",
        "How long what wanted to run on the event loop had to wait, at every twentieth of a second.",
        buckets=list(zip(bounds, accumulate(lag.buckets), strict=True)),
        sum_value=lag.sum,
    )
    longest = lag.summary()["max_ms"] / 1000
    yield _gauge("loop_lag_max_seconds", "The longest that it had to wait in the last minute.", longest)
    yield _gauge("overloaded", "Whether it takes no new sessions because its event loop lags.", lag.overloaded)
    yield _gauge("recorder_waiting_events", "Events of sessions that wait to be written.", recorder.waiting)
    yield _gauge("recorder_queue_limit_events", "How many may wait (EVENT_QUEUE_SIZE).", recorder.size)
    written = [((), recorder.written)]
    yield _by("recorder_written_events", "Events of sessions that were written.", (), written, counter=True)
    dropped = [((), recorder.dropped)]
    yield _by("recorder_dropped_events", "Events of sessions that never will be.", (), dropped, counter=True)


def _cluster(census: Census | None, agents: Iterable[str]) -> Iterator[Metric]:
    yield _gauge(
        "cluster_up", "Whether the database answers; without it there are no cluster numbers.", census is not None
    )
    if census is None:
        return
    live = {(agent, status.value): 0 for agent in agents for status in _LIVE} | census.live
    yield _by(
        "cluster_sessions",
        "Live sessions of all workers. Every worker tells the same: take the maximum.",
        ("agent", "status"),
        live.items(),
    )
    yield _by(
        "cluster_recent_ends",
        f"Sessions of all workers that were asked for in the last {ENDED_HOURS} hours and have ended, by reason.",
        ("agent", "reason"),
        census.ended.items(),
    )
    queues = {(agent, waits_for): _EMPTY for agent in agents for waits_for in FOR} | census.queues
    yield _by(
        "cluster_queued_sessions",
        "Sessions that wait: for a worker with room, for a limit over all workers, for the time when they are due.",
        ("agent", "waits_for"),
        ((key, queue.count) for key, queue in queues.items()),
    )
    yield _by(
        "cluster_queue_oldest_seconds",
        "How long the one has waited that could have started first; 0 if there is none.",
        ("agent", "waits_for"),
        ((key, queue.oldest.total_seconds()) for key, queue in queues.items() if key[1] != TIME),
    )
    workers = (((state,), count) for state, count in census.workers.items())
    yield _by("cluster_workers", "Workers that have not said goodbye, by state.", ("state",), workers)
    if census.capacity is not None:
        text = "Sessions that all running workers take together; none if one has no limit."
        yield _gauge("cluster_capacity_sessions", text, census.capacity)


@cache
def _build_info() -> Metric:
    versions = {
        "version": __version__,
        "vision_agents": version("vision-agents"),
        "django": django.__version__,
        "python": platform.python_version(),
    }
    samples = [(tuple(versions.values()), 1)]
    return _by("build_info", "1; the versions are the labels.", versions, samples)
