"""A database that is only the benchmark's: a SQLite file a server, or one of its own on a PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from .processes import ROOT, die_with_parent, environment

_TABLES = ("sessionevent", "agentsession", "slot", "worker")
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
            names = ", ".join(f"visionagents_runner_{name}" for name in _TABLES)
            with _postgres(self.url) as connection:
                connection.execute(f"TRUNCATE {names} CASCADE")
        return self.url

    def active_by_worker(self) -> dict[str, int]:
        """Count the rows that are `active`, by the worker's id."""
        if self._path is not None:
            with closing(sqlite3.connect(self._path, timeout=20)) as connection:
                return dict(connection.execute(_COUNT).fetchall())
        with _postgres(self.url) as connection:
            return {str(worker): count for worker, count in connection.execute(_COUNT).fetchall()}


@contextmanager
def database(url: str, folder: Path) -> Iterator[Database]:
    """Make the database: on the server of ``url``, or as a file in ``folder`` if that is empty. It is dropped after."""
    if not url:
        path = folder / "benchmark.sqlite3"
        yield _migrated(Database(f"sqlite:///{path}", f"SQLite {sqlite3.sqlite_version}", path))
        return
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise SystemExit(f"--database-url takes postgresql://, not {parts.scheme}://")
    name = f"visionagents_benchmark_{os.getpid()}"
    with _postgres(url) as connection:
        version = connection.execute("SHOW server_version").fetchone()[0].split()[0]
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        own = urlunsplit(parts._replace(path=f"/{name}"))
        yield _migrated(Database(own, f"PostgreSQL {version}", None))
    finally:
        with _postgres(url) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _migrated(made: Database) -> Database:
    made.migrate()
    return made


@contextmanager
def _postgres(url: str) -> Iterator[Any]:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        yield connection
