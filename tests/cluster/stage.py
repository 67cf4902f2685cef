"""A fleet with all that it stands on, on which a fault is tried: services of its own, live sessions, traffic."""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.machine.servers import DatabaseServer, RedisServer, running_database, running_redis

from .databases import Row, fresh_database
from .fleet import Fleet, running_fleet
from .invariant import Verdict, check, settle
from .processes import WorkerProcess

WORKERS = 3
_TRAFFIC_SECONDS = 20.0
_BEGIN_SECONDS = 15.0


class Stage:
    def __init__(
        self,
        fleet: Fleet,
        redis: RedisServer,
        server: DatabaseServer | None,
        *,
        long: bool = False,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.fleet = fleet
        self.redis = redis
        self.server = server
        """The database's own server, which may be stopped; None for SQLite."""
        self.long = long
        """Whether to take the time that the whole of a fault takes, rather than its shortest form."""
        self.tell = tell

    @property
    def folder(self) -> Path:
        return self.fleet.folder

    async def begin(self, on_each: int = 4, agents: Iterable[str] = ("default",)) -> dict[WorkerProcess, list[str]]:
        """Start sessions of these agents on each worker, all of which must be accepted; returns their ids."""
        kinds = list(agents)
        return {
            worker: [session_id for agent in kinds for session_id in await self.begin_on(worker, on_each, agent)]
            for worker in self.fleet.workers
            if worker.answers
        }

    async def begin_on(self, worker: WorkerProcess, count: int, agent: str = "default", **metadata: Any) -> list[str]:
        """Start so many sessions of an agent on a worker; returns their ids."""
        begun: list[str] = []
        deadline = time.monotonic() + _BEGIN_SECONDS
        while True:
            asked = await self.fleet.client.start_many(count - len(begun), agent, via=worker, **metadata)
            begun += [each.session_id for each in asked if each.accepted]
            if len(begun) == count:
                return begun
            refused = [f"{each.status} {each.detail}" for each in asked if not each.accepted]
            # On a machine that is busy enough, a worker of such a short time-to-live may doubt itself for a moment.
            assert {each.status for each in asked} <= {201, 503}, refused
            assert time.monotonic() < deadline, refused
            await asyncio.sleep(self.fleet.times["HEARTBEAT_INTERVAL"])

    async def replenish(self) -> None:
        """Have as many workers that answer as at the beginning."""
        missing = WORKERS - sum(worker.answers for worker in self.fleet.workers)
        if missing > 0:
            await self.fleet.add(missing)

    async def until(self, what: str, condition: Callable[[], Awaitable[Any]], seconds: float) -> float:
        """Wait until ``condition`` holds; returns how long that took.

        Raises:
            AssertionError: it does not within ``seconds``; a busy machine makes nothing of that faster.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                while not await condition():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"Not within {seconds:g} s: {what}") from None
        return time.monotonic() - began

    async def states(self, session_ids: Iterable[str]) -> list[str]:
        """Return the status of each of these sessions, by the database."""
        rows = await self.rows_of(session_ids)
        return [row["status"] for row in rows]

    async def rows_of(self, session_ids: Iterable[str]) -> list[Row]:
        wanted = set(session_ids)
        rows = [row for row in await self.fleet.sessions() if row["id"] in wanted]
        assert len(rows) == len(wanted)
        return rows

    async def all_are(self, session_ids: Iterable[str], *statuses: str) -> bool:
        return set(await self.states(session_ids)) <= set(statuses)

    async def until_all_are(self, session_ids: Iterable[str], *statuses: str, seconds: float) -> float:
        """Wait until these sessions have one of these states; returns how long that took."""
        wanted = list(session_ids)

        async def they_are() -> bool:
            return await self.all_are(wanted, *statuses)

        return await self.until(f"{len(wanted)} sessions are {' or '.join(statuses)}", they_are, seconds)

    async def settled(self) -> Verdict:
        """Close all, and judge."""
        await settle(self.fleet)
        return await check(self.fleet)

    async def finished(self) -> Verdict:
        """Close all, end the fleet, and judge what it leaves behind."""
        await self.settled()
        await self.fleet.terminate()
        return await check(self.fleet)

    @asynccontextmanager
    async def traffic(self, *, every: float = 0.25) -> AsyncIterator[None]:
        """Starts, reads and closes by clients who know nothing of any fault.

        It goes on until a start and a dispatch were accepted.

        Raises:
            AssertionError: none is.
        """
        client = self.fleet.client
        begun: list[str] = []
        accepted: Counter[str] = Counter()
        jobs: set[asyncio.Task[Any]] = set()
        problems: list[BaseException] = []
        turns = itertools.cycle((client.start, client.dispatch))

        async def start() -> None:
            how = next(turns)
            asked = await how()
            if asked.accepted:
                accepted[how.__name__] += 1
                begun.append(asked.session_id)

        def done(task: asyncio.Task[Any]) -> None:
            jobs.discard(task)
            if not task.cancelled() and (problem := task.exception()) is not None:
                problems.append(problem)

        async def both_accepted() -> bool:
            return len(accepted) == 2 or going.done()

        async def go_on() -> None:
            while True:
                what = client.random.random()
                if what < 0.5 or not begun:
                    job = start()
                elif what < 0.75:
                    job = client.get(client.random.choice(begun))  # type: ignore[assignment]
                else:
                    job = client.end(begun.pop(client.random.randrange(len(begun))))  # type: ignore[assignment]
                task = asyncio.create_task(job)
                jobs.add(task)
                task.add_done_callback(done)
                await asyncio.sleep(every)

        going = asyncio.create_task(go_on())
        try:
            yield
            await self.until("a start and a dispatch of the traffic are accepted", both_accepted, _TRAFFIC_SECONDS)
        finally:
            going.cancel()
            await asyncio.gather(going, *jobs, return_exceptions=True)
            if not going.cancelled() and (problem := going.exception()) is not None:
                problems.append(problem)
        if problems:
            raise problems[0]


@asynccontextmanager
async def prepared_stage(
    kind: str,
    *,
    workers: int = WORKERS,
    own_server: bool = True,
    long: bool = False,
    tell: Callable[[str], None] = lambda text: None,
    database_folder: Path | None = None,
    with_redis: bool = True,
    **options: Any,
) -> AsyncIterator[Stage]:
    """Set a stage on that kind of database; ``options`` are those of `Fleet`."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="visionagents_cluster_")))
        kept = os.environ.get("CLUSTER_LOGS")
        if kept:
            stack.callback(_keep_logs, folder, Path(kept))
        redis = await stack.enter_async_context(running_redis(folder))
        server = None
        if own_server and kind != "sqlite":
            server = await stack.enter_async_context(running_database(kind, folder))
        database = stack.enter_context(
            fresh_database(kind, database_folder or folder, server=server.url if server else "")
        )
        options.setdefault("redis_url", redis.url if with_redis else "")
        # High enough that none is reached, and low enough that each is in force.
        options.setdefault("limits", {"worker": 10_000, "call": 10_000, "agent": 10_000})
        fleet = await stack.enter_async_context(running_fleet(folder, database, workers, **options))
        yield Stage(fleet, redis, server, long=long, tell=tell)


def _keep_logs(folder: Path, target: Path) -> None:
    place = target / folder.name
    place.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("*.log"):
        (place / log.name).write_bytes(log.read_bytes())
