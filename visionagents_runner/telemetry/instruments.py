"""`Instruments`: what a worker counts and times while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from ..exceptions import NotReady, SessionLimitExceeded, StartFailed, StartTimeout
from ..models import EndReason

if TYPE_CHECKING:
    from ..observe import Observed

OUTCOMES = ("started", "failed", "timed_out", "closed", "limit_reached", "not_ready", "error")
PARTS = ("end_of_turn", "recognition", "model", "voice")
_WAIT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TURN_BUCKETS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
_PART_BUCKETS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class Instruments:
    """One a worker, with a registry of its own: the global one is the project's.

    Labels hold names of agents and words of this package only, never ids: each value is a time series for ever.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._known: set[str] = set()
        self._starts = Counter(
            "visionagents_starts",
            "Starts that were asked of this worker, by how they went.",
            ("agent", "outcome"),
            registry=registry,
        )
        self._placed = Counter(
            "visionagents_starts_placed",
            "Starts that another worker took, because this one was full or overloaded: it counts them as refused too.",
            ("agent",),
            registry=registry,
        )
        self._start_seconds = Histogram(
            "visionagents_start_duration_seconds",
            "From asking for a session to its agent being built and joining, for starts that succeeded.",
            ("agent",),
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self._join_seconds = Histogram(
            "visionagents_join_duration_seconds",
            "From the begin of join_call to the agent being on the call.",
            ("agent",),
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self._ended = Counter(
            "visionagents_sessions_ended",
            "Sessions of this worker that have ended, by reason.",
            ("agent", "reason"),
            registry=registry,
        )
        self._declared_lost = Counter(
            "visionagents_sessions_declared_lost",
            "Sessions of other workers, which died, that this worker declared lost.",
            registry=registry,
        )
        self._turn_seconds = Histogram(
            "visionagents_turn_duration_seconds",
            "From a person falling silent (or sending text) to the agent's voice, or its words where it has no voice.",
            ("agent", "how"),
            buckets=_TURN_BUCKETS,
            registry=registry,
        )
        self._turn_part_seconds = Histogram(
            "visionagents_turn_part_duration_seconds",
            "The parts of which that time is made.",
            ("agent", "part"),
            buckets=_PART_BUCKETS,
            registry=registry,
        )
        self._interrupted = Counter(
            "visionagents_turns_interrupted",
            "Answers that were cut before they were over.",
            ("agent",),
            registry=registry,
        )
        self._errors = Counter(
            "visionagents_agent_errors",
            "Errors that agents reported, by component: llm, stt, tts, realtime, handler.",
            ("agent", "component"),
            registry=registry,
        )

    def know(self, agent: str) -> None:
        """Have an agent's counters there, at 0, before the first time: a rate needs a value to begin from."""
        if agent in self._known:
            return
        self._known.add(agent)
        for outcome in OUTCOMES:
            self._starts.labels(agent, outcome)
        for reason in EndReason.values:
            self._ended.labels(agent, reason)
        self._start_seconds.labels(agent)
        self._join_seconds.labels(agent)
        self._interrupted.labels(agent)
        self._placed.labels(agent)

    @contextmanager
    def starting(self, agent: str) -> Iterator[None]:
        """Count the start of a session by how this block ends, and time it."""
        began = time.perf_counter()
        outcome = "error"
        try:
            yield
            outcome = "started"
        except Exception as error:
            outcome = _outcome(error)
            raise
        finally:
            self._starts.labels(agent, outcome).inc()
            if outcome == "started":
                self._start_seconds.labels(agent).observe(time.perf_counter() - began)

    def refused(self, agent: str) -> None:
        """Count a start that was not even tried, because the worker takes none now."""
        self._starts.labels(agent, "not_ready").inc()

    def placed(self, agent: str) -> None:
        """Count a start that was refused here and went well on another worker."""
        self._placed.labels(agent).inc()

    def joined(self, agent: str, seconds: float) -> None:
        self._join_seconds.labels(agent).observe(seconds)

    def ended(self, agent: str, reason: str) -> None:
        self._ended.labels(agent, reason).inc()

    def declared_lost(self, count: int) -> None:
        self._declared_lost.inc(count)

    def happened(self, agent: str, event: Observed) -> None:
        """Take note of what an agent did."""
        if event.kind == "turn":
            self._turn(agent, event.data)
        elif event.kind == "error":
            self._errors.labels(agent, str(event.data.get("component", "")) or "other").inc()

    def _turn(self, agent: str, data: dict[str, Any]) -> None:
        how = "text" if data.get("how") == "text" else "speech"
        if (total := data.get("total_ms")) is not None:
            self._turn_seconds.labels(agent, how).observe(total / 1000)
        for part in PARTS:
            if (ms := data.get(f"{part}_ms")) is not None:
                self._turn_part_seconds.labels(agent, part).observe(ms / 1000)
        if data.get("interrupted"):
            self._interrupted.labels(agent).inc()


def _outcome(error: Exception) -> str:
    match error:
        case SessionLimitExceeded():
            return "limit_reached"
        case NotReady():
            return "not_ready"
        case StartTimeout():
            return "timed_out"
        case StartFailed():
            return "closed" if error.closed else "failed"
        case _:
            return "error"
