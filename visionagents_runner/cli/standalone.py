"""A Django configuration for a plain ``agent.py`` that has no project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..exceptions import RunnerConfigurationError
from ..utils.secret_key import read_or_make_secret
from ..utils.sqlite import keep_private

if TYPE_CHECKING:
    from ..registry import AgentRegistry

DATABASE_FILE = "visionagents.sqlite3"
SECRET_FILE = ".visionagents_secret_key"  # noqa: S105 - the name of a file
_configured = False


def configure_if_needed(runner: AgentRegistry, *, migrate: bool = False) -> None:
    """Apply the built-in configuration if DJANGO_SETTINGS_MODULE is unset and nothing is configured.

    It keeps the sessions in a SQLite file in the working directory, and the SECRET_KEY in a file beside it, both for
    their owner alone. With ``migrate``, the tables are made, under a lock, so that two processes may start at once.

    Raises:
        RunnerConfigurationError: the working directory cannot be written, or the file with the SECRET_KEY is open to
            others.
    """
    from django.conf import settings

    global _configured
    if not _configured and not settings.configured and not os.environ.get("DJANGO_SETTINGS_MODULE"):
        try:
            _configure(Path.cwd())
        except OSError as error:
            raise RunnerConfigurationError(
                f"Without a Django project, sessions are kept in {Path.cwd() / DATABASE_FILE}, which cannot be "
                f"written ({error.strerror}): change to a directory of yours, or set DJANGO_SETTINGS_MODULE"
            ) from error
        _configured = True
    if _configured:
        from ..registry import set_standalone_runner

        set_standalone_runner(runner)
    _set_up()
    if _configured and migrate:
        _migrate(Path.cwd())


def _set_up() -> None:
    """Load the apps of a project whose script calls the runner without ``django.setup()``."""
    import django
    from django.apps import apps
    from django.core.exceptions import ImproperlyConfigured

    if apps.ready or apps.loading:
        return
    try:
        django.setup()
    except (ImportError, ImproperlyConfigured) as error:
        raise RunnerConfigurationError(f"Django's settings cannot be loaded: {error}") from error


def _configure(folder: Path) -> None:
    from django.conf import settings

    key = read_or_make_secret(folder / SECRET_FILE)
    keep_private(folder / DATABASE_FILE)
    settings.configure(
        DEBUG=False,
        SECRET_KEY=key,
        ALLOWED_HOSTS=["localhost", "127.0.0.1", "[::1]", ".localhost", *_environment_hosts()],
        INSTALLED_APPS=[
            "daphne",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.staticfiles",
            "channels",
            "ninja",
            "visionagents_runner",
        ],
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
        ],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
        ROOT_URLCONF="visionagents_runner.cli.standalone_urls",
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": folder / DATABASE_FILE,
                "OPTIONS": {
                    "transaction_mode": "IMMEDIATE",
                    "timeout": 20,
                    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
                },
            }
        },
        CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
        STATIC_URL="/static/",
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )


def _environment_hosts() -> list[str]:
    """Names under which ``serve --host`` is to be reached, from ALLOWED_HOSTS: nothing is open unless written down."""
    return [host.strip() for host in os.environ.get("ALLOWED_HOSTS", "").split(",") if host.strip()]


def _migrate(folder: Path) -> None:
    from django.core.management import call_command
    from django.db import DatabaseError, connection

    try:
        path = folder / f"{DATABASE_FILE}.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            _lock(lock)
            call_command("migrate", verbosity=0, interactive=False)
        finally:
            os.close(lock)
    except (OSError, DatabaseError) as error:
        raise RunnerConfigurationError(f"{folder / DATABASE_FILE} cannot be prepared: {error}") from error
    finally:
        connection.close()


def _lock(file_descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two first starts at once are rare there
        return
    fcntl.flock(file_descriptor, fcntl.LOCK_EX)
