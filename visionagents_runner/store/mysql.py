"""What a connection to MariaDB or MySQL must be told, where PostgreSQL is told by Django or by its own settings."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import router
from django.db.backends.base.base import BaseDatabaseWrapper

from ..models import AgentSession


def use_utc(sender: Any, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    """Have the database give its time in UTC, in which Django keeps times. Receives ``connection_created``.

    Django tells PostgreSQL so, and leaves these in the server's time zone: ``Now()`` is hours off then, beside the
    times that Python wrote. An offset, because the names of time zones may not be installed.
    """
    if connection.vendor != "mysql" or not settings.USE_TZ or connection.timezone_name != "UTC":
        return
    if connection.alias == router.db_for_write(AgentSession):
        _run(connection, "SET SESSION time_zone = '+00:00'")


def limit_seconds(connection: Any, seconds: float) -> None:
    """Have the database give up a statement, or waiting for a lock, before the client gives up the connection.

    Whoever hung up would not know what became of it. MySQL has a limit for SELECT only.
    """
    _run(connection, f"SET SESSION innodb_lock_wait_timeout = {max(1, int(seconds))}")
    if connection.mysql_is_mariadb:
        _run(connection, f"SET SESSION max_statement_time = {max(1.0, seconds):.3f}")
    else:
        _run(connection, f"SET SESSION max_execution_time = {max(1000, int(seconds * 1000))}")


def _run(connection: BaseDatabaseWrapper, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
