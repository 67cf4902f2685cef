"""A database server that goes, crashes, stays away, or has no connection left. Calls go on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from ..databases import connect
from ..services import DatabaseServer
from ..stage import Stage

_MARGIN = 20.0


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
    kept = (await stage.states(mine)).count("active")
    stage.tell(f"starts work {took:.2f} s after it is back; {kept} of {len(mine)} calls went on")


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
    kept = (await stage.states(mine)).count("active")
    stage.tell(f"{len(held)} connections held; starts work {took:.2f} s later; {kept} of {len(mine)} calls went on")


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
            with contextlib.suppress(Exception):  # it has gone by itself
                own.execute(f"KILL {number}")
    _take(server, held)


def _take(server: DatabaseServer, held: list[Any]) -> None:
    with contextlib.suppress(Exception):  # there is none left
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
