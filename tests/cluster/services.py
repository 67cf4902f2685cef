"""A Redis, a PostgreSQL and a MariaDB of the fleet's own, which may be stopped without harm to anybody else."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import redis.asyncio

from .databases import connect
from .processes import free_port, gone, spawn

_SECONDS = 30.0


class Missing(Exception):
    """Something that the machine lacks; says how to get it."""


class RedisServer:
    """A ``redis-server`` that keeps nothing: what it held is forgotten when it stops."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        program = _program("redis-server", "redis-server")
        self._process = spawn(
            [program, "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"],
            self._folder / "redis.log",
            os.environ,
            cwd=self._folder,
        )
        async with asyncio.timeout(_SECONDS), redis.asyncio.Redis.from_url(self.url) as client:
            while True:
                try:
                    await client.ping()
                    return
                except redis.RedisError:
                    await asyncio.sleep(0.05)

    async def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            await gone(self._process, _SECONDS)
            self._process = None

    async def holds(self) -> tuple[int, int]:
        """Return how many clients it has, this one left out, and how many keys."""
        async with redis.asyncio.Redis.from_url(self.url) as client:
            return len(await client.client_list()) - 1, int(await client.dbsize())

    async def forget_all(self, seconds: float, *, every: float) -> int:
        """Lose what is under way, and who is in which group, again and again. Returns how often there was something."""
        count = 0
        async with redis.asyncio.Redis.from_url(self.url) as client:
            deadline = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < deadline:
                count += bool(await client.dbsize())
                await client.flushall()
                await asyncio.sleep(every)
        return count


@asynccontextmanager
async def running_redis(folder: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(folder)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


class DatabaseServer(ABC):
    """A server in a folder, run by the unprivileged user of its package."""

    kind: str
    user: str
    crash_signal: signal.Signals

    def __init__(self, folder: Path, *, max_connections: int) -> None:
        self.port = free_port()
        self.max_connections = max_connections
        self._folder = folder
        self._data = folder / self.kind
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Of its database for administrators."""

    @abstractmethod
    def _make(self) -> list[str]:
        """Return the command that makes an empty server."""

    @abstractmethod
    def _serve(self) -> list[str]:
        """Return the command that runs it."""

    def make(self) -> None:
        self._data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            owner = pwd.getpwnam(self.user)
            os.chown(self._data, owner.pw_uid, owner.pw_gid)
            # What is above it is for this user alone otherwise.
            for folder in (self._folder, *self._folder.parents):
                if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
                    folder.chmod(folder.stat().st_mode | 0o011)
        subprocess.run([*self._unprivileged(), *self._make()], check=True, stdout=subprocess.DEVNULL, cwd="/")

    async def start(self) -> None:
        log = self._folder / f"{self.kind}.log"
        command = [*self._unprivileged("--pdeathsig", "KILL"), *self._serve()]
        self._process = spawn(command, log, os.environ, cwd=Path("/"))
        async with asyncio.timeout(_SECONDS):
            while True:
                try:
                    (await asyncio.to_thread(connect, self.url)).close()
                    return
                except Exception:
                    if self._process.poll() is not None:
                        raise RuntimeError(log.read_text()[-2000:]) from None
                    await asyncio.sleep(0.05)

    async def stop(self, *, crash: bool = False) -> None:
        """Stop at once: connections are ended. With ``crash`` it recovers when it starts again."""
        if self._process is not None:
            self._process.send_signal(self.crash_signal if crash else self.stop_signal)
            await gone(self._process, _SECONDS)
            self._process = None

    stop_signal = signal.SIGTERM

    def _unprivileged(self, *options: str) -> list[str]:
        if os.geteuid() != 0:
            return []
        return ["setpriv", "--reuid", self.user, "--regid", self.user, "--init-groups", *options, "--"]


class PostgresServer(DatabaseServer):
    kind = "postgresql"
    user = "postgres"
    stop_signal = signal.SIGINT
    crash_signal = signal.SIGQUIT

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _make(self) -> list[str]:
        return [self._program("initdb"), "-D", str(self._data), "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8"]

    def _serve(self) -> list[str]:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": self.max_connections,
            "fsync": "off",  # it has to survive its own end, not the machine's
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self._program("postgres"), "-D", str(self._data), *options]

    def _program(self, name: str) -> str:
        found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
        program = str(found[-1]) if found else shutil.which(name)
        if program is None:
            raise Missing(f"PostgreSQL's {name} is not installed: apt-get install postgresql")
        return program


class MariaServer(DatabaseServer):
    kind = "mariadb"
    user = "mysql"
    crash_signal = signal.SIGKILL

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/mysql"

    def _make(self) -> list[str]:
        program = _program("mariadb-install-db", "mariadb-server")
        options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
        return [program, "--no-defaults", f"--datadir={self._data}", *options]

    def _serve(self) -> list[str]:
        options = {
            "datadir": self._data,
            "port": self.port,
            "bind-address": "127.0.0.1",
            "socket": self._data / "socket",
            "pid-file": self._data / "pid",
            "max-connections": self.max_connections,
            "innodb-flush-log-at-trx-commit": 2,
        }
        return [
            _program("mariadbd", "mariadb-server"),
            "--no-defaults",
            "--skip-name-resolve",
            *(f"--{name}={value}" for name, value in options.items()),
        ]


SERVERS = {"postgresql": PostgresServer, "mariadb": MariaServer}


@asynccontextmanager
async def running_database(kind: str, folder: Path, *, max_connections: int = 200) -> AsyncIterator[DatabaseServer]:
    server = SERVERS[kind](folder, max_connections=max_connections)
    await asyncio.to_thread(server.make)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


def _program(name: str, package: str) -> str:
    program = shutil.which(name)
    if program is None:
        raise Missing(f"{name} is not installed: apt-get install {package}")
    return program
