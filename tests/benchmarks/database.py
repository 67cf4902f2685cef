"""A database that is only the benchmark's: a SQLite file, or one of its own on a PostgreSQL or MariaDB server."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from .processes import ROOT, die_with_parent, environment

_TABLES = ("webhookdelivery", "sessioncommand", "sessionevent", "agentsession", "slot", "worker")
_COUNT = "SELECT worker_id, COUNT(*) FROM visionagents_runner_agentsession WHERE status = 'active' GROUP BY worker_id"


class Database:
    """Migrated once; `fresh` gives it empty."""

    def __init__(self, url: str, label: str, path: Path | None) -> None:
        self.url = url
        self.label = label
        self._path = path
        self._template = path and path.with_suffix(".migrated")

    def migrate(self) -> None:
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity=0"],
            cwd=ROOT,
            env=environment(DATABASE_URL=self.url),
            check=True,
            timeout=120,
            preexec_fn=die_with_parent,
        )
        if self._path is not None:
            with closing(sqlite3.connect(self._path)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            assert self._template is not None
            shutil.copy(self._path, self._template)

    def fresh(self) -> str:
        """Empty it and return its URL. No process may use it."""
        if self._path is not None:
            for suffix in ("-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            assert self._template is not None
            shutil.copy(self._template, self._path)
        else:
            names = [f"visionagents_runner_{name}" for name in _TABLES]
            with _server(self.url) as execute:
                if _is_postgres(self.url):
                    execute(f"TRUNCATE {', '.join(names)} CASCADE")
                else:
                    execute("SET FOREIGN_KEY_CHECKS = 0")
                    for name in names:
                        execute(f"TRUNCATE {name}")
        return self.url

    def active_by_worker(self) -> dict[str, int]:
        """Count the rows that are `active`, by the worker's id."""
        if self._path is not None:
            with closing(sqlite3.connect(self._path, timeout=20)) as connection:
                return dict(connection.execute(_COUNT).fetchall())
        with _server(self.url) as execute:
            return {str(worker): count for worker, count in execute(_COUNT)}


@contextmanager
def database(url: str, folder: Path) -> Iterator[Database]:
    """Make the database: on the server of ``url``, or as a file in ``folder`` if that is empty. It is dropped after."""
    if not url:
        path = folder / "benchmark.sqlite3"
        yield _migrated(Database(f"sqlite:///{path}", f"SQLite {sqlite3.sqlite_version}", path))
        return
    parts = urlsplit(url)
    if not _is_postgres(url) and parts.scheme not in {"mysql", "mariadb"}:
        raise SystemExit(f"--database-url takes postgresql:// or mysql://, not {parts.scheme}://")
    name = f"visionagents_benchmark_{os.getpid()}"
    if not _is_postgres(url):
        url = urlunsplit(parts._replace(path="/"))  # the database that it names need not exist
    with _server(url) as execute:
        [[version]] = execute("SHOW server_version" if _is_postgres(url) else "SELECT VERSION()")
        execute(f"CREATE DATABASE {name}")
    kind = "PostgreSQL" if _is_postgres(url) else "MariaDB" if "MariaDB" in version else "MySQL"
    label = f"{kind} {version.split()[0].split('-')[0]}"
    try:
        own = urlunsplit(parts._replace(path=f"/{name}"))
        yield _migrated(Database(own, label, None))
    finally:
        with _server(url) as execute:
            execute(f"DROP DATABASE {name}{' WITH (FORCE)' if _is_postgres(url) else ''}")


def _migrated(made: Database) -> Database:
    made.migrate()
    return made


def _is_postgres(url: str) -> bool:
    return urlsplit(url).scheme in {"postgres", "postgresql"}


@contextmanager
def _server(url: str) -> Iterator[Callable[[str], list[Any]]]:
    """Yield what executes a statement there and returns its rows."""
    connection: Any
    if _is_postgres(url):
        import psycopg

        connection = psycopg.connect(url, autocommit=True)
    else:
        import MySQLdb

        parts = urlsplit(url)
        connection = MySQLdb.connect(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 3306,
            user=unquote(parts.username or "root"),
            password=unquote(parts.password or ""),
            database=parts.path.removeprefix("/"),
            autocommit=True,
        )
    with closing(connection), closing(connection.cursor()) as cursor:

        def execute(statement: str) -> list[Any]:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

        yield execute
