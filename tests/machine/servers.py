"""A Redis, a PostgreSQL and a MariaDB of the tests' own, which may be stopped without harm to anybody else.

``python -m tests.machine.servers DATABASE [mariadb] [fleet] -- COMMAND`` runs a command while they run, with their URLs
in its environment and temporary files in a folder that is gone with them. They listen on free ports of 127.0.0.1, and
what the environment names already is not started. ``DATABASE`` is the one that ``DATABASE_URL`` names: ``postgresql``,
``mariadb``, or ``sqlite``, which needs none.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import redis.asyncio

from tests.benchmarks.processes import die_with_parent
from tests.cluster.databases import connect
from tests.cluster.processes import free_port, gone, spawn

from .requirements import REQUIREMENTS, WHY_NOT, Missing, program_of

_SECONDS = 30.0


class RedisServer:
    """A ``redis-server`` that keeps nothing: what it held is forgotten when it stops."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._process = spawn(
            [program_of("redis"), "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"],
            self._folder / "redis.log",
            os.environ,
            cwd=self._folder,
            process_group=0,
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
            shutil.chown(self._data, self._owner().pw_name)
            # What is above it is for this user alone otherwise.
            for folder in (self._folder, *self._folder.parents):
                if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
                    folder.chmod(folder.stat().st_mode | 0o011)
        subprocess.run([*self._unprivileged(), *self._make()], check=True, stdout=subprocess.DEVNULL, cwd="/")

    async def start(self) -> None:
        log = self._folder / f"{self.kind}.log"
        command = [*self._unprivileged("--pdeathsig", "KILL"), *self._serve()]
        self._process = spawn(command, log, os.environ, cwd=Path("/"), process_group=0)
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
        owner = self._owner()
        return ["setpriv", "--reuid", owner.pw_name, "--regid", str(owner.pw_gid), "--init-groups", *options, "--"]

    def _owner(self) -> pwd.struct_passwd:
        try:
            return pwd.getpwnam(self.user)
        except KeyError:
            return pwd.getpwnam("nobody")


class PostgresServer(DatabaseServer):
    kind = "postgresql"
    user = "postgres"
    stop_signal = signal.SIGINT
    crash_signal = signal.SIGQUIT

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _make(self) -> list[str]:
        options = ["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--no-locale"]
        return [program_of("postgresql"), "-D", str(self._data), *options]

    def _serve(self) -> list[str]:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": self.max_connections,
            "fsync": "off",  # it has to survive its own end, not the machine's
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        program = Path(program_of("postgresql")).resolve().with_name("postgres")
        return [str(program), "-D", str(self._data), *options]


class MariaServer(DatabaseServer):
    kind = "mariadb"
    user = "mysql"
    crash_signal = signal.SIGKILL

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/mysql"

    def _make(self) -> list[str]:
        options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
        return [program_of("mariadb"), "--no-defaults", f"--datadir={self._data}", f"--tmpdir={self._data}", *options]

    def _serve(self) -> list[str]:
        options = {
            "datadir": self._data,
            "tmpdir": self._data,  # TMPDIR may be another user's
            "port": self.port,
            "bind-address": "127.0.0.1",
            "socket": self._data / "socket",
            "pid-file": self._data / "pid",
            "max-connections": self.max_connections,
            "character-set-server": "utf8mb4",
            "innodb-flush-log-at-trx-commit": 2,
        }
        return [
            shutil.which("mariadbd") or "/usr/sbin/mariadbd",
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


async def run(database: str, kinds: set[str], command: list[str]) -> int:
    """Run a command while its servers run; returns its exit code."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(_temporary_folder())
        environment = {**os.environ, "TMPDIR": str(folder)}
        why_not: dict[str, str] = json.loads(os.environ.get(WHY_NOT) or "{}")
        for name, requirement in REQUIREMENTS.items():
            if requirement.url and requirement.wanted_for in {"", *kinds} and requirement.url not in environment:
                try:
                    environment[requirement.url] = await stack.enter_async_context(_running(name, folder))
                except Missing as missing:
                    why_not.setdefault(missing.name, missing.why)
                except Exception as error:
                    why_not[name] = f"did not start: {error}"
        environment[WHY_NOT] = json.dumps(why_not)
        if database != "sqlite":
            if database in why_not:
                sys.exit(f"tests/run: {database}: {why_not[database]}")
            environment["DATABASE_URL"] = environment[REQUIREMENTS[database].url]
        return await _run(command, environment)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    # A short name: tests put sockets into folders below it, and a socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="va-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # servers that root starts are other users', and so are some programs of tests
        yield folder


@asynccontextmanager
async def _running(name: str, folder: Path) -> AsyncIterator[str]:
    server = running_redis(folder) if name == "redis" else running_database(name, folder)
    async with server as running:
        yield running.url


async def _run(command: list[str], environment: dict[str, str]) -> int:
    process = await asyncio.create_subprocess_exec(*command, env=environment, preexec_fn=die_with_parent)
    loop = asyncio.get_running_loop()
    # Ctrl-C reaches the command as it does this process, and ends it; the other signals reach this one only.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, process.send_signal, signal.SIGINT)
    code = await process.wait()
    return code if code >= 0 else 128 - code


def main(arguments: list[str]) -> int:
    at = arguments.index("--")
    database, *kinds = arguments[:at]
    try:
        return asyncio.run(run(database, set(kinds), arguments[at + 1 :]))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
