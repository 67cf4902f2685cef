"""Processes that die, stop, or are told to go."""

from __future__ import annotations

import asyncio
import signal

from ..stage import Stage
from ..trace import now

_MARGIN = 15.0
"""Seconds that a busy machine may add to anything."""
_CERTAIN = 2.0
"""By how much a silence is shorter than what makes sessions lost, if certainly none of them may be: the last heartbeat
came a while before it, and the next one takes a while."""
_TRIES = 3


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
    for _ in range(_TRIES):
        silence = await _pause(stage)
        if silence is None:
            return
        stage.tell(f"the machine was so busy that the pause took {silence:.1f} s")
    raise AssertionError(f"The machine is too busy: {_TRIES} pauses were longer than the grace allows")


async def _pause(stage: Stage) -> float | None:
    """Returns how long the silence was, if it was too long to tell anything; else None."""
    fleet = stage.fleet
    begun = await stage.begin()
    victim, *others = begun
    sessions = begun[victim]
    # Their worker cannot stop these in time, and must not wait for their agents when it goes on.
    again = await stage.begin_on(victim, 2, "restarted", closing=1.25 * fleet.ttl)
    asked_to_end = sessions[0]
    async with stage.traffic():
        began = now()
        victim.send(signal.SIGSTOP)
        await stage.until_all_are(sessions, "unreachable", "lost", seconds=fleet.ttl + _MARGIN)
        assert await fleet.client.end(asked_to_end, via=others[0])
        assert await fleet.client.get(sessions[1], via=others[0])
        await _started_again(stage, again)
        await asyncio.sleep(max(0.0, began + 2 * fleet.ttl - now()))
        victim.send(signal.SIGCONT)
        silence = now() - began
    if silence > fleet.until_lost - _CERTAIN:
        return silence
    await stage.until_all_are([asked_to_end], "closed", seconds=_MARGIN)
    await stage.until_all_are(sessions[1:], "active", seconds=_MARGIN)
    stage.tell(f"all {len(sessions) - 1} taken back after {silence:.1f} s of silence")
    return None


async def long_pause(stage: Stage) -> None:
    """SIGSTOP until its sessions are lost, then SIGCONT: it closes what it still runs, and works again."""
    fleet = stage.fleet
    kinds = ["default", "restarted"]
    begun = await stage.begin(agents=kinds)
    victim = next(iter(begun))
    async with stage.traffic():
        victim.send(signal.SIGSTOP)
        await stage.until_all_are(begun[victim], "lost", seconds=fleet.until_lost + _MARGIN)
        await _started_again(stage, begun[victim])
        victim.send(signal.SIGCONT)

        async def quiet() -> bool:
            return not set(await fleet.running_on(victim)) & set(begun[victim])

        took = await stage.until("it closes the agents of lost sessions", quiet, _MARGIN)
        stage.tell(f"its agents were closed {took:.2f} s after SIGCONT")
    again = await fleet.client.start(via=victim)
    assert again.accepted, f"a worker that came back takes sessions: {again.detail}"


async def _started_again(stage: Stage, lost: list[str]) -> None:
    """Each of the sessions that may be started again is, once, elsewhere."""
    rows = {row["id"] for row in await stage.rows_of(lost) if row["agent"] == "restarted"}

    async def again() -> bool:
        live = await stage.fleet.sessions("restart_of_id IS NOT NULL")
        return rows <= {row["restart_of_id"] for row in live if row["status"] == "active"}

    took = await stage.until("what may be is started again", again, _MARGIN)
    stage.tell(f"{len(rows)} started again after {took:.2f} s")
