"""Databases of a fleet: one of its own on a server that answers, or a file. Read here without the package."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from tests.benchmarks.processes import ROOT, die_with_parent
from tests.machine.requirements import require

KINDS = ("postgresql", "mariadb", "sqlite")

Row = dict[str, Any]


class Database:
    """Where workers find it, and how to read it: every query on a connection of its own, so that it may go away."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.kind = {"postgresql": "postgresql", "mysql": "mariadb", "sqlite": "sqlite"}[urlsplit(url).scheme]

    def rows(self, statement: str, *values: Any) -> list[Row]:
        """Return what a query finds; ``%s`` stands for a value, and UUIDs come as text."""
        with closing(connect(self.url)) as connection:
            cursor = connection.cursor()
            cursor.execute(statement.replace("%s", "?") if self.kind == "sqlite" else statement, values)
            names = [column[0] for column in cursor.description]
            return [
                {name: _plain(name, value) for name, value in zip(names, row, strict=True)} for row in cursor.fetchall()
            ]

    def execute(self, statement: str) -> None:
        with closing(connect(self.url)) as connection:
            connection.cursor().execute(statement)

    def sessions(self, where: str = "1=1") -> list[Row]:
        return self.rows(f"SELECT * FROM visionagents_runner_agentsession WHERE {where} ORDER BY created_at, id")

    def connections(self) -> int:
        """Return how many connections to it there are; 0 for a file."""
        if self.kind == "sqlite":
            return 0
        where = {
            "postgresql": "pg_stat_activity WHERE datname = current_database()",
            "mariadb": "information_schema.processlist WHERE db = DATABASE()",
        }[self.kind]
        return int(self.rows(f"SELECT COUNT(*) AS n FROM {where}")[0]["n"])

    def forsaken_transactions(self) -> int:
        """Return how many transactions wait for their client to go on, and have for a moment."""
        where = {
            "postgresql": "pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction' "
            "AND state_change < now() - interval '0.2 s'",
            "mariadb": "information_schema.innodb_trx t JOIN information_schema.processlist p "
            "ON p.id = t.trx_mysql_thread_id WHERE p.db = DATABASE() AND p.command = 'Sleep' AND p.time_ms > 200",
        }[self.kind]
        return int(self.rows(f"SELECT COUNT(*) AS n FROM {where}")[0]["n"])

    def migrate(self) -> None:
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity=0"],
            cwd=ROOT,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "tests.cluster.settings",
                "PYTHONPATH": str(ROOT),
                "DATABASE_URL": self.url,
                "REDIS_URL": "",
            },
            check=True,
            timeout=180,
            preexec_fn=die_with_parent,
        )


def connect(url: str) -> Any:
    """Return a DB-API connection that commits by itself."""
    parts = urlsplit(url)
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme == "sqlite":
        return sqlite3.connect(name, timeout=20, isolation_level=None)
    if parts.scheme == "mysql":
        import MySQLdb

        return MySQLdb.connect(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 3306,
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            database=name,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=5,
        )
    import psycopg

    return psycopg.connect(url, autocommit=True, connect_timeout=5)


def refusal(kind: str) -> type[Exception]:
    """Return what that kind's driver raises when a server has no connection left, or one has gone."""
    if kind == "mariadb":
        import MySQLdb

        error: type[Exception] = MySQLdb.OperationalError
    else:
        import psycopg

        error = psycopg.OperationalError
    return error


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, str) and (name == "id" or name.endswith("_id") or name == "restart_of"):
        try:
            return str(uuid.UUID(value))
        except ValueError:
            return value
    return value


def utc(value: object) -> datetime:
    """Return what drivers give as a time: text on SQLite, without a zone on MariaDB."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    assert isinstance(moment, datetime)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


@contextmanager
def fresh_database(kind: str, folder: Path, *, server: str = "") -> Iterator[Database]:
    """Make a migrated database that is dropped afterwards.

    ``server`` is the URL of another server than the machine's own; for ``sqlite``, ``folder`` is where its file goes.
    """
    if kind == "sqlite":
        database = Database(f"sqlite:///{folder / 'cluster.sqlite3'}")
        database.migrate()
        yield database
        return
    url = server or require(kind)
    name = f"visionagents_cluster_{os.getpid()}_{uuid.uuid4().hex[:6]}"
    quoted, last = (f'"{name}"', " WITH (FORCE)") if kind == "postgresql" else (f"`{name}`", "")
    charset = "" if kind == "postgresql" else " CHARACTER SET utf8mb4"
    _administer(url, f"CREATE DATABASE {quoted}{charset}")
    try:
        database = Database(urlunsplit(urlsplit(url)._replace(path=f"/{name}")))
        database.migrate()
        yield database
    finally:
        _administer(url, f"DROP DATABASE {quoted}{last}")


def _administer(url: str, statement: str) -> None:
    parts = urlsplit(url)
    always_there = "/postgres" if parts.scheme == "postgresql" else "/mysql"
    with closing(connect(urlunsplit(parts._replace(path=always_there)))) as connection:
        connection.cursor().execute(statement)
