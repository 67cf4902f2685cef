"""Workers that are told to go: in the middle of starts, and while two deploys replace the fleet at once."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta

from ..databases import utc
from ..processes import WorkerProcess
from ..stage import Stage
from ..trace import now

_GOING_SECONDS = 2.0
"""What a process may take to end once it has given up its connections."""
_EARLY = timedelta(seconds=0.5)
"""Signals, clocks and the harness itself may be so much apart."""


async def burst(stage: Stage) -> None:
    """SIGTERM in the middle of a burst of starts: each is answered or not, and ends either way."""
    fleet = stage.fleet
    ends: Counter[str] = Counter()
    for delay in (0.05, 0.2, 0.5) if stage.long else (0.15,):
        victim = next(worker for worker in fleet.workers if worker.answers)
        starting = asyncio.create_task(fleet.client.start_many(40, via=victim, at_once=40, build=0.3))
        await asyncio.sleep(delay)
        codes = await fleet.terminate([victim])
        gone_at = now()
        asked = await starting
        answers = Counter(each.status for each in asked)
        stage.tell(f"SIGTERM after {delay:g} s: answers {dict(sorted(answers.items()))}")
        assert codes == [0], f"it ended with {codes}:\n{victim.tail()}"
        odd = [f"{each.status} {each.detail[:200]}" for each in asked if each.status not in {201, 503, 0}]
        assert not odd, odd
        early = [
            f"{gone_at - each.answered:.2f} s before it had gone: {each.detail}"
            for each in asked
            if not each.status and gone_at - each.answered > _GOING_SECONDS
        ]
        assert not early, f"starts got no answer while the process was there: {early}"
        calls = {each.call_id for each in asked}
        ends.update(row["end_reason"] for row in await fleet.sessions() if row["call_id"] in calls)
        await stage.replenish()
    assert ends["drained"], f"SIGTERM came too early or too late: {ends}"


async def two_deploys(stage: Stage) -> None:
    """Two deploys replace the fleet at the same time: nobody drops a call before its drain time."""
    fleet = stage.fleet
    drain = fleet.times["DRAIN_TIMEOUT"]
    old = [worker for worker in fleet.workers if worker.answers]
    begun = await stage.begin()
    lasting = {session_id: worker for worker, sessions in begun.items() for session_id in sessions}
    told: dict[WorkerProcess, datetime] = {}
    first: list[WorkerProcess] = []

    async def deploy(replaced: list[WorkerProcess], count: int, mine: list[WorkerProcess]) -> None:
        """Start new workers; whenever one is ready, tell an old one to go, and in the end all that are left."""
        new = fleet.launch(count)
        mine += new
        for worker in new:
            await fleet.ready(worker)
            await tell(replaced[:1])
        await tell(replaced)

    async def tell(workers: list[WorkerProcess]) -> None:
        for worker in [each for each in workers if each.alive and not each.leaving]:
            # Calls that end by themselves are to do so.
            brief = await fleet.client.start_many(2, via=worker, seconds=drain / 2)
            finishing.update(asked.session_id for asked in brief if asked.accepted)
            if worker.leaving:
                continue  # the other deploy told it meanwhile, and a second signal would end its drain
            told[worker] = datetime.now(UTC)
            worker.send(signal.SIGTERM)

    finishing: set[str] = set()
    count = len(old) if stage.long else 2
    async with stage.traffic():
        older = list(old)
        # The second one knows only of the old workers and of those of the first: it replaces both.
        await asyncio.gather(deploy(older, count, first), _later(deploy, [*old], count))
        await tell(first)
        await asyncio.gather(*(_gone(worker) for worker in [*old, *first]))
    rows = {row["id"]: row for row in await fleet.sessions()}
    for session_id, worker in lasting.items():
        row = rows[session_id]
        assert row["end_reason"] == "drained", f"{session_id} ended as {row['end_reason']}"
        went_on = utc(row["ended_at"]) - told[worker]
        assert went_on >= timedelta(seconds=drain) - _EARLY, f"{session_id} was dropped after {went_on}"
    assert finishing, "no call was to end by itself"
    for session_id in finishing:
        assert rows[session_id]["end_reason"] == "finished", f"{session_id} ended as {rows[session_id]['end_reason']}"
    stage.tell(
        f"{len(told)} workers replaced by {count} and {count}; {len(lasting)} calls went on until {drain:g} s after "
        f"SIGTERM, {len(finishing)} ended by themselves meanwhile"
    )
    refused = Counter(f"{a.status} {a.detail[:60]}" for a in fleet.client.asked if not a.accepted)
    stage.tell(f"starts not accepted: {dict(refused) or 'none'}")
    await stage.replenish()


async def _later(deploy: object, replaced: list[WorkerProcess], count: int) -> None:
    await deploy(replaced, count, [])  # type: ignore[operator]


async def _gone(worker: WorkerProcess) -> None:
    from ..processes import gone

    assert await gone(worker.process, 40) == 0, f"{worker} ended with {worker.process.returncode}:\n{worker.tail()}"
