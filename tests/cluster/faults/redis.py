"""Redis gone, or forgetful: everything still works within one poll interval."""

from __future__ import annotations

import asyncio
import time

from ..stage import Stage

_MARGIN = 10.0


async def restart(stage: Stage) -> None:
    """Redis stopped and started: closes through other workers take a poll interval, and are quick again afterwards."""
    await stage.begin()
    async with stage.traffic():
        await stage.redis.stop()
        await asyncio.sleep(1.0)
        slow = await _close_elsewhere(stage)
        await asyncio.sleep(10.0 if stage.long else 0.5)
        await stage.redis.start()
        await asyncio.sleep(3.0)
    quick = await _close_elsewhere(stage)
    stage.tell(f"closed through another worker after {slow:.2f} s without Redis, {quick:.2f} s with it back")


async def loss(stage: Stage) -> None:
    """Redis loses all that it holds, over and over: what was only a hint is found by the poll."""
    await stage.begin()
    async with stage.traffic():
        losing = asyncio.create_task(stage.redis.forget_all(30.0 if stage.long else 4.0, every=0.02))
        worst = 0.0
        while not losing.done():
            worst = max(worst, await _close_elsewhere(stage))
            await stage.begin(on_each=1)
        times = await losing
    stage.tell(f"everything forgotten {times} times; closed through another worker after at most {worst:.2f} s")


async def _close_elsewhere(stage: Stage) -> float:
    """Close one session of each worker through another one; returns the longest time until its row had ended."""
    fleet = stage.fleet
    pairs = []
    for worker in [each for each in fleet.workers if each.answers]:
        if mine := await fleet.running_on(worker):
            pairs.append((mine[0], fleet.client.some_worker(worker)))
    began = time.monotonic()
    await asyncio.gather(*(fleet.client.end(session_id, via=other) for session_id, other in pairs))
    chosen = [session_id for session_id, _ in pairs]
    await stage.until_all_are(chosen, "closed", seconds=fleet.poll + _MARGIN)
    return time.monotonic() - began
