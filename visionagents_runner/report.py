"""What a command prints at its start: where to look, what is open to whom, and what is missing with the fix."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, TextIO

from django.conf import settings
from django.db import connections, router
from rich.console import Console
from rich.text import Text

from . import __version__
from .conf import get_settings
from .models import AgentSession

if TYPE_CHECKING:
    from .runner import Runner


def report_lines(runner: Runner, *, url: str | None) -> list[tuple[str, str]]:
    """Return ``(label, text)`` pairs; without ``url`` (nothing is served), what concerns the network is left out."""
    lines = [("agents", ", ".join(_agent(name, runner) for name in runner.launchers))]
    if url is not None:
        lines += [("open", _open(url)), ("API", _api(runner))]
    lines.append(("storage", f"{_database()} · {_channel_layer()}"))
    return lines


def title(runner: Runner) -> str:
    return f"visionagents_runner {__version__} · vision-agents {_version('vision-agents')} · {runner.path}"


def print_report(runner: Runner, *, url: str | None, stream: TextIO | None = None) -> None:
    console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
    console.print(Text(title(runner), style="bold"))
    for label, text in report_lines(runner, url=url):
        console.print(Text.assemble((f"  {label:<9} ", "dim"), text))


def print_ready(seconds: float, stream: TextIO | None = None) -> None:
    console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
    drain = f"SIGTERM drains for {get_settings().DRAIN_TIMEOUT:g} s"
    console.print(Text(f"  ready in {seconds:.1f} s   Ctrl-C closes calls in order, {drain}"))


def _agent(name: str, runner: Runner) -> str:
    limit = runner.launchers[name].max_concurrent_sessions
    return f"{name} (max {limit})" if limit else name


def _open(url: str) -> str:
    from django.urls import NoReverseMatch, Resolver404, resolve, reverse

    found = []
    with suppress(Resolver404):
        resolve("/")
        found.append(url)
    for name, what in (("visionagents_runner:docs", "API docs"), ("admin:index", "admin")):
        with suppress(NoReverseMatch):
            found.append(f"{url.rstrip('/')}{reverse(name)} ({what})")
    return "  ".join(found) or url


def _api(runner: Runner) -> str:
    if runner.options.api is not None:
        return "your own NinjaAPI decides"
    if runner.options.can_start_session is not None:
        return "ServeOptions(can_start_session=...) decides who may start sessions"
    local = get_settings().ALLOW_LOCAL
    if local or (local is None and (settings.DEBUG or runner.standalone)):
        return (
            "requests from this machine, and signed-in users with permission"
            "  (to open it to others: ServeOptions(can_start_session=...))"
        )
    return "signed-in users with permission  (to open it further: ServeOptions(can_start_session=...))"


def _database() -> str:
    connection = connections[router.db_for_write(AgentSession)]
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        return f"SQLite {name.rpartition('/')[2]}: one machine (DATABASE_URL or DATABASES for more)"
    host = connection.settings_dict.get("HOST") or "local socket"
    return f"{connection.display_name} {name} at {host}"


def _channel_layer() -> str:
    backend = getattr(settings, "CHANNEL_LAYERS", {}).get("default", {}).get("BACKEND", "")
    if not backend:
        return "no channel layer"
    if "InMemory" in backend:
        return "channel layer in memory: one process (REDIS_URL or CHANNEL_LAYERS for more)"
    return "channel layer " + ("Redis" if "redis" in backend.lower() else backend.rpartition(".")[2])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
