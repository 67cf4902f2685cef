"""Processes that die, stop, or are told to go."""

from __future__ import annotations

import asyncio
import signal

from ..processes import WorkerProcess
from ..stage import Stage

_MARGIN = 15.0
"""Seconds that a busy machine may add to anything."""


async def kill(stage: Stage) -> None:
    """kill -9 a worker: its sessions are lost at once, those of others go on, and everybody can read that."""
    fleet = stage.fleet
    kinds = ["default", "restarted"]
    for _ in range(3 if stage.long else 1):
        begun = await stage.begin(agents=kinds)
        victim = fleet.client.random.choice(list(begun))
        async with stage.traffic():
            await asyncio.sleep(0.5)
            victim.kill()
            took = await stage.until_all_are(begun[victim], "lost", seconds=_MARGIN)
            stage.tell(f"lost {took:.2f} s after kill -9")
        for other, sessions in begun.items():
            if other is not victim:
                assert await stage.all_are(sessions, "active"), "a worker's death concerns no other one"
        for session_id in begun[victim]:
            seen = await fleet.client.get(session_id)
            assert seen is not None
            assert seen["end_reason"] == "worker_lost"
        await _started_again(stage, begun[victim])
        await stage.replenish()


async def pause(stage: Stage) -> None:
    """SIGSTOP for twice the time-to-live, then SIGCONT: unreachable meanwhile, then taken back, and none is lost."""
    fleet = stage.fleet
    begun = await stage.begin()
    victim, *others = begun
    sessions = begun[victim]
    asked_to_end = sessions[0]
    async with stage.traffic():
        await _stop(victim)
        began = asyncio.get_running_loop().time()
        await stage.until_all_are(sessions, "unreachable", seconds=fleet.ttl + _MARGIN)
        assert await fleet.client.end(asked_to_end, via=others[0])
        assert await fleet.client.get(sessions[1], via=others[0])
        await asyncio.sleep(max(0.0, began + 2 * fleet.ttl - asyncio.get_running_loop().time()))
        victim.send(signal.SIGCONT)
    await stage.until_all_are([asked_to_end], "closed", "lost", seconds=_MARGIN)
    await stage.until_all_are(sessions[1:], "active", "lost", seconds=_MARGIN)
    lost = (await stage.states(sessions)).count("lost")
    # Nothing but a machine that is busier than the grace allows makes it so.
    stage.tell(f"{len(sessions) - 1 - lost} of {len(sessions) - 1} taken back")


async def long_pause(stage: Stage) -> None:
    """SIGSTOP until its sessions are lost, then SIGCONT: it closes what it still runs, and works again."""
    fleet = stage.fleet
    kinds = ["default", "restarted"]
    begun = await stage.begin(agents=kinds)
    victim = next(iter(begun))
    async with stage.traffic():
        await _stop(victim)
        await stage.until_all_are(begun[victim], "lost", seconds=fleet.until_lost + _MARGIN)
        await _started_again(stage, begun[victim])
        victim.send(signal.SIGCONT)

        async def quiet() -> bool:
            return not set(await fleet.running_on(victim)) & set(begun[victim])

        took = await stage.until("it closes the agents of lost sessions", quiet, _MARGIN)
        stage.tell(f"its agents were closed {took:.2f} s after SIGCONT")
    again = await fleet.client.start(via=victim)
    assert again.accepted, f"a worker that came back takes sessions: {again.detail}"


async def _stop(worker: WorkerProcess) -> None:
    worker.send(signal.SIGSTOP)


async def _started_again(stage: Stage, lost: list[str]) -> None:
    """Each of the sessions that may be started again is, once, elsewhere."""
    rows = {row["id"] for row in await stage.rows_of(lost) if row["agent"] == "restarted"}

    async def again() -> bool:
        live = await stage.fleet.sessions("restart_of_id IS NOT NULL")
        return rows <= {row["restart_of_id"] for row in live if row["status"] == "active"}

    took = await stage.until("what may be is started again", again, _MARGIN)
    stage.tell(f"{len(rows)} started again after {took:.2f} s")
