"""A worker that is cut off: in a network namespace of its own, with a cable to the database that is pulled."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tests.machine.requirements import require

from ..processes import WorkerProcess
from ..stage import Stage
from ..trace import now

_MARGIN = 20.0
_TRIES = 20
_PATIENCE = 3
_CERTAIN = 3.5
"""By how much a silence is shorter than what makes sessions lost, if certainly none of them may be: connections that
hung take seconds to be given up and made anew."""
_numbers = itertools.count()


class Cable:
    """Two links into a namespace: ``data``, which may be cut, and ``control``, by which clients ask."""

    def __init__(self) -> None:
        number = next(_numbers)
        self.namespace = f"va-{os.getpid()}-{number}"
        self._names = {kind: f"va{kind[0]}{os.getpid() % 100000}{number}" for kind in ("data", "control")}
        third = (os.getpid() * 4 + number * 2) % 250
        self._prefixes = {"data": f"10.213.{third}", "control": f"10.213.{third + 1}"}

    @property
    def outside(self) -> str:
        """The address at which the namespace finds services."""
        return f"{self._prefixes['data']}.1"

    @property
    def inside(self) -> str:
        """The address at which clients find what runs in the namespace."""
        return f"{self._prefixes['control']}.2"

    @property
    def wrap(self) -> list[str]:
        """The command that runs another one in the namespace."""
        return [_ip_program(), "netns", "exec", self.namespace]

    def make(self) -> None:
        _ip("netns", "add", self.namespace)
        self._inside("link", "set", "lo", "up")
        for kind, name in self._names.items():
            prefix = self._prefixes[kind]
            _ip("link", "add", name, "type", "veth", "peer", "name", f"{name}i", "netns", self.namespace)
            _ip("addr", "add", f"{prefix}.1/24", "dev", name)
            _ip("link", "set", name, "up")
            self._inside("addr", "add", f"{prefix}.2/24", "dev", f"{name}i")
            self._inside("link", "set", f"{name}i", "up")

    def cut(self) -> None:
        """Pull the cable: what is sent vanishes, and nobody is told."""
        _ip("link", "set", self._names["data"], "down")

    def mend(self) -> None:
        _ip("link", "set", self._names["data"], "up")

    def remove(self) -> None:
        for name in self._names.values():
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("link", "del", name)
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self.namespace)

    def _inside(self, *words: str) -> None:
        _ip("-n", self.namespace, *words)


async def cut(stage: Stage) -> None:
    """A worker cut off from database and Redis for less than its time-to-live, for more, and until it is lost."""
    fleet = stage.fleet
    async with _cut_off(stage) as (worker, cable):
        spans = {
            "less than the time-to-live": fleet.ttl * 0.5,
            "more than the time-to-live": fleet.ttl * 1.5,
            "until it is lost": fleet.until_lost + fleet.ttl,
        }
        for name in spans if stage.long else ("more than the time-to-live", "until it is lost"):
            for _ in range(_PATIENCE):
                if await _cut(stage, worker, cable, name, spans[name]):
                    break
            else:
                raise AssertionError(f"The machine is too busy: {_PATIENCE} cuts were longer than the grace allows")
        await stage.settled()
        codes = await fleet.terminate([worker])
        assert codes == [0], f"it ended with {codes}:\n{worker.tail()}"


async def _cut(stage: Stage, worker: WorkerProcess, cable: Cable, name: str, span: float) -> bool:
    """Returns False if the silence was too long to tell anything."""
    fleet = stage.fleet
    begun = await stage.begin_on(worker, 4)
    again = await stage.begin_on(worker, 3, "restarted")
    # Their worker stops these before others start them again, though their agents are not ready to.
    again += await stage.begin_on(worker, 2, "restarted", closing=1.25 * fleet.ttl)
    assert await stage.all_are([*begun, *again], "active"), await stage.states(begun)
    to_be_lost = span > fleet.until_lost
    async with stage.traffic():
        cable.cut()
        worker.leaving = True  # for the traffic: whoever asks it now waits in vain
        began = now()
        if to_be_lost:
            await stage.until_all_are(begun, "lost", seconds=fleet.until_lost + _MARGIN)
        elif span > fleet.ttl:
            await stage.until_all_are(begun, "unreachable", "lost", seconds=fleet.ttl + _MARGIN)
            seen = await fleet.client.get(begun[0], via=worker)
            assert seen is not None, "it answers for its own sessions from memory"
            assert seen["status"] == "active"
        await asyncio.sleep(max(0.0, began + span - now()))
        cable.mend()
        silence = now() - began

    async def starts() -> bool:
        return (await fleet.client.start(via=worker)).accepted

    await stage.until("it starts sessions again", starts, _MARGIN)
    worker.leaving = False
    if span > fleet.ttl:
        # Their own worker stopped these before others could start them again: the invariant says whether.
        await stage.until_all_are(again, "lost", seconds=_MARGIN)
        rows = await fleet.sessions("restart_of_id IS NOT NULL")
        started = {row["restart_of_id"] for row in rows if row["started_at"]} & set(again)
        assert started == set(again), f"{len(started)} of {len(again)} were started again elsewhere"
        stage.tell(f"{len(started)} of {len(again)} started again elsewhere")
    if to_be_lost:

        async def quiet() -> bool:
            return not set(await fleet.running_on(worker)) & set(begun)

        took = await stage.until("it closes the agents of lost sessions", quiet, _MARGIN)
        stage.tell(f"cut {name}: agents closed {took:.2f} s after it starts sessions again")
        return True
    if silence > fleet.until_lost - _CERTAIN:
        stage.tell(f"the machine was so busy that the cut took {silence:.1f} s")
        return False
    took = await stage.until_all_are(begun, "active", seconds=_MARGIN)
    stage.tell(f"cut for {name} ({silence:.1f} s): all {len(begun)} taken back, after {took:.2f} s")
    return True


async def cut_in_transaction(stage: Stage) -> None:
    """A worker cut off in the middle of its starts: the locks that it leaves behind keep nobody else from starting."""
    fleet = stage.fleet
    async with _cut_off(stage) as (worker, cable):
        begun = [asked.session_id for asked in await fleet.client.start_many(4, "few", via=worker)]
        starting = await _cut_in_transaction(stage, worker, cable)
        worker.leaving = True
        began = asyncio.get_running_loop().time()

        async def starts() -> bool:
            # What has one slot for all workers goes through its lock.
            return (await fleet.client.start("few")).accepted

        took = await stage.until("others start sessions under the same limit", starts, fleet.until_lost + _MARGIN)
        stage.tell(f"others start under the same limit {took:.1f} s after the cut")
        await stage.until_all_are(begun, "lost", seconds=fleet.until_lost + _MARGIN)
        stage.tell(f"lost {asyncio.get_running_loop().time() - began:.1f} s after the cut")
        cable.mend()
        await asyncio.gather(*starting)
        await stage.settled()
        await fleet.terminate([worker])


async def _cut_in_transaction(stage: Stage, worker: WorkerProcess, cable: Cable) -> list[asyncio.Task[Any]]:
    """Cut a worker off while it has a transaction open. Returns the starts that it was working on."""
    fleet = stage.fleet
    starting = []
    for _ in range(_TRIES):
        starting.append(asyncio.create_task(fleet.client.start_many(20, "few", via=worker, at_once=20)))
        await asyncio.sleep(fleet.client.random.uniform(0.02, 0.15))
        cable.cut()
        # Others finish theirs meanwhile.
        await asyncio.sleep(0.3)
        if await asyncio.to_thread(fleet.database.forsaken_transactions):
            return starting
        cable.mend()
        await asyncio.sleep(0.5)
    raise AssertionError(f"The worker had no transaction open in {_TRIES} tries")


@asynccontextmanager
async def _cut_off(stage: Stage) -> AsyncIterator[tuple[WorkerProcess, Cable]]:
    fleet = stage.fleet
    cable = Cable()
    try:
        await asyncio.to_thread(cable.make)
        async with (
            _relay(cable.outside, fleet.database.url) as database_url,
            _relay(cable.outside, fleet.redis_url) as redis_url,
        ):
            (worker,) = await fleet.add(
                1,
                wrap=cable.wrap,
                host=cable.inside,
                DATABASE_URL=database_url,
                REDIS_URL=redis_url,
                CLUSTER_OPEN="1",
            )
            try:
                yield worker, cable
            finally:
                if worker.alive:
                    worker.kill()
    finally:
        await asyncio.to_thread(cable.remove)


@asynccontextmanager
async def _relay(host: str, url: str) -> AsyncIterator[str]:
    """Pass on what comes to ``host`` to the service of ``url``, which listens on loopback; yields its URL there."""
    if not url:
        yield url
        return
    parts = urlsplit(url)
    jobs: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            writer.close()
            return
        jobs.update(
            asyncio.create_task(_pass_on(source, sink)) for source, sink in ((reader, far_writer), (far_reader, writer))
        )

    server = await asyncio.start_server(serve, host, 0)
    port = server.sockets[0].getsockname()[1]
    user = f"{parts.username}@" if parts.username else ""
    try:
        yield urlunsplit(parts._replace(netloc=f"{user}{host}:{port}"))
    finally:
        server.close()
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def _ip(*words: str) -> None:
    subprocess.run([_ip_program(), *words], check=True, capture_output=True)


def _ip_program() -> str:
    require("root")
    return require("ip")
