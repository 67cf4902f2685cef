"""Redis gone, or forgetful: everything still works within one poll interval."""

from __future__ import annotations

import asyncio

from ..processes import WorkerProcess
from ..stage import Stage
from ..trace import now

_MARGIN = 1.0
_QUICK_AGAIN_SECONDS = 10.0
_QUICK = 0.25
"""The part of a poll interval in which a close is certainly not the poll's: what polls find, one after another on three
workers, takes a whole interval from each to itself again, so that one of the three takes a third of it."""


async def restart(stage: Stage) -> None:
    """Redis stopped and started: closes through other workers take a poll interval, and are quick again afterwards."""
    fleet = stage.fleet
    begun = await stage.begin()
    async with stage.traffic():
        await stage.redis.stop()
        await asyncio.sleep(1.0)
        slow = max(await _close_elsewhere(stage, begun, 2))
        assert slow < fleet.poll + _MARGIN, f"a close without Redis took {slow:.2f} s"
        await asyncio.sleep(10.0 if stage.long else 0.5)
        await stage.redis.start()
        took, quick = await _until_quick(stage)
    stage.tell(f"closed through another worker after {slow:.2f} s without Redis")
    stage.tell(f"after {quick:.3f} s with it back, {took:.1f} s after it was")


async def loss(stage: Stage) -> None:
    """Redis loses all that it holds, over and over: what was only a hint is found by the poll."""
    fleet = stage.fleet
    begun = await stage.begin()
    times: list[float] = []
    async with stage.traffic():
        losing = asyncio.create_task(stage.redis.forget_all(30.0 if stage.long else 4.0, every=0.02))
        while not losing.done():
            times += await _close_elsewhere(stage, begun, 2)
            begun = await stage.begin(on_each=2)
        forgotten = await losing
    worst, late = max(times), sum(each >= _QUICK * fleet.poll for each in times)
    stage.tell(
        f"everything forgotten {forgotten} times, {late} of {len(times)} closes found late, {worst:.2f} s at most"
    )
    assert forgotten, "there was nothing to forget"
    assert late, "no message was lost"
    assert worst < fleet.poll + _MARGIN, f"a close took {worst:.2f} s"


async def _until_quick(stage: Stage) -> tuple[float, float]:
    """Wait until closes through other workers are no longer the poll's; returns how long that took, and they."""
    began = now()
    while True:
        quick = max(await _close_elsewhere(stage, await stage.begin(on_each=2), 2))
        took = now() - began
        if quick < _QUICK * stage.fleet.poll:
            return took, quick
        assert took < _QUICK_AGAIN_SECONDS, f"closes with Redis back still take {quick:.2f} s, {took:.1f} s later"


async def _close_elsewhere(stage: Stage, begun: dict[WorkerProcess, list[str]], on_each: int) -> list[float]:
    """Close sessions of each worker through another one, one after another; returns how long each took.

    That is from the request until the agent had closed, whenever the row tells of it.
    """
    fleet = stage.fleet
    assert len(begun) > 1, "there is no other worker"
    times = []
    for _ in range(on_each):
        for worker, sessions in begun.items():
            session_id = sessions.pop()
            other = fleet.client.some_worker(worker)
            assert other is not worker
            sent = now()
            assert await fleet.client.end(session_id, via=other), fleet.client.failures[-1:]
            times.append(await _closed(stage, session_id) - sent)
    return times


async def _closed(stage: Stage, session_id: str) -> float:
    """Wait until an agent has closed; returns when."""
    at: list[float] = []

    async def has() -> bool:
        runs = await asyncio.to_thread(stage.fleet.runs)
        at.extend(run.closed for run in runs if run.session_id == session_id and run.closed is not None)
        return bool(at)

    await stage.until(f"the agent of {session_id} has closed", has, stage.fleet.poll + 20.0)
    return at[0]
