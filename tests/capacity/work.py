"""What workers ask of a database and of Redis, one kind at a time, over and over: one process of `tests.capacity`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

Work = Callable[[], int]
"""Does one piece of work, and returns how many of what is counted it was."""

MESSAGES = "message to another worker"
_CALLS = 15
"""Of one worker."""
_EVENTS_A_CALL = 2


def _worker(index: int) -> Any:
    from visionagents_runner.models import Worker

    return Worker.objects.create(hostname=f"host-{index}", pid=index + 1, agents={"default": 100})


def _sessions(worker: Any, number: int = _CALLS) -> list[Any]:
    from visionagents_runner.models import AgentSession

    rows = []
    for _ in range(number):
        row = AgentSession(call_id=uuid.uuid4().hex, worker=worker, status="active", started_at=datetime.now(UTC))
        row.insert()
        rows.append(row)
    return rows


def heartbeat(index: int) -> Work:
    from visionagents_runner.store import worker_rows

    worker = _worker(index)
    _sessions(worker)
    lag = {"p50": 0.001, "p99": 0.01, "longest": 0.02, "share": 0.0}

    def work() -> int:
        worker_rows._beat(worker, False, {"loop_lag": lag, "capacity": 100, "agents": {"default": 100}})
        return 1

    return work


def poll(index: int) -> Work:
    """All that a worker looks for each POLL_INTERVAL."""
    from visionagents_runner.models import Worker
    from visionagents_runner.store import queued_rows, session_rows

    worker = _worker(index)
    _sessions(worker)

    def work() -> int:
        Worker.objects.filter(pk=worker.pk, drain_requested_at__isnull=False).exists()
        session_rows._wanted_of(worker.pk, 10.0)
        queued_rows._due(["default"], 4, 0.0)
        return 1

    return work


def look_after(index: int) -> Work:
    """Each HEARTBEAT_INTERVAL: whether all is well with its own sessions, and with workers of its machine."""
    from visionagents_runner.models import AgentSession
    from visionagents_runner.store import session_rows, worker_rows
    from visionagents_runner.utils.process import identify

    worker, identity = _worker(index), identify()
    keys = [row.pk for row in _sessions(worker)]

    def work() -> int:
        session_rows._ended_among(keys)
        list(AgentSession.objects.live().filter(worker_id=worker.pk).order_by().values_list("pk", flat=True))
        worker_rows._reap(worker, identity, lambda: True, 3600.0)  # another one's turn to look after all
        return 1

    return work


def event(index: int) -> Work:
    """What the recorder of a worker with 15 calls writes at a time."""
    from visionagents_runner.models import EventLine, SessionEvent

    rows = _sessions(_worker(index))
    data = {"participant_id": "guest-123456789abc", "text": "What time is it, and how long will that take? " * 2}

    def work() -> int:
        now = datetime.now(UTC)
        lines = [EventLine(row.pk, "message", now, data) for row in rows for _ in range(_EVENTS_A_CALL)]
        SessionEvent.objects.append(lines)
        return len(lines)

    return work


def metrics(index: int) -> Work:
    """What a worker with 15 calls writes each METRICS_INTERVAL."""
    from visionagents_runner.store import session_rows

    rows = _sessions(_worker(index))
    numbers = {f"llm_metric_{number}__total": number * 1.5 for number in range(25)}

    def work() -> int:
        session_rows._save_metrics({row.pk: numbers for row in rows}, {})
        return len(rows)

    return work


def start(index: int, **limits: int) -> Work:
    from visionagents_runner.models import AgentSession
    from visionagents_runner.store import session_limits

    worker = _worker(index)
    begun: list[Any] = []

    def work() -> int:
        row = AgentSession(id=uuid.uuid4(), call_id=uuid.uuid4().hex, worker_id=worker.pk)
        row.created_at = datetime.now(UTC)
        session_limits._admit(row, session_limits.Limits(per_worker=10**6, per_call=3, **limits), None)
        row.mark_active(agent_id="agent")
        row.mark_joined()
        begun.append(row)
        if len(begun) > 10 * _CALLS:  # a worker does not fill up
            AgentSession.objects.filter(pk__in=[each.pk for each in begun]).update(
                status="closed", end_reason="finished", ended_at=datetime.now(UTC)
            )
            begun.clear()
        return 1

    return work


def start_under_one_limit(index: int) -> Work:
    return start(index, in_all=10**6)


def dispatch(index: int) -> Work:
    """Queue one, find it, claim it."""
    from visionagents_runner.models import AgentSession, SessionStatus
    from visionagents_runner.store import queued_rows, session_limits

    worker = _worker(index)

    def work() -> int:
        row = AgentSession(id=uuid.uuid4(), call_id=uuid.uuid4().hex, status=SessionStatus.QUEUED)
        row.created_at = datetime.now(UTC)
        row.insert()
        list(AgentSession.objects.due().filter(agent__in=["default"])[:4])
        row.worker_id = worker.pk
        queued_rows._claim(row, session_limits.Limits(), False)
        AgentSession.objects.filter(pk=row.pk).update(
            status="closed", end_reason="finished", ended_at=datetime.now(UTC)
        )
        return 1

    return work


def close(index: int) -> Work:
    """A close that was asked of another worker, and the end."""
    from visionagents_runner.models import EndReason
    from visionagents_runner.store import session_rows

    worker = _worker(index)
    rows: list[Any] = _sessions(worker, 2000)

    def work() -> int:
        if not rows:
            rows.extend(_sessions(worker, 200))
        row = rows.pop()
        session_rows.request_close_sync([row.pk], by="operator")
        row.finish(EndReason.REQUESTED)
        return 1

    return work


def read(index: int) -> Work:
    """GET of a session that runs elsewhere."""
    from visionagents_runner.models import AgentSession

    rows = _sessions(_worker(index))

    def work() -> int:
        AgentSession.objects.filter(pk=rows[0].pk).first()
        return 1

    return work


KINDS: dict[str, Callable[[int], Work]] = {
    "heartbeat": heartbeat,
    "poll": poll,
    "look after others": look_after,
    "event": event,
    "metrics snapshot": metrics,
    "start": start,
    "start, with MAX_SESSIONS": start_under_one_limit,
    "dispatch and claim": dispatch,
    "close": close,
    "read": read,
}


async def exchange(index: int, number: int, seconds: float) -> int:
    """Send messages to the next process as workers do, and return how many this one received."""
    from channels.layers import get_channel_layer  # type: ignore[import-untyped]

    from visionagents_runner.messaging.layer import Link, worker_group

    link = Link(get_channel_layer())
    received = 0

    def take(message: Any) -> None:
        nonlocal received
        received += 1

    leave = link.join(worker_group(uuid.UUID(int=index)), take)
    target = worker_group(uuid.UUID(int=(index + 1) % number))
    await asyncio.sleep(1.0)  # all have entered their groups
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if link.waiting < 16:
            link.send(target, {"type": "control.close", "sessions": [str(uuid.uuid4())], "by": "operator"})
        else:
            await asyncio.sleep(0)
    leave()
    return received


def main() -> None:
    import django

    kind, index, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    django.setup()
    if kind == MESSAGES:
        _say("ready")
        _say(asyncio.run(exchange(index, number, float(sys.stdin.readline()))))
        return
    work = KINDS[kind](index)
    work()
    _say("ready")
    _say(sum(_repeat(work, float(sys.stdin.readline()))))


def _repeat(work: Work, seconds: float) -> Iterator[int]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield work()


def _say(what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
