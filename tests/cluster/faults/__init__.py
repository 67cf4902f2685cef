"""The faults, each a coroutine that takes a `Stage` on which a fleet runs, breaks something, and makes it whole again.

What it asserts itself is what users would see; the invariant is judged after each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..databases import KINDS
from ..stage import Stage, prepared_stage
from . import clock, deploys, disk, network, processes, redis, server

SERVERS = ("postgresql", "mariadb")


@dataclass(frozen=True)
class Fault:
    name: str
    run: Callable[[Stage], Awaitable[None]]
    databases: tuple[str, ...] = KINDS

    @property
    def text(self) -> str:
        return (self.run.__doc__ or "").partition("\n")[0]


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("kill", processes.kill),
        Fault("pause", processes.pause),
        Fault("long-pause", processes.long_pause),
        Fault("redis-restart", redis.restart),
        Fault("redis-loss", redis.loss),
        Fault("database-restart", server.restart, SERVERS),
        Fault("database-crash", server.crash, SERVERS),
        Fault("database-away", server.away, SERVERS),
        Fault("connections", server.connections, SERVERS),
        Fault("pool-exhausted", server.pool, ("postgresql",)),
        Fault("network-cut", network.cut, SERVERS),
        Fault("cut-in-transaction", network.cut_in_transaction, SERVERS),
        Fault("clock-skew", clock.skew, SERVERS),
        Fault("disk-full", disk.full, ("sqlite",)),
        Fault("start-burst", deploys.burst),
        Fault("two-deploys", deploys.two_deploys),
    )
}


@asynccontextmanager
async def stage_for(fault: Fault, kind: str, **options: Any) -> AsyncIterator[Stage]:
    """Set a stage for one fault."""
    with ExitStack() as stack:
        if fault.run is disk.full:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="visionagents_disk_")))
            options["database_folder"] = stack.enter_context(disk.small_disk(folder / "disk"))
        async with prepared_stage(kind, **options) as stage:
            yield stage
