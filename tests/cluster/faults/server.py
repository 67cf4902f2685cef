"""A database server that goes, crashes, stays away, or has no connection left. Calls go on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.machine.servers import DatabaseServer

from ..databases import connect, refusal
from ..stage import Stage

_MARGIN = 20.0
_NEARLY_ALL = 0.95


async def restart(stage: Stage) -> None:
    """The database restarted: agents talk on, requests fail or wait meanwhile, and work again at once."""
    await _interrupt(stage, crash=False, seconds=10.0 if stage.long else 1.0)


async def crash(stage: Stage) -> None:
    """The database crashed and recovered: what it had confirmed is there, and histories have no gaps."""
    await _interrupt(stage, crash=True, seconds=1.0)


async def away(stage: Stage) -> None:
    """The database away for longer than workers may be silent: whatever was declared then, each session ends once."""
    await _interrupt(stage, crash=False, seconds=stage.fleet.until_lost + 2.0)


async def _interrupt(stage: Stage, *, crash: bool, seconds: float) -> None:
    server = _server(stage)
    begun = await stage.begin()
    mine = {session_id for sessions in begun.values() for session_id in sessions}
    async with stage.traffic():
        await asyncio.sleep(0.5)
        before = await _running(stage)
        await server.stop(crash=crash)
        await asyncio.sleep(seconds)
        during = await _running(stage)
        assert mine & before <= during, "calls go on while the database is away"
        await server.start()
        took = await _works_again(stage)
    stage.tell(f"starts work {took:.2f} s after it is back")
    await all_went_on(stage, mine)


async def connections(stage: Stage) -> None:
    """No connection left, and those of the workers cut: they come back when there are some again."""
    server, fleet = _server(stage), stage.fleet
    begun = await stage.begin()
    mine = {session_id for sessions in begun.values() for session_id in sessions}
    held: list[Any] = []
    async with stage.traffic():
        await asyncio.sleep(0.5)
        deadline = time.monotonic() + (fleet.until_lost + 2 if stage.long else fleet.ttl)
        try:
            await asyncio.to_thread(_take_all, server, held)
            starting = [asyncio.create_task(fleet.client.start(via=worker)) for worker in begun]
            while time.monotonic() < deadline:
                # Workers take a connection now and then; it is taken from them.
                await asyncio.to_thread(_take_all, server, held)
                await asyncio.sleep(0.2)
            during = await _running(stage)
        finally:
            for connection in held:
                connection.close()
        assert mine <= during, "calls go on without a connection"
        took = await _works_again(stage)
        refused = [asked for asked in await asyncio.gather(*starting) if not asked.accepted]
    stage.tell(f"{len(held)} connections held, {len(refused)} of {len(starting)} starts refused meanwhile")
    stage.tell(f"starts work {took:.2f} s later")
    assert len(held) >= _NEARLY_ALL * server.max_connections, f"only {len(held)} connections were held"
    assert refused, "no start was refused while there was no connection"
    await all_went_on(stage, mine)


async def pool(stage: Stage) -> None:
    """The project's own pool of connections exhausted by its slow code: the runtime has connections of its own."""
    fleet = stage.fleet
    (worker,) = await fleet.add(1, CLUSTER_POOL="2", CLUSTER_SLOW="1.5")
    mine = await stage.begin_on(worker, 4)
    statuses: Counter[int] = Counter()

    async def ask(path: str) -> None:
        while not done.is_set():
            statuses[(await fleet.client.read(path, via=worker)).status_code] += 1

    done = asyncio.Event()
    slow = ("/metrics", "/slow/?seconds=1.5")
    asking = [asyncio.create_task(ask(path)) for path in slow for _ in range(6)]
    try:
        async with stage.traffic():
            deadline = time.monotonic() + (fleet.until_lost + 2 if stage.long else 2 * fleet.ttl)
            times = []
            while time.monotonic() < deadline:
                began = time.monotonic()
                asked = await fleet.client.start(via=worker)
                times.append(time.monotonic() - began)
                assert asked.accepted, f"a start waits for none of the project's connections: {asked.detail}"
                assert await fleet.client.end(asked.session_id), fleet.client.failures[-1:]
                await stage.until_all_are([asked.session_id], "closed", seconds=fleet.poll + _MARGIN)
                # Its heartbeats go on. One may be late where the machine is busy.
                await stage.until_all_are(mine, "active", seconds=fleet.ttl / 2)
    finally:
        done.set()
        await asyncio.gather(*asking)
    stage.tell(f"slow requests: {dict(statuses)}; {len(times)} starts meanwhile, {max(times):.2f} s at most")
    assert statuses[500] + statuses[503] > statuses[200], "the pool was not exhausted"

    async def answers() -> bool:
        return {(await fleet.client.read(path, via=worker)).status_code for path in slow} == {200}

    await stage.until("the project's code has connections again", answers, _MARGIN)
    await stage.settled()
    codes = await fleet.terminate([worker])
    assert codes == [0], f"it ended with {codes}:\n{worker.tail()}"


async def all_went_on(stage: Stage, sessions: Iterable[str]) -> None:
    """Nobody is declared lost for an outage that hit everybody."""
    wanted = list(sessions)

    async def decided() -> bool:
        return not set(await stage.states(wanted)) & {"unreachable", "starting"}

    # Some worker may have been the last to come back, and others thought that it had gone.
    await stage.until("it is known which sessions went on", decided, _MARGIN)
    ended = [
        f"{row['id']} {row['end_reason']} {row['error'][-200:]}"
        for row in await stage.rows_of(wanted)
        if row["status"] != "active"
    ]
    assert not ended, f"{len(ended)} of {len(wanted)} calls did not go on: {ended}"
    stage.tell(f"all {len(wanted)} calls went on")


def _take_all(server: DatabaseServer, held: list[Any]) -> None:
    """Take every connection that is left, then cut those of others, and take these too."""
    _take(server, held)
    if not held:
        return
    own = held[0].cursor()
    if server.kind == "postgresql":
        own.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'visionagents%'")
    else:
        own.execute("SELECT id FROM information_schema.processlist WHERE db LIKE 'visionagents%'")
        for (number,) in own.fetchall():
            with contextlib.suppress(refusal(server.kind)):  # it has gone by itself
                own.execute(f"KILL {number}")
    _take(server, held)


def _take(server: DatabaseServer, held: list[Any]) -> None:
    with contextlib.suppress(refusal(server.kind)):  # there is none left
        while len(held) < server.max_connections:
            held.append(connect(server.url))


async def _works_again(stage: Stage) -> float:
    """Wait until each worker starts sessions; returns how long that took."""
    began = time.monotonic()
    for worker in [each for each in stage.fleet.workers if each.answers]:

        async def starts(worker: Any = worker) -> bool:
            return (await stage.fleet.client.start(via=worker)).accepted

        await stage.until(f"{worker} starts sessions", starts, _MARGIN)
    return time.monotonic() - began


async def _running(stage: Stage) -> set[str]:
    """Return the sessions whose agents run in some living process, by their traces."""
    pids = {worker.pid for worker in stage.fleet.living}
    runs = await asyncio.to_thread(stage.fleet.runs)
    return {run.session_id for run in runs if run.stopped is None and run.pid in pids}


def _server(stage: Stage) -> DatabaseServer:
    assert stage.server is not None, "this fault needs a database server of its own"
    return stage.server
