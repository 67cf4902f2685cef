"""What a command prints at its start: where to look, what is open to whom, and what is missing with the fix."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, TextIO

from django.db import connections, router
from django.urls import NoReverseMatch, Resolver404, resolve, reverse
from rich.console import Console
from rich.text import Text

from .. import __version__
from ..asgi.prefixes import included_prefixes
from ..auth import local_processes
from ..auth.local_requests import local_counts
from ..auth.local_token import local_token, page_url, token_file
from ..conf.settings import get_settings
from ..messaging.layer import layer_in_settings, reaches_others
from ..models import AgentSession
from ..utils.text import one_line

if TYPE_CHECKING:
    from ..registry import AgentRegistry

logger = logging.getLogger(__name__)


def report_lines(
    runner: AgentRegistry, *, url: str | None, workers: int = 1, secrets: bool = False
) -> list[tuple[str, str]]:
    """Return ``(label, text)`` pairs; without ``url`` (nothing is served), what concerns the network is left out.

    ``secrets``: whether nobody but who started this sees it, no log.
    """
    lines = [("agents", ", ".join(_agent(name, runner, workers) for name in runner.launchers))]
    if workers > 1:
        lines.append(("workers", f"{workers} processes on one port"))
    if url is not None:
        lines += [("open", _open(url)), ("API", _api(runner))]
        if local := _local(runner, url, secrets):
            lines.append(("local", local))
    lines.append(("storage", _database() if url is None else f"{_database()} · {_channel_layer(workers)}"))
    if voice := _voice(runner):
        lines.append(("voice", voice))
    return lines


def title(runner: AgentRegistry) -> str:
    return f"visionagents_runner {__version__} · vision-agents {_version('vision-agents')} · {runner.path}"


def print_report(runner: AgentRegistry, *, url: str | None, workers: int = 1, stream: TextIO | None = None) -> None:
    console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
    console.print(Text(title(runner), style="bold"))
    for label, text in report_lines(runner, url=url, workers=workers, secrets=console.is_terminal):
        _print_line(console, label, text)


def print_line(label: str, text: str, *, stream: TextIO | None = None) -> None:
    """Print one more line like those of `print_report`."""
    _print_line(Console(file=stream or sys.stderr, highlight=False, soft_wrap=True), label, text)


def _print_line(console: Console, label: str, text: str) -> None:
    console.print(Text.assemble((f"  {label:<9} ", "dim"), one_line(text)))


def print_ready(seconds: float, stream: TextIO | None = None) -> None:
    console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
    drain = f"SIGTERM drains for {get_settings().DRAIN_TIMEOUT:g} s"
    console.print(Text(f"  ready in {seconds:.1f} s   Ctrl-C closes calls in order, {drain}"))


def _agent(name: str, runner: AgentRegistry, workers: int) -> str:
    limit = runner.launchers[name].max_concurrent_sessions
    if not limit:
        return name
    return f"{name} (max {limit} a worker)" if workers > 1 else f"{name} (max {limit})"


def _open(url: str) -> str:
    """Return where to begin, and what else there is with its path."""
    pages = {}
    for name, what in (("new-call", "call page"), ("admin:index", "admin"), ("docs", "API docs")):
        with suppress(NoReverseMatch):
            pages[what] = reverse(name if ":" in name else f"visionagents_runner:{name}")
    begin = url
    try:
        resolve("/")
    except Resolver404:
        begin = url.rstrip("/") + next(iter(pages.values()), "/")
    return "   ".join(filter(None, (begin, " · ".join(f"{what} {path}" for what, path in pages.items()))))


def _api(runner: AgentRegistry) -> str:
    if runner.options.api is not None:
        return "your own NinjaAPI decides"
    if runner.options.can_start_session is not None:
        return "ServeOptions(can_start_session=...) decides who may start sessions"
    if local_counts(runner):
        return "requests from this machine, signed-in users with permission, API keys"
    return "signed-in users with permission, API keys  (to open it further: ServeOptions(can_start_session=...))"


def _local(runner: AgentRegistry, url: str, secrets: bool) -> str:
    """Return for whom local requests count, and how the rest of this machine's owner shows who they are."""
    if runner.options.api is not None or not local_counts(runner):
        return ""
    known = "programs and browsers of this user need no sign-in" if local_processes.can_tell() else ""
    token = local_token()
    if token is None:
        how = f"there is no token for others: {token_file().parent} cannot be written"
    elif secrets and (prefixes := included_prefixes()):
        how = page_url(f"{url.rstrip('/')}/{prefixes[0]}", token)
        how = f"from a tunnel or a container open {how}" if known else f"in a browser open {how}"
    else:
        how = f"{'for a tunnel or a container, ' if known else ''}the token is in {token_file()}"
    return "; ".join(filter(None, (known, how)))


def _database() -> str:
    connection = connections[router.db_for_write(AgentSession)]
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        return f"SQLite {name.rpartition('/')[2]}"
    host = connection.settings_dict.get("HOST") or "local socket"
    return f"{connection.display_name} {name} at {host}"


def _channel_layer(workers: int) -> str:
    backend = layer_in_settings()
    if not backend:
        return "no channel layer"
    if not reaches_others(backend) and workers > 1:
        return "channel layer in memory"  # which the supervisor warns of
    if not reaches_others(backend):
        return "channel layer in memory: one process only (REDIS_URL or CHANNEL_LAYERS for more)"
    return "channel layer " + ("Redis" if "redis" in backend.lower() else backend.rpartition(".")[2])


def _voice(runner: AgentRegistry) -> str:
    """Return whether the demo's agents can hear and speak; "" where none of them is hosted."""
    from .. import demo

    recipes = (launcher._create_agent for launcher in runner.launchers.values())
    if not any(getattr(recipe, "__module__", "").startswith(demo.__name__) for recipe in recipes):
        return ""
    hint = demo.voice_hint()
    return f"not installed: {hint.partition(': ')[2].rstrip('.')}" if hint else "on this machine, in English"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
