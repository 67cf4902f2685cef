"""What a database or a Redis on this machine has spent so far: CPU of its processes, and bytes of its log."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Spent:
    cpu_seconds: float
    log_bytes: float | None
    """Of the write-ahead log, or the binary log's counterpart in the engine."""


class DatabaseServer(AbstractContextManager["DatabaseServer"]):
    """Asked through a connection of its own."""

    @staticmethod
    def of(url: str) -> DatabaseServer:
        return (PostgreSQL if url.startswith("postgres") else MariaDB)(url)

    def spent(self) -> Spent:
        raise NotImplementedError


class PostgreSQL(DatabaseServer):
    def __init__(self, url: str) -> None:
        import psycopg

        self._connection = psycopg.connect(url, autocommit=True)

    def spent(self) -> Spent:
        [lsn] = self._connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone() or [0]
        [backend] = self._connection.execute("SELECT pg_backend_pid()").fetchone() or [0]
        return Spent(_cpu_of_family(_parent(backend)), float(lsn))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()


class MariaDB(DatabaseServer):
    def __init__(self, url: str) -> None:
        from urllib.parse import unquote, urlsplit

        import MySQLdb  # type: ignore[import-not-found,unused-ignore]

        parts = urlsplit(url)
        self._connection: Any = MySQLdb.connect(
            host=parts.hostname,
            port=parts.port or 3306,
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )

    def spent(self) -> Spent:
        cursor = self._connection.cursor()
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_os_log_written'")
        written = float(cursor.fetchone()[1])
        cursor.execute("SELECT @@pid_file")
        pid = int(Path(cursor.fetchone()[0]).read_text())
        return Spent(_cpu_of(pid), written)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()


class RedisServer(AbstractContextManager["RedisServer"]):
    def __init__(self, url: str) -> None:
        import redis

        self._client = redis.Redis.from_url(url)
        self.version = str(self._info()["redis_version"])

    def spent(self) -> Spent:
        info = self._info()
        return Spent(float(info["used_cpu_user"]) + float(info["used_cpu_sys"]), None)

    def _info(self) -> dict[str, Any]:
        return dict(self._client.info())  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _cpu_of(pid: int) -> float:
    user, system = _stat(pid)[11:13]
    return (int(user) + int(system)) / _TICKS


def _cpu_of_family(parent: int) -> float:
    """CPU of a process, of its children, and of those that have ended."""
    total = sum(map(int, _stat(parent)[11:15])) / _TICKS
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if _parent(int(entry.name)) == parent:
                    total += _cpu_of(int(entry.name))
            except OSError:
                continue
    return total
