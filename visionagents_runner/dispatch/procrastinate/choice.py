"""Whether Procrastinate moves the queue in this project."""

from __future__ import annotations

from importlib.util import find_spec

from django.apps import apps
from django.conf import settings
from django.db import connections, router

from ...conf.settings import get_settings

APP = "procrastinate.contrib.django"


def uses_procrastinate() -> bool:
    """Say whether sessions are handed to Procrastinate: the same in every process of the project. Asks no database."""
    return get_settings().DISPATCH_ENGINE != "poll" and obstacle() is None


def obstacle() -> tuple[str, str] | None:
    """Return what keeps Procrastinate from moving the queue, and what to do about it; None if nothing does."""
    if find_spec("procrastinate") is None:
        return "Procrastinate is not installed", 'Run pip install "visionagents-runner[cluster]".'
    if not apps.is_installed(APP):
        return f'"{APP}" is not in INSTALLED_APPS', "Add it there, and run manage.py migrate."
    alias = sessions_database()
    if connections[alias].vendor != "postgresql":
        return (
            f"the sessions are on {connections[alias].display_name}, and Procrastinate works on PostgreSQL only",
            "Use PostgreSQL, or leave it to the poll: DISPATCH_ENGINE = 'poll'.",
        )
    if missing := [name for name in ("psycopg", "psycopg_pool") if find_spec(name) is None]:
        return f"{' and '.join(missing)} cannot be imported", 'Run pip install "visionagents-runner[cluster]".'
    theirs = getattr(settings, "PROCRASTINATE_DATABASE_ALIAS", "default")
    if theirs != alias:
        return (
            f"Procrastinate's jobs are in another database ({theirs!r}) than the sessions ({alias!r})",
            f"Set PROCRASTINATE_DATABASE_ALIAS = {alias!r}.",
        )
    return None


def sessions_database() -> str:
    from ...models import AgentSession

    return router.db_for_write(AgentSession)
