"""The options of ``run`` and ``serve``, for `Runner.cli` and the management commands alike."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ..exceptions import RunnerConfigurationError, RunnerError
from ..telemetry.logs import LEVELS
from ..utils.text import visible

if TYPE_CHECKING:
    from ..registry import AgentRegistry


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--call-type", default="default", help="type of the call (default: %(default)s)")
    parser.add_argument("--call-id", default=None, help="id of the call (made up if left out)")
    parser.add_argument("--agent", default=None, help="which of the runner's agents (default: the first)")
    parser.add_argument("--debug", action="store_true", help="asyncio's debug mode")
    parser.add_argument("--log-level", default="INFO", metavar="LEVEL", help=_levels("INFO"))
    parser.add_argument(
        "--no-demo", action="store_true", help="serve no call page, and do not open the demo of the agent's edge"
    )
    parser.add_argument(
        "--port", default=None, help="port of the call page on this machine (default: 8000, or a free one)"
    )
    parser.add_argument(
        "--video-track-override",
        default=None,
        metavar="FILE",
        help="play this video to an agent that takes video, instead of any incoming one",
    )
    parser.add_argument("--no-splash", action="store_true", help="do not print the lines at the start")


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default="8000", help="port to listen on (default: %(default)s)")
    parser.add_argument("--agents-log-level", default="INFO", metavar="LEVEL", help=_levels("INFO"))
    parser.add_argument("--http-log-level", default="INFO", metavar="LEVEL", help=_levels("INFO"))
    parser.add_argument("--debug", action="store_true", help="asyncio's debug mode")
    parser.add_argument("--no-splash", action="store_true", help="do not print the lines at the start")
    parser.add_argument(
        "--log-format", default=None, choices=("text", "json"), help="lines, or JSON objects (default: LOG_FORMAT)"
    )
    parser.add_argument(
        "--server", default=None, choices=("daphne", "uvicorn"), help="default: daphne; uvicorn for several workers"
    )
    parser.add_argument(
        "--workers",
        default=None,
        metavar="N",
        help="processes that share the port (default: the environment variable WEB_CONCURRENCY, else 1); several are "
        "served by uvicorn, replaced if they die, one by one on SIGHUP, and drained together",
    )
    parser.add_argument(
        "--reload",
        action="store_true",
        help="for development: when the code changes, close the sessions and serve the new code (by uvicorn)",
    )


def run(runner: AgentRegistry, options: argparse.Namespace) -> int:
    """Run one agent as ``options`` say; returns the exit code."""
    from .run import run_session

    return run_session(
        runner,
        agent=options.agent,
        call_type=options.call_type,
        call_id=options.call_id,
        debug=options.debug,
        log_level=options.log_level,
        no_demo=options.no_demo,
        video_track_override=options.video_track_override,
        port=None if options.port is None else _port(options.port),
        splash=not options.no_splash,
    )


def serve(runner: AgentRegistry, options: argparse.Namespace) -> int:
    """Serve as ``options`` say; returns the exit code."""
    from ..server.main import serve as serve_runner

    serve_runner(
        runner,
        host=options.host,
        port=_port(options.port),
        agents_log_level=options.agents_log_level,
        http_log_level=options.http_log_level,
        log_format=options.log_format,
        debug=options.debug,
        server=options.server,
        workers=None if options.workers is None else _count(options.workers),
        reload=options.reload,
        splash=not options.no_splash,
    )
    return 0


def main(runner: AgentRegistry, args: list[str] | None = None) -> None:
    """Parse ``args`` (or ``sys.argv``), do it, and end the process."""
    parser = argparse.ArgumentParser(description="Run a vision-agents agent.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="run|serve")
    for name, add_arguments, action, text in (
        ("run", add_run_arguments, run, "Run one agent on one call, with a chat in the terminal."),
        ("serve", add_serve_arguments, serve, "Serve the REST API that starts agents on calls."),
    ):
        command = commands.add_parser(name, help=text, description=text)
        add_arguments(command)
        command.set_defaults(action=action)
    options = parser.parse_args(args)
    try:
        from .standalone import configure_if_needed

        configure_if_needed(runner, migrate=True)
        code = options.action(runner, options)
    except RunnerError as error:
        print(f"Error: {visible(str(error))}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 0
    raise SystemExit(code)


def _levels(default: str) -> str:
    return f"{', '.join(LEVELS)}, in any case (default: {default})"


# What people mistype is checked here and below, not by argparse, which would bury the sentence under its usage.


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise RunnerConfigurationError(f"{text!r} is no number of workers: choose 1 or more with --workers") from None


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise RunnerConfigurationError(f"{text!r} is no port: choose one from 0 to 65535 with --port")
    return port
