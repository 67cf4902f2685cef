"""A soak: random starts, talk, closes and kills for a long time, and whether anything grows meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.table import Table
from websockets.exceptions import WebSocketException

from .invariant import settle
from .processes import WorkerProcess
from .stage import Stage

LIVE = 30
"""About so many sessions are live at a time."""
_EVERY_SECONDS = 0.4
_LONGEST_SECONDS = 20.0
_KILL_SECONDS = 45.0
_JOBS = 60
_QUIET_SECONDS = 6.0


@dataclass(frozen=True)
class Bound:
    """How much the last third of the samples may lie above the first."""

    share: float
    amount: float

    def holds(self, first: float, last: float) -> bool:
        return last <= first * (1 + self.share) + self.amount


BOUNDS = {
    "threads": Bound(0.0, 3),
    "files": Bound(0.2, 15),
    "MiB": Bound(0.05, 8),
    "database connections": Bound(0.2, 6),
    "live sessions": Bound(0.5, 15),
    "queued sessions": Bound(0.0, 5),
    "commands": Bound(0.0, 10),
    "running workers": Bound(0.0, 1),
    "slots": Bound(0.2, 30),
}
"""What is counted, and by how much it may be more in the last third than in the first. Work goes up and down, and
Python's memory is given back in large pieces, so that a little is allowed; a leak goes on for as long as the soak."""

IDLE_BOUNDS = {"tasks": Bound(0.0, 4), "threads": Bound(0.0, 12), "files": Bound(0.0, 20), "MiB": Bound(0.05, 12)}
"""By how much a worker may hold more when all has ended than it did before, its agents having been used once. Pools of
threads and connections are filled by degrees, to their sizes. Tasks are judged so alone: they go with the sessions."""


@dataclass
class Samples:
    of: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """By who (a worker, or "all") and what."""

    idle: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, who: str, what: str, value: float) -> None:
        self.of[who, what].append(value)

    def growth(self) -> list[tuple[str, str, float, float, bool]]:
        """Return of each its mean in the first third, in the last, and whether that is within bounds."""
        judged = []
        for (who, what), values in self.of.items():
            third = max(1, len(values) // 3)
            first, last = statistics.mean(values[:third]), statistics.mean(values[-third:])
            judged.append((who, what, first, last, BOUNDS[what].holds(first, last)))
        return judged

    def idle_growth(self) -> list[tuple[str, str, float, float, bool]]:
        """Return what each worker held when nothing was live, at first and in the end."""
        return [
            (who, what, values[0], values[-1], IDLE_BOUNDS[what].holds(values[0], values[-1]))
            for (who, what), values in self.idle.items()
        ]

    def table(self) -> Table:
        table = Table("of", "what", "first third", "last third", "most", "within bounds", title="Soak")
        for who, what, first, last, holds in self.growth():
            most = max(self.of[who, what])
            table.add_row(who, what, f"{first:.1f}", f"{last:.1f}", f"{most:.1f}", "yes" if holds else "NO")
        for who, what, first, last, holds in self.idle_growth():
            table.add_row(who, f"{what}, idle", f"{first:.1f}", f"{last:.1f}", "", "yes" if holds else "NO")
        return table


class Soak:
    """Two workers live through it all; the others are killed now and then."""

    def __init__(self, stage: Stage, minutes: float) -> None:
        self.stage = stage
        self.fleet = stage.fleet
        self.client = stage.fleet.client
        self.seconds = minutes * 60
        self.samples = Samples()
        self.done: Counter[str] = Counter()
        self._veterans = self.fleet.workers[:2]
        self._live: dict[str, str] = {}
        self._jobs: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Raises AssertionError if something grew."""
        await self._use_once()
        await self._sample_idle()
        began = time.monotonic()
        every = min(30.0, self.seconds / 12)
        # What is loaded once, with the first of its kind, is no growth.
        next_sample = began + max(every, self.seconds / 10)
        next_kill = began + min(_KILL_SECONDS, self.seconds / 3)
        while (now := time.monotonic()) < began + self.seconds:
            if now >= next_sample:
                next_sample += every
                await self._sample()
            if now >= next_kill:
                next_kill += _KILL_SECONDS
                self._do("kill", self._kill())
            if len(self._jobs) < _JOBS:
                self._something()
            await asyncio.sleep(_EVERY_SECONDS)
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await self._sample_idle()
        grown = [
            f"{what} of {who} grew from {first:.1f} to {last:.1f}"
            for who, what, first, last, holds in (*self.samples.growth(), *self.samples.idle_growth())
            if not holds
        ]
        assert not grown, "; ".join(grown)

    async def _use_once(self) -> None:
        """Have each worker load what it loads with the first of a kind."""
        for worker in self._veterans:
            talker = await self.client.start("talker", via=worker)
            await self.client.type(talker.call_id, "hello", via=self.client.some_worker(worker))
            await self.client.say(talker.session_id, "hello", via=worker)
            self._live[talker.session_id] = talker.call_id
            await asyncio.gather(self._read(), self.client.list_all(via=worker))
            async with self.client.feed(talker.session_id, via=worker) as feed:
                await feed.until("live")
        self._live.clear()

    async def _sample_idle(self) -> None:
        """Count what workers hold when nothing is live."""
        await settle(self.fleet)
        await asyncio.sleep(_QUIET_SECONDS)
        for worker in self._veterans:
            held = (await self.client.read("/held/", via=worker)).json()
            self.samples.idle[worker.name, "tasks"].append(held["tasks"])
            for what, count in self._counters(worker).items():
                self.samples.idle[worker.name, what].append(count())

    # What happens

    def _something(self) -> None:
        what = self.client.random.random()
        if len(self._live) < LIVE / 2 or (what < 0.5 and len(self._live) < LIVE):
            self._do("start", self._start())
        elif what < 0.65:
            self._do("close", self._close())
        elif what < 0.75:
            self._do("read", self._read())
        elif what < 0.85:
            self._do("say", self._say())
        elif what < 0.93:
            self._do("follow", self._follow())
        else:
            self._do("type", self._type())

    def _do(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        async def job() -> None:
            # Some worker is being killed, perhaps the one that was asked.
            with suppress(httpx.HTTPError, WebSocketException, OSError, TimeoutError, AssertionError):
                await work
                self.done[name] += 1

        task = asyncio.create_task(job())
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _start(self) -> None:
        random = self.client.random
        agent = random.choices(("default", "talker", "restarted", "shared"), (60, 25, 10, 5))[0]
        metadata: dict[str, Any] = {}
        if agent != "talker" and random.random() < 0.7:
            metadata["seconds"] = random.uniform(0.5, _LONGEST_SECONDS)
            metadata["fail"] = random.random() < 0.1
        call_id = f"shared-{random.randrange(20)}" if agent == "shared" else ""
        how = self.client.start if random.random() < 0.7 else self.client.dispatch
        asked = await how(agent, call_id=call_id, **metadata)
        if asked.accepted:
            self._live[asked.session_id] = asked.call_id if agent == "talker" else ""
            await asyncio.sleep(metadata.get("seconds", _LONGEST_SECONDS))
            if self._live.pop(asked.session_id, None) is not None and "seconds" not in metadata:
                await self.client.end(asked.session_id)

    async def _close(self) -> None:
        if self._live:
            session_id = self.client.random.choice(list(self._live))
            del self._live[session_id]
            await self.client.end(session_id)

    async def _read(self) -> None:
        for path in ("/metrics", "/sessions", "/ready"):
            await self.client.read(path)
        await self.client.read("/metrics", Accept="text/plain")
        if self._live:
            session_id = self.client.random.choice(list(self._live))
            for path in ("", "/events", "/metrics", "/transcript"):
                await self.client.read(f"/sessions/{session_id}{path}")

    def _talker(self) -> tuple[str, str] | None:
        talkers = [(session_id, call_id) for session_id, call_id in self._live.items() if call_id]
        return self.client.random.choice(talkers) if talkers else None

    async def _say(self) -> None:
        if (talker := self._talker()) is not None:
            how = self.client.random.choice(("say", "respond"))
            status = await self.client.say(talker[0], "How are you?", how=how)
            self.done[f"{how} answered with {status}"] += 1

    async def _follow(self) -> None:
        if self._live:
            session_id = self.client.random.choice(list(self._live))
            async with self.client.feed(session_id, via=self.client.some_worker()) as feed:
                await feed.until("live")
                await asyncio.sleep(self.client.random.uniform(0, 10))

    async def _type(self) -> None:
        """Join a call, wherever its agent runs, and type."""
        if (talker := self._talker()) is not None:
            self.done["joined"] += await self.client.type(talker[1], "hello", via=self.client.some_worker())

    async def _kill(self) -> None:
        victims = [worker for worker in self.fleet.workers if worker.answers and worker not in self._veterans]
        if victims:
            victims[0].kill()
            await self.fleet.add(1)

    # What is counted

    async def _sample(self) -> None:
        for worker in self._veterans:
            for what, count in self._counters(worker).items():
                self.samples.add(worker.name, what, count())
        for what, value in (await asyncio.to_thread(self._count_rows)).items():
            self.samples.add("all", what, value)

    def _counters(self, worker: WorkerProcess) -> dict[str, Callable[[], float]]:
        return {
            "threads": worker.threads,
            "files": worker.descriptors,
            "MiB": lambda: worker.rss_bytes() / 2**20,
        }

    def _count_rows(self) -> dict[str, float]:
        database = self.fleet.database
        tables = database.tables()

        def count(table: str, where: str = "1=1") -> float:
            if f"visionagents_runner_{table}" not in tables:
                return 0
            found = database.rows(f"SELECT COUNT(*) AS n FROM visionagents_runner_{table} WHERE {where}")
            return float(found[0]["n"])

        return {
            "database connections": database.connections(),
            "live sessions": count("agentsession", "ended_at IS NULL"),
            "queued sessions": count("agentsession", "status = 'queued'"),
            "commands": count("sessioncommand"),
            "running workers": count("worker", "state <> 'stopped'"),
            "slots": count("slot"),
        }
