"""`Fleet`: workers on one database and, if there is one, one Redis; started, broken and ended from here."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from .client import Client
from .databases import Database, Row
from .processes import ROOT, START_SECONDS, WorkerProcess, end, spawn
from .trace import FOLDER, Built, Run, read_built, read_runs

TIMES = {
    "HEARTBEAT_INTERVAL": 0.5,
    "WORKER_TTL": 3.0,
    "WORKER_GRACE": 6.0,
    "POLL_INTERVAL": 1.0,
    "METRICS_INTERVAL": 1.0,
    "DRAIN_TIMEOUT": 2.0,
}
"""Short, so that what takes minutes in production takes seconds here. The grace is long enough that a worker which was
silent for twice its time-to-live is not lost yet, on a busy machine either."""

SERVERS = ("daphne", "uvicorn")
_LEAVE_SECONDS = 40.0
_COMPLAINT = re.compile("never retrieved|was never awaited|was destroyed but it is pending")
_OF_CHANNELS_REDIS = re.compile(
    r"never retrieved\s+future: <Task [^\n]*coro=<RedisChannelLayer\._clean_receive_backup\(\)"
)
"""A task that channels_redis itself starts after each message, and that nobody can await: it fails when Redis stops at
that moment, and nothing is lost with it."""


class Fleet:
    def __init__(
        self,
        folder: Path,
        database: Database,
        *,
        redis_url: str = "",
        times: Mapping[str, float] = {},
        limits: Mapping[str, int] = {},
        settings: Mapping[str, Any] = {},
        seed: int = 1,
    ) -> None:
        """``limits`` are those of `agents.limits`; ``settings`` further ones of VISIONAGENTS_RUNNER."""
        self.folder = folder
        self.database = database
        self.redis_url = redis_url
        self.times = {**TIMES, **times}
        self.limits = dict(limits)
        self.settings = dict(settings)
        self.workers: list[WorkerProcess] = []
        self.client = Client(self.workers, seed=seed)
        self._traces = folder / "traces"
        self._traces.mkdir(exist_ok=True)
        self._count = 0

    @property
    def living(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.alive]

    @property
    def ttl(self) -> float:
        return self.times["WORKER_TTL"]

    @property
    def until_lost(self) -> float:
        """Seconds of silence after which a worker's sessions are lost."""
        return self.ttl + self.times["WORKER_GRACE"]

    @property
    def poll(self) -> float:
        return self.times["POLL_INTERVAL"]

    # Workers

    def launch(
        self, count: int = 1, *, wrap: Sequence[str] = (), host: str = "127.0.0.1", **env: str
    ) -> list[WorkerProcess]:
        """Start workers, without waiting for them. ``wrap`` is a command that runs them, such as ``ip netns exec``."""
        launched = []
        for _ in range(count):
            server = SERVERS[self._count % len(SERVERS)]
            self._count += 1
            name = f"worker-{self._count}-{server}"
            log = self.folder / f"{name}.log"
            command = [*wrap, sys.executable, "manage.py", "serveagents", "--server", server, "--host", host]
            process = spawn([*command, "--port", "0"], log, self._environment(**env))
            launched.append(WorkerProcess(name, process, log))
        self.workers += launched
        return launched

    async def add(self, count: int = 1, **options: Any) -> list[WorkerProcess]:
        """Start workers, and wait until they take sessions."""
        launched = self.launch(count, **options)
        await asyncio.gather(*map(self.ready, launched))
        return launched

    async def ready(self, worker: WorkerProcess) -> None:
        """Wait until a worker takes sessions."""
        try:
            async with asyncio.timeout(START_SECONDS):
                while not worker.url:
                    self._must_live(worker)
                    worker.url = worker.read_url()
                    await asyncio.sleep(0.05)
                async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
                    while True:
                        self._must_live(worker)
                        try:
                            if (await http.get(f"{worker.url}/ready")).status_code == 200:
                                worker.ready = True
                                return
                        except httpx.HTTPError:
                            pass
                        await asyncio.sleep(0.05)
        except TimeoutError:
            raise RuntimeError(f"{worker} did not become ready:\n{worker.tail()}") from None

    def _must_live(self, worker: WorkerProcess) -> None:
        if not worker.alive:
            raise RuntimeError(f"{worker} ended with {worker.process.returncode}:\n{worker.tail()}")

    def _environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.cluster.settings",
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": self.database.url,
            "REDIS_URL": self.redis_url,
            "CLUSTER_SETTINGS": json.dumps({**self.times, **self.settings}),
            "CLUSTER_LIMITS": json.dumps(self.limits),
            FOLDER: str(self._traces),
            **more,
        }

    async def terminate(self, workers: Sequence[WorkerProcess] | None = None) -> list[int]:
        """Send SIGTERM and wait for the end; returns the exit codes. Those that do not end are killed."""
        workers = self.living if workers is None else workers
        for worker in workers:
            worker.send(signal.SIGCONT)
            worker.send(signal.SIGTERM)
        await end([worker.process for worker in workers], first=signal.SIGCONT, seconds=_LEAVE_SECONDS)
        return [worker.process.returncode for worker in workers]

    async def close(self) -> None:
        """End whatever runs, at once."""
        for worker in self.living:
            worker.send(signal.SIGKILL)
        await end([worker.process for worker in self.workers], first=signal.SIGKILL, seconds=10)
        await self.client.close()

    # What is to be seen from outside

    async def rows(self, statement: str, *values: Any) -> list[Row]:
        return await asyncio.to_thread(self.database.rows, statement, *values)

    async def sessions(self, where: str = "1=1") -> list[Row]:
        return await asyncio.to_thread(self.database.sessions, where)

    async def live(self) -> list[Row]:
        return await self.sessions("ended_at IS NULL")

    async def waiting(self) -> list[Row]:
        """Return the queued sessions whose time has come, by the database's clock."""
        return await self.sessions("status = 'queued' AND due_at <= CURRENT_TIMESTAMP")

    def runs(self) -> list[Run]:
        return read_runs(self._traces)

    def built(self) -> list[Built]:
        return read_built(self._traces)

    async def worker_ids(self) -> dict[int, str]:
        """Return the ids of the workers' rows by PID."""
        return {row["pid"]: row["id"] for row in await self.rows("SELECT id, pid FROM visionagents_runner_worker")}

    async def running_on(self, worker: WorkerProcess) -> list[str]:
        """Return the sessions whose agents run in that process now, by their traces."""
        runs = await asyncio.to_thread(self.runs)
        return [run.session_id for run in runs if run.pid == worker.pid and run.stopped is None]

    async def make_key(self, owner: str) -> str:
        """Make a user and an API key of theirs; returns the key."""
        made = f"from django.contrib.auth.models import User; User.objects.create_user({owner!r})"
        scopes = [part for scope in ("start", "close", "view") for part in ("--scope", scope)]
        await asyncio.to_thread(self._manage, "shell", "-c", made)
        return await asyncio.to_thread(self._manage, "createagentkey", "--name", owner, "--owner", owner, *scopes)

    def _manage(self, *words: str) -> str:
        command = [sys.executable, "manage.py", *words]
        done = subprocess.run(command, cwd=ROOT, env=self._environment(), check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def complaints(self) -> list[str]:
        """Return what the workers' logs hold of tracebacks and of what must never happen."""
        found = []
        for worker in self.workers:
            text = worker.log.read_text(errors="replace")
            for sign in _COMPLAINT.finditer(text):
                at = sign.start()
                if not _OF_CHANNELS_REDIS.match(text, at):
                    found.append(f"{worker}: ...{text[max(0, at - 300) : at + 3000]}")
        return found


@asynccontextmanager
async def running_fleet(folder: Path, database: Database, count: int, **options: Any) -> AsyncIterator[Fleet]:
    fleet = Fleet(folder, database, **options)
    try:
        if count:
            await fleet.add(count)
        yield fleet
    finally:
        await fleet.close()
