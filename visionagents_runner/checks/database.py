"""The database, as the settings have it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning, register  # noqa: A004
from django.db import router

from ..models import AgentSession
from .base import TAG, AppConfigs, is_number

SQLITE_TIMEOUT = 5
"""The least number of seconds that one writer should wait for another."""
_WAL = re.compile(r"journal_mode\s*(=|\()\s*['\"]?wal\b", re.IGNORECASE)
_SQLITE_OPTIONS = (
    '"OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20, '
    '"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}'
)


@register(TAG)
def check_databases(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    """Read DATABASES only: this runs before the database exists."""
    messages = list(_kept_connections())
    alias = router.db_for_write(AgentSession)
    database = settings.DATABASES.get(alias) or {}
    engine = str(database.get("ENGINE", ""))
    if "sqlite" in engine or "spatialite" in engine:
        messages += _sqlite(alias, database)
    elif "oracle" in engine:
        messages.append(
            Warning(
                f"DATABASES[{alias!r}] is Oracle, on which this app was never tested: it takes '' for NULL.",
                hint="Route the app to PostgreSQL, MariaDB, MySQL or SQLite with DATABASE_ROUTERS.",
                id="visionagents_runner.W012",
            )
        )
    return messages


def _kept_connections() -> Iterator[CheckMessage]:
    for alias, database in settings.DATABASES.items():
        age = database.get("CONN_MAX_AGE", 0)
        if age != 0:
            yield Warning(
                f"DATABASES[{alias!r}] has CONN_MAX_AGE = {age!r}: under ASGI each thread keeps a connection that no "
                "request finds again, until the database refuses new ones.",
                hint='Set CONN_MAX_AGE to 0; on PostgreSQL, "OPTIONS": {"pool": True} is what it was meant for.',
                id="visionagents_runner.W005",
            )


def _sqlite(alias: str, database: Mapping[str, Any]) -> Iterator[CheckMessage]:
    name = str(database.get("NAME", ""))
    if name == ":memory:":
        yield Warning(
            f"DATABASES[{alias!r}] is SQLite in memory: each thread of the runner would see an empty database of its "
            "own.",
            hint='Give it a file: "NAME": BASE_DIR / "db.sqlite3".',
            id="visionagents_runner.W004",
        )
        return
    if "mode=memory" in name:
        return  # what Django's test runner makes of a file
    options = database.get("OPTIONS") or {}
    missing = []
    if not _WAL.search(str(options.get("init_command", ""))):
        missing.append("an init_command that sets journal_mode=WAL")
    if str(options.get("transaction_mode") or "").upper() not in {"IMMEDIATE", "EXCLUSIVE"}:
        missing.append('"transaction_mode": "IMMEDIATE"')
    timeout = options.get("timeout", 0)
    if not is_number(timeout) or timeout < SQLITE_TIMEOUT:
        missing.append(f'a "timeout" of {SQLITE_TIMEOUT} s or more')
    if missing:
        yield Warning(
            f"DATABASES[{alias!r}] is SQLite without {', '.join(missing)}: two that write at once meet "
            '"database is locked", and sessions fail.',
            hint=f"Write {_SQLITE_OPTIONS}.",
            id="visionagents_runner.W003",
        )


@register(TAG)
def check_time_zones(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    if settings.USE_TZ:
        return []
    return [
        Warning(
            "USE_TZ is False: times of sessions would be off wherever the zones of server, database and user differ.",
            hint="Set USE_TZ = True, Django's default.",
            id="visionagents_runner.W013",
        )
    ]
