"""`Target`: the server that is attacked, and what is known of it from outside."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.processes import ROOT, die_with_parent
from tests.cluster.processes import START_SECONDS, WorkerProcess, end, free_port

from .clients import Answer, request

NICE = -10
"""Of the server and the player, where that is permitted: what others compute here is no fault of theirs."""


@dataclass
class Target:
    process: WorkerProcess
    port: int
    key: str
    """Of a program that may do everything."""
    starter: str
    """The cookie of a user who may start sessions."""
    nobody: str
    """The cookie of a user who may do nothing."""
    long: str
    """An ended session with a long history."""
    watch: Watcher
    music: str = ""
    """The session that plays."""
    attentive: str = ""
    """The session that is attacked."""
    tokens: dict[str, str] = field(default_factory=dict)
    """Invitations to the attacked call, by role."""
    player_token: str = ""

    MUSIC_CALL = "music"
    CALL = "attacked"

    async def ask(self, method: str, path: str, data: Any = None, *, key: bool = True) -> Answer:
        headers = {"Authorization": f"Bearer {self.key}"} if key else {}
        body = b"" if data is None else json.dumps(data).encode()
        return await request(self.port, method, path, headers=headers, body=body)

    async def must(self, method: str, path: str, data: Any = None) -> dict[str, Any]:
        answer = await self.ask(method, path, data)
        assert answer.status in {200, 201}, (method, path, answer)
        return dict(json.loads(answer.body))

    async def open_calls(self) -> None:
        """Start the session that plays and the one that is attacked, and invite people to both."""
        self.music = (await self.must("POST", "/sessions", {"call_id": self.MUSIC_CALL, "agent": "steady"}))[
            "session_id"
        ]
        self.player_token = (await self.must("POST", f"/sessions/{self.music}/invitations", {}))["token"]
        await self.reopen()

    async def reopen(self) -> None:
        """Start the attacked session again if it has ended, and invite people to it."""
        if self.attentive:
            answer = await self.ask("GET", f"/sessions/{self.attentive}")
            if answer.status == 200 and json.loads(answer.body)["status"] == "active":
                return
        started = await self.must("POST", "/sessions", {"call_id": self.CALL, "agent": "attentive"})
        self.attentive = started["session_id"]
        await self.invite()

    async def tidy(self) -> None:
        """Close the sessions that attacks have started: what goes on is no leak."""
        for status in ("starting", "active"):
            for row in (await self.must("GET", f"/sessions?status={status}&limit=200"))["items"]:
                if row["session_id"] not in {self.music, self.attentive}:
                    await self.ask("DELETE", f"/sessions/{row['session_id']}")

    async def invite(self) -> None:
        for role in ("speaker", "listener"):
            path = f"/sessions/{self.attentive}/invitations"
            self.tokens[role] = (await self.must("POST", path, {"role": role}))["token"]

    # Its process

    def memory_mb(self) -> float:
        return self.process.rss_bytes() / 2**20

    def peak_mb(self) -> float:
        """The most memory since `forget_peak`."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
        return 0.0

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def descriptors(self) -> int:
        return self.process.descriptors()

    def threads(self) -> int:
        return self.process.threads()


class Watcher:
    """Asks `watch.Watch`, in the server."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, command: str = "window", seconds: float = 600.0) -> dict[str, Any]:
        """What was seen since the last time. It is answered by a thread, which C code can keep from running."""
        async with asyncio.timeout(seconds):
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_unix_connection(self._address, limit=2**20)
            assert self._reader is not None
            self._writer.write(command.encode() + b"\n")
            return dict(json.loads(await self._reader.readline()))

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()


def favour(pid: int) -> None:
    """Have the kernel prefer a process that leads a session of its own, where that is permitted."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
        Path(f"/proc/{pid}/autogroup").write_text(str(NICE))


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.hostile.settings",
        "HOSTILE_DATABASE": str(folder / "db.sqlite3"),
        "PYTHONPATH": str(ROOT),
        "PYTHONASYNCIODEBUG": "",
        "REDIS_URL": "",
        "DATABASE_URL": "",
        "NO_COLOR": "1",
    }


@asynccontextmanager
async def running(folder: Path, server: str = "daphne", *, limits: bool = False) -> AsyncIterator[Target]:
    """Run a server on a database in ``folder``; its calls are open. ``limits``: with those that it ships with."""
    env = {**environment(folder), "HOSTILE_LIMITS": "shipped" if limits else ""}
    made = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.hostile.prepare"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    port, address = free_port(), str(folder / "watch")
    command = [sys.executable, "-m", "django", "serveagents", "--server", server, "--port", str(port), "--no-splash"]
    command += ["--http-log-level", "ERROR"]
    with (folder / "server.log").open("ab") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - on this thread: it dies with its thread
            command,
            cwd=ROOT,
            env={**env, "HOSTILE_WATCH": address},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
            start_new_session=True,
        )
    favour(process.pid)
    worker = WorkerProcess(server, process, folder / "server.log")
    target = Target(worker, port, watch=Watcher(address), **json.loads(made.stdout.splitlines()[-1]))
    try:
        await _ready(target)
        await target.open_calls()
        yield target
    finally:
        await target.watch.close()
        await end([process], first=signal.SIGINT, seconds=20)


async def _ready(target: Target) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            assert target.process.alive, target.process.tail()
            with suppress(OSError):
                if (await target.ask("GET", "/ready", key=False)).status == 200:
                    return
            await asyncio.sleep(0.1)
