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

from .client import Asked
from .databases import Row
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
_LONG_SECONDS = 300.0
_NEAR_SECONDS = 8.0
"""After a kill, requests go wrong that a worker was asked just before, or its sessions."""

_DECK = ("start",) * 10 + ("close",) * 3 + ("read",) * 2 + ("say",) * 2 + ("follow",) * 2 + ("type",) * 2
_A_MINUTE = {"start": 10.0, "close": 3.0, "read": 2.0, "say": 1.0, "follow": 1.5, "type": 1.0, "kill": 0.5}
"""How often each thing must have been done, and have worked, in each minute; once at least."""


@dataclass(frozen=True)
class Bound:
    """How much the last third of the samples may lie above the first."""

    share: float
    amount: float
    a_kill: float = 0.0
    """And so much more for each worker that was killed: what it had is forgotten much later."""

    def holds(self, first: float, last: float, kills: int = 0) -> bool:
        return last <= first * (1 + self.share) + self.amount + self.a_kill * kills


BOUNDS = {
    "threads": Bound(0.0, 12),
    "files": Bound(0.2, 15),
    "MiB": Bound(0.05, 8),
    "database connections": Bound(0.2, 6),
    "live sessions": Bound(0.5, 15),
    "queued sessions": Bound(0.0, 5),
    "jobs": Bound(0.0, 10),
    "commands": Bound(0.0, 10),
    "running workers": Bound(0.0, 1),
    "slots": Bound(0.2, 30),
    "turns": Bound(0.0, 2),
    "rows without their session": Bound(0.0, 0),
    "Redis clients": Bound(0.2, 6),
    # Whatever groups a killed worker was in are forgotten when channels_redis thinks that nobody lasts so long.
    "Redis keys": Bound(0.5, 20, a_kill=3),
}
"""What is counted, and by how much it may be more in the last third than in the first. Work goes up and down, pools
of threads and connections fill by degrees, and Python's memory is given back in large pieces, so that a little is
allowed; a leak goes on for as long as the soak."""

IDLE_BOUNDS = {"tasks": Bound(0.0, 4), "threads": Bound(0.0, 12), "files": Bound(0.0, 20)}
"""By how much a worker may hold more when all has ended than it did before, its agents having been used once. Tasks are
judged so alone: they go with the sessions."""

MIB_AT_LEAST = 4.0
MIB_PER_100_SESSIONS = 1.0
"""How much a worker may take for good, and for each hundred of the sessions that ran on it between two times at which
nothing was live: one that is kept with its history and its words takes some ten times that."""

_CHILDREN = ("sessionevent", "sessioncommand", "webhookdelivery")
_EXPECTED = (httpx.HTTPError, WebSocketException, OSError, TimeoutError, AssertionError)
"""What goes wrong where a worker is killed. Anything else is an error of this file."""


@dataclass
class Samples:
    of: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """By who (a worker, or "all") and what."""

    idle: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """The same, when nothing was live; ``sessions`` are all that had run on a worker by then."""
    kills: int = 0

    def add(self, who: str, what: str, value: float) -> None:
        self.of[who, what].append(value)

    def growth(self) -> list[tuple[str, str, float, float, bool]]:
        """Return of each its mean in the first third, in the last, and whether that is within bounds."""
        judged = []
        for (who, what), values in self.of.items():
            third = max(1, len(values) // 3)
            first, last = statistics.mean(values[:third]), statistics.mean(values[-third:])
            judged.append((who, what, first, last, BOUNDS[what].holds(first, last, self.kills)))
        return judged

    def idle_growth(self) -> list[tuple[str, str, float, float, bool]]:
        """Return what each worker held when nothing was live, before and in the end."""
        judged = [
            (who, f"{what}, idle", values[0], values[-1], IDLE_BOUNDS[what].holds(values[0], values[-1]))
            for (who, what), values in self.idle.items()
            if what in IDLE_BOUNDS
        ]
        for (who, what), values in self.idle.items():
            if what == "MiB":
                sessions = self.idle[who, "sessions"][-1] - self.idle[who, "sessions"][-2]
                most = MIB_AT_LEAST + MIB_PER_100_SESSIONS * sessions / 100
                told = f"MiB, idle, {sessions:g} sessions apart"
                judged.append((who, told, values[-2], values[-1], values[-1] - values[-2] <= most))
        return judged

    def table(self) -> Table:
        table = Table("of", "what", "first third", "last third", "most", "within bounds", title="Soak")
        for who, what, first, last, holds in self.growth():
            most = max(self.of[who, what])
            table.add_row(who, what, f"{first:.1f}", f"{last:.1f}", f"{most:.1f}", "yes" if holds else "NO")
        for who, what, first, last, holds in self.idle_growth():
            table.add_row(who, what, f"{first:.1f}", f"{last:.1f}", "", "yes" if holds else "NO")
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
        """What was done, and worked."""
        self.problems: list[str] = []
        self._deck: list[str] = []
        self._kills: list[float] = []
        self._veterans = self.fleet.workers[:2]
        self._live: dict[str, str] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        """Nobody is to wait for anything any more."""

    async def run(self) -> None:
        """Raises AssertionError if something grew, went wrong, or was not done often enough to tell."""
        await self._use_once()
        await self._sample_idle()
        if self.seconds >= _LONG_SECONDS:
            # What fills by degrees has done so by half-time.
            await self._go_on(self.seconds / 2)
            await self._sample_idle()
            await self._go_on(self.seconds / 2)
        else:
            await self._go_on(self.seconds)
        await self._sample_idle()
        self._judge()

    async def _go_on(self, seconds: float) -> None:
        self._over.clear()
        began = time.monotonic()
        every = min(30.0, seconds / 12)
        # What is loaded once, with the first of its kind, is no growth.
        next_sample = began + max(every, seconds / 10)
        next_kill = began + min(_KILL_SECONDS, seconds / 3)
        while (now := time.monotonic()) < began + seconds:
            if now >= next_sample:
                next_sample += every
                await self._sample()
            if now >= next_kill:
                next_kill += _KILL_SECONDS
                self._do("kill", self._kill())
            if len(self._jobs) < _JOBS:
                self._something()
            await asyncio.sleep(_EVERY_SECONDS)
        self._over.set()
        while self._jobs:
            await asyncio.gather(*self._jobs)

    def _judge(self) -> None:
        self.samples.kills = len(self._kills)
        problems = [
            f"{what} of {who} grew from {first:.1f} to {last:.1f}"
            for who, what, first, last, holds in (*self.samples.growth(), *self.samples.idle_growth())
            if not holds
        ]
        for what, often in _A_MINUTE.items():
            wanted = max(1, int(often * self.seconds / 60))
            if self.done[what] < wanted:
                problems.append(f"{what!r} worked {self.done[what]} times instead of {wanted} at least")
        problems += self.problems
        assert not problems, "; ".join(problems[:30])

    async def _use_once(self) -> None:
        """Have each worker load what it loads with the first of a kind."""
        for worker in self._veterans:
            talker = await self.client.start("talker", via=worker)
            assert talker.accepted, talker.detail
            assert await self.client.type(talker.call_id, "hello", via=self.client.some_worker(worker))
            assert await self.client.say(talker.session_id, "hello", via=worker) == 202
            self._live[talker.session_id] = talker.call_id
            await asyncio.gather(self._read(), self.client.list_all(via=worker))
            async with self.client.feed(talker.session_id, via=worker) as feed:
                await feed.until("live")
        self._live.clear()

    async def _sample_idle(self) -> None:
        """Count what workers hold when nothing is live."""
        await settle(self.fleet)
        await asyncio.sleep(min(_QUIET_SECONDS, self.seconds / 12))
        ran = Counter(run.pid for run in await asyncio.to_thread(self.fleet.runs))
        for worker in self._veterans:
            held = (await self.client.read("/held/", via=worker)).json()
            self.samples.idle[worker.name, "tasks"].append(held["tasks"])
            self.samples.idle[worker.name, "sessions"].append(ran[worker.pid])
            for what, count in self._counters(worker).items():
                self.samples.idle[worker.name, what].append(count())

    # What happens

    def _something(self) -> None:
        if not self._deck:
            self._deck = list(_DECK)
            self.client.random.shuffle(self._deck)
        if len(self._live) < LIVE / 2:
            self._do("start", self._start())
            return
        what = self._deck.pop()
        if what == "start" and len(self._live) >= LIVE:
            what = "close"
        work = {
            "start": self._start,
            "close": self._close,
            "read": self._read,
            "say": self._say,
            "follow": self._follow,
            "type": self._type,
        }[what]
        self._do(what, work())

    def _do(self, name: str, work: Coroutine[Any, Any, bool | None]) -> None:
        """Do something; it counts if it worked: that is what `None` says, too."""
        began = time.monotonic()

        async def job() -> None:
            try:
                if await work is not False:
                    self.done[name] += 1
            except _EXPECTED as error:
                if self._a_kill_explains(began):
                    self.done[f"{name}, near a kill: {type(error).__name__}"] += 1
                else:
                    self.problems.append(f"{name} went wrong with no kill near: {error!r}")
            except Exception as error:
                self.problems.append(f"{name} failed: {error!r}")

        task = asyncio.create_task(job())
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    def _a_kill_explains(self, began: float) -> bool:
        """Whether a worker was killed while something went on, or just before it began."""
        return any(began - _NEAR_SECONDS <= killed_at <= time.monotonic() for killed_at in self._kills)

    async def _start(self) -> None:
        random = self.client.random
        agent = random.choices(("default", "talker", "restarted", "shared"), (55, 30, 10, 5))[0]
        metadata: dict[str, Any] = {}
        if agent != "talker" and random.random() < 0.7:
            metadata["seconds"] = random.uniform(0.5, _LONGEST_SECONDS)
            metadata["fail"] = random.random() < 0.1
        call_id = f"shared-{random.randrange(20)}" if agent == "shared" else ""
        how = self.client.start if random.random() < 0.7 else self.client.dispatch
        asked = await how(agent, call_id=call_id, **metadata)
        # Calls that several share may be full.
        assert asked.accepted or (agent == "shared" and asked.status == 429), _told(asked)
        if asked.accepted:
            self._live[asked.session_id] = asked.call_id if agent == "talker" else ""
            self._later(asked, metadata)

    def _later(self, asked: Asked, metadata: dict[str, Any]) -> None:
        """End a session in a while, if it does not end by itself."""

        async def end() -> bool:
            await self._wait(metadata.get("seconds", _LONGEST_SECONDS))
            if self._live.pop(asked.session_id, None) is None or "seconds" in metadata:
                return False
            await self._end(asked.session_id)
            return True

        self._do("close", end())

    async def _close(self) -> bool:
        if not self._live:
            return False
        session_id = self.client.random.choice(list(self._live))
        del self._live[session_id]
        await self._end(session_id)
        return True

    async def _end(self, session_id: str) -> None:
        assert await self.client.end(session_id), self.client.failures[-1:]

    async def _read(self) -> None:
        paths = ["/metrics", "/sessions", "/ready"]
        if self._live:
            session_id = self.client.random.choice(list(self._live))
            paths += [f"/sessions/{session_id}{path}" for path in ("", "/events", "/metrics", "/transcript")]
        answers = [await self.client.read(path) for path in paths]
        answers.append(await self.client.read("/metrics", Accept="text/plain"))
        for answer in answers:
            assert answer.status_code == 200, f"{answer.url}: {answer.status_code} {answer.text[:200]}"

    def _talker(self) -> tuple[str, str] | None:
        talkers = [(session_id, call_id) for session_id, call_id in self._live.items() if call_id]
        return self.client.random.choice(talkers) if talkers else None

    async def _say(self) -> bool:
        if (talker := self._talker()) is None:
            return False
        how = self.client.random.choice(("say", "respond"))
        status = await self.client.say(talker[0], "How are you?", how=how)
        self.done[f"{how} answered with {status}"] += 1
        # 409: it has ended, or has not joined yet.
        assert status in {202, 409}, f"{status}: {self.client.failures[-1:]}"
        return status == 202

    async def _follow(self) -> bool:
        if not self._live:
            return False
        session_id = self.client.random.choice(list(self._live))
        async with self.client.feed(session_id, via=self.client.some_worker()) as feed:
            try:
                await feed.until("live")
            except AssertionError:
                if "ended" not in {message["type"] for _, message in feed.received}:
                    raise
            await self._wait(self.client.random.uniform(0, 10))
        return True

    async def _type(self) -> bool:
        """Join a call, wherever its agent runs, and type."""
        if (talker := self._talker()) is None:
            return False
        session_id, call_id = talker
        try:
            return await self.client.type(call_id, "hello", via=self.client.some_worker())
        except (TimeoutError, WebSocketException):
            (row,) = await self.stage.rows_of([session_id])
            if row["ended_at"] is None:
                raise
            return False

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    async def _kill(self) -> bool:
        victims = [worker for worker in self.fleet.workers if worker.answers and worker not in self._veterans]
        if not victims:
            return False
        self._kills.append(time.monotonic())
        victims[0].kill()
        await self.fleet.add(1)
        return True

    # What is counted

    async def _sample(self) -> None:
        for worker in self._veterans:
            for what, count in self._counters(worker).items():
                self.samples.add(worker.name, what, count())
        for what, value in (await asyncio.to_thread(self._count_rows)).items():
            self.samples.add("all", what, value)
        clients, keys = await self.stage.redis.holds()
        self.samples.add("all", "Redis clients", clients)
        self.samples.add("all", "Redis keys", keys)

    def _counters(self, worker: WorkerProcess) -> dict[str, Callable[[], float]]:
        return {
            "threads": worker.threads,
            "files": worker.descriptors,
            "MiB": lambda: worker.rss_bytes() / 2**20,
        }

    def _count_rows(self) -> dict[str, float]:
        database = self.fleet.database

        def count(table: str, where: str = "1=1") -> float:
            rows: list[Row] = database.rows(f"SELECT COUNT(*) AS n FROM {table} WHERE {where}")
            return float(rows[0]["n"])

        def ours(table: str, where: str = "1=1") -> float:
            return count(f"visionagents_runner_{table}", where)

        forsaken = "session_id NOT IN (SELECT id FROM visionagents_runner_agentsession)"
        counted = {
            "database connections": database.connections(),
            "live sessions": ours("agentsession", "ended_at IS NULL"),
            "queued sessions": ours("agentsession", "status = 'queued'"),
            "commands": ours("sessioncommand"),
            "running workers": ours("worker", "state <> 'stopped'"),
            "slots": ours("slot"),
            "turns": ours("turn"),
            "rows without their session": sum(ours(table, forsaken) for table in _CHILDREN),
        }
        return {**counted, "jobs": count("procrastinate_jobs")} if database.kind == "postgresql" else counted


def _told(asked: Asked) -> str:
    return f"{asked.agent} via {asked.via}: {asked.status} {asked.detail[:200]}"
