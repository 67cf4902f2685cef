"""Workers whose clocks are wrong: what counts between workers is the database's clock."""

from __future__ import annotations

import asyncio
import json
import time

from tests.machine.requirements import require

from ..databases import Row, utc
from ..processes import WorkerProcess
from ..stage import Stage
from ..trace import now

_HOURS = 2
_LATER = 1.5
_EARLY = 0.75
_MARGIN = 30.0


async def skew(stage: Stage) -> None:
    """Clocks of workers two hours ahead and behind: nobody takes anybody for silent, and closes reach everybody."""
    fleet = stage.fleet
    # One place for sessions of a kind on each, so that a second one is placed elsewhere.
    narrow = {"CLUSTER_LIMITS": json.dumps({**fleet.limits, "worker": 1})}
    adding = [fleet.add(1, **_environment(f"{sign}{_HOURS}h"), **narrow) for sign in ("+", "-")]
    (ahead,), (behind,) = await asyncio.gather(*adding)
    for worker, hours in ((ahead, _HOURS), (behind, -_HOURS)):
        await _is_skewed(stage, worker, hours)
    begun = await stage.begin()
    everything = [session_id for sessions in begun.values() for session_id in sessions]
    async with stage.traffic():
        began = now()
        for worker in (ahead, behind):
            await _placed_elsewhere(stage, worker)
            await _starts_in_time(stage, worker)
        await _expire_in_time(stage, [ahead, behind])
        rest = (fleet.until_lost if stage.long else fleet.ttl) + 1.0 - (now() - began)
        await asyncio.sleep(max(0.0, rest))
    states = await stage.states(everything)
    assert not {"lost", "unreachable"} & set(states), states
    for worker, other in ((ahead, behind), (behind, ahead)):
        chosen = begun[worker][:2]
        await asyncio.gather(*(fleet.client.end(session_id, via=other) for session_id in chosen))
        took = await stage.until_all_are(chosen, "closed", seconds=fleet.poll + 10.0)
        stage.tell(f"closed through a worker {2 * _HOURS} hours away after {took:.2f} s")
    # Those that are left are drained by workers whose clocks are wrong.
    codes = await fleet.terminate([ahead, behind])
    assert codes == [0, 0], codes


async def _is_skewed(stage: Stage, worker: WorkerProcess, hours: int) -> None:
    """A library that could not be loaded would go unnoticed otherwise."""
    clocks = (await stage.fleet.client.read("/clocks/", via=worker)).json()
    assert abs(clocks["wall"] - time.time() - hours * 3600) < _MARGIN, f"the clock of {worker} is not {hours} hours off"
    assert abs(clocks["boot"] - now()) < _MARGIN, "only the wall clock is to be wrong"


async def _placed_elsewhere(stage: Stage, full: WorkerProcess) -> None:
    """A start that a worker has no room for is another one's, and nobody withdraws it for being late."""
    client = stage.fleet.client
    first, second = [await client.start("limited", via=full) for _ in range(2)]
    for asked in (first, second):
        assert asked.accepted, f"through {full}: {asked.status} {asked.detail}"
    assert first.session_id in await stage.fleet.running_on(full)
    assert second.session_id not in await stage.fleet.running_on(full)
    for asked in (first, second):
        await client.end(asked.session_id)


async def _starts_in_time(stage: Stage, via: WorkerProcess) -> None:
    """What is dispatched for a while from now starts then, and is not too late before."""
    fleet = stage.fleet
    asked = await fleet.client.dispatch(via=via, at=_LATER, expires_at=_LATER + _MARGIN)
    sent = asked.answered
    assert asked.accepted, asked.detail

    async def runs() -> bool:
        began.extend(run.began for run in await asyncio.to_thread(fleet.runs) if run.session_id == asked.session_id)
        return bool(began)

    began: list[float] = []
    await stage.until(f"what {via} dispatched has started", runs, _LATER + _MARGIN)
    # The row was written a moment before it was answered.
    assert began[0] - sent > _LATER - _EARLY, f"it started after {began[0] - sent:.2f} s"
    stage.tell(f"started {began[0] - sent:.2f} s after {via} dispatched it for {_LATER:g} s later")


async def _expire_in_time(stage: Stage, through: list[WorkerProcess]) -> None:
    """What nobody has room for ends when its time is over, and not before."""
    client = stage.fleet.client
    only = await client.start("single")
    assert only.accepted, only.detail
    waiting = [await client.dispatch("single", via=worker, expires_at=_LATER) for worker in through]
    assert all(asked.accepted for asked in waiting), [asked.detail for asked in waiting]
    keys = [asked.session_id for asked in waiting]
    await stage.until_all_are(keys, "failed", seconds=_LATER + _MARGIN)
    for row in await stage.rows_of(keys):
        assert row["end_reason"] == "expired", row["end_reason"]
        waited = (utc(row["ended_at"]) - utc(row["expires_at"])).total_seconds()
        assert 0 <= waited < _MARGIN, f"it ended {waited:.2f} s after its time"
        # Both are the database's.
        lasted = utc(row["expires_at"]) - min(utc(event["at"]) for event in await _events(stage, row["id"]))
        assert abs(lasted.total_seconds() - _LATER) < _EARLY, f"it was given {lasted} instead of {_LATER:g} s"
    assert await client.end(only.session_id), client.failures[-1:]


async def _events(stage: Stage, session_id: str) -> list[Row]:
    rows = await stage.fleet.rows("SELECT session_id, at FROM visionagents_runner_sessionevent")
    return [row for row in rows if row["session_id"] == session_id]


def _environment(skew: str) -> dict[str, str]:
    return {
        "LD_PRELOAD": require("faketime"),
        "FAKETIME": skew,
        # A skew is one of the wall clock; what an interval lasts is not touched.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
