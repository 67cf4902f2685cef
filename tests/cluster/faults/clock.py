"""Workers whose clocks are wrong: what counts between workers is the database's clock."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ..services import Missing
from ..stage import Stage

_HOURS = 2


async def skew(stage: Stage) -> None:
    """Clocks of workers two hours ahead and behind: nobody takes anybody for silent, and closes reach everybody."""
    fleet = stage.fleet
    ahead, behind = [(await fleet.add(1, **_environment(f"{sign}{_HOURS}h")))[0] for sign in ("+", "-")]
    begun = await stage.begin()
    everything = [session_id for sessions in begun.values() for session_id in sessions]
    async with stage.traffic():
        await asyncio.sleep(fleet.until_lost + 1.0 if stage.long else fleet.ttl + 1.0)
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


def _environment(skew: str) -> dict[str, str]:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise Missing("libfaketime is not installed: apt-get install faketime")
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME": skew,
        # A skew is one of the wall clock; what an interval lasts is not touched.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
