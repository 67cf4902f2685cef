"""`Runner`: the agents of a project and the options of its API; what `runagent` and `serveagents` run."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from .conf.settings import SETTING, get_settings
from .exceptions import AgentNotFound, RunnerConfigurationError
from .options import ServeOptions
from .worker.launcher import AgentLauncher

if TYPE_CHECKING:
    from ninja import NinjaAPI

    from .asgi.application import AgentsApplication

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_standalone: Runner | None = None


class Runner:
    """Hosts one or several kinds of agents.

    Args:
        launcher: The only agent, named ``default``.
        serve_options: How the REST API behaves.
        launchers: Several agents by name; a client picks one with ``"agent": name``, the first is the default.

    Raises:
        TypeError, ValueError: neither or both of ``launcher`` and ``launchers``, or a name that makes no sense.
    """

    standalone = False
    """Whether it runs without a Django project (`cli`, `run` or `serve` of a plain script)."""
    stopped = False
    """Whether its worker in this process has drained, so that none is started again."""

    def __init__(
        self,
        launcher: AgentLauncher | None = None,
        serve_options: ServeOptions | None = None,
        *,
        launchers: Mapping[str, AgentLauncher] | None = None,
    ) -> None:
        if (launcher is None) == (launchers is None):
            raise TypeError("Runner takes launcher=AgentLauncher(...) or launchers={name: AgentLauncher(...)}")
        if launchers is None:
            assert launcher is not None
            launchers = {"default": launcher}
        if not launchers:
            raise ValueError("Runner(launchers=...) must name at least one agent")
        for name, each in launchers.items():
            if not isinstance(each, AgentLauncher):
                raise TypeError(
                    f"Runner expects a visionagents_runner.AgentLauncher for {name!r}, not {type(each).__module__}."
                    f"{type(each).__qualname__}: change the import"
                )
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name for an agent: use letters, digits, '-', '_' and '.'")
            each.name = name
        if len({id(each) for each in launchers.values()}) < len(launchers):
            raise ValueError("Runner(launchers=...) names one AgentLauncher twice: make one for each name")
        self.launchers = dict(launchers)
        self.options = serve_options or ServeOptions()

    @property
    def default_agent(self) -> str:
        return next(iter(self.launchers))

    def launcher(self, name: str | None = None) -> AgentLauncher:
        """Return the launcher of that name, or the default one.

        Raises:
            AgentNotFound: there is none; the message lists those there are.
        """
        try:
            return self.launchers[name or self.default_agent]
        except KeyError:
            raise AgentNotFound(f"There is no agent {name!r}; there are: {', '.join(self.launchers)}") from None

    @property
    def path(self) -> str:
        """Where the project names this runner, for display."""
        return "agent.py" if self.standalone else get_settings().RUNNER

    @cached_property
    def api(self) -> NinjaAPI:
        """The NinjaAPI of the REST endpoints."""
        from .cli.standalone import configure_if_needed

        configure_if_needed(self)
        if self.options.api is not None:
            return self.options.api
        from .api import create_api

        return create_api(self)

    @cached_property
    def asgi(self) -> AgentsApplication:
        """The ASGI application: REST, Django, and the worker that starts and stops with the server."""
        from .cli.standalone import configure_if_needed

        configure_if_needed(self)
        from .asgi.application import AgentsApplication

        return AgentsApplication(self)

    @property
    def fast_api(self) -> NoReturn:
        raise AttributeError("Runner.fast_api does not exist here: use Runner.asgi (the application) or Runner.api")

    def run(
        self,
        call_type: str = "default",
        call_id: str | None = None,
        debug: bool = False,
        log_level: str = "INFO",
        no_demo: bool = False,
        video_track_override: str | None = None,
        *,
        agent: str | None = None,
    ) -> None:
        """Run one agent on one call, with a chat in the terminal, until the call ends or Ctrl-C.

        ``call_id`` is made up if None. The session is recorded like any other.

        Raises:
            RunnerConfigurationError, InvalidInput, AgentNotFound: it cannot run as asked; the message says the fix.
            SystemExit: with code 1, if the agent could not be built or ``join_call`` failed.
        """
        from .cli.run import run_session
        from .cli.standalone import configure_if_needed

        configure_if_needed(self, migrate=True)
        code = run_session(
            self,
            agent=agent,
            call_type=call_type,
            call_id=call_id,
            debug=debug,
            log_level=log_level,
            no_demo=no_demo,
            video_track_override=video_track_override,
        )
        if code:
            raise SystemExit(code)

    def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        agents_log_level: str = "INFO",
        http_log_level: str = "INFO",
        debug: bool = False,
        *,
        server: str | None = None,
        workers: int | None = None,
    ) -> None:
        """Serve the API, and Django besides, until SIGTERM (drains) or SIGINT (closes in order).

        ``workers``: processes that share the port; WEB_CONCURRENCY or 1 if None. ``server``: "daphne" or "uvicorn";
        several workers are uvicorn's. Each of them runs a script that has no project again, up to this call.

        Raises:
            RunnerConfigurationError: it cannot serve as asked (a port in use, say); the message says the fix.
            SystemExit: with code 1, if one of several workers did not end in order.
        """
        from .cli.standalone import configure_if_needed
        from .server.main import serve

        configure_if_needed(self, migrate=True)
        serve(
            self,
            host=host,
            port=port,
            agents_log_level=agents_log_level,
            http_log_level=http_log_level,
            debug=debug,
            server=server,
            workers=workers,
        )

    def cli(self, args: list[str] | None = None) -> None:
        """Run the command line ``run`` or ``serve`` with the options of ``runagent`` and ``serveagents``.

        ``args`` replaces ``sys.argv[1:]``. Ends the process with an exit code.
        """
        from .cli.main import main

        main(self, args)


def get_runner() -> Runner:
    """Return the project's runner, which ``VISIONAGENTS_RUNNER["RUNNER"]`` names. It is imported on first use.

    Raises:
        RunnerConfigurationError: there is none; the message says the fix.
    """
    if _standalone is not None:
        return _standalone
    path = get_settings().RUNNER
    if not path:
        raise RunnerConfigurationError(
            f'No runner is configured: set {SETTING} = {{"RUNNER": "yourproject.agents.runner"}} in your settings'
        )
    from django.utils.module_loading import import_string

    try:
        runner: Any = import_string(path)
    except Exception as error:
        # A missing key of the environment, a limit that makes no sense, a slip of the pen: the project's own mistakes.
        raise RunnerConfigurationError(
            f'{SETTING}["RUNNER"] = {path!r} cannot be imported: {type(error).__name__}: {error}{_place(error)}'
        ) from error
    if not isinstance(runner, Runner):
        raise RunnerConfigurationError(
            f'{SETTING}["RUNNER"] = {path!r} is a {type(runner).__qualname__}, not a visionagents_runner.Runner'
        )
    return runner


def _place(error: Exception) -> str:
    """Return `` (file:line)`` of the innermost line of the project's own, or "" if none had a part in ``error``."""
    if isinstance(error, SyntaxError):
        return f" ({error.filename}:{error.lineno})"
    others = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    others += (os.path.dirname(os.path.abspath(__file__)), "<")
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def set_standalone_runner(runner: Runner) -> None:
    """Make ``runner`` the one of this process, which has no Django project."""
    global _standalone
    runner.standalone = True
    _standalone = runner
