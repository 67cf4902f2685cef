"""`Runner`: what a project makes of its agents; runs them on a console, and serves them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

from .registry import AgentRegistry

if TYPE_CHECKING:
    from ninja import NinjaAPI

    from .asgi.application import AgentsApplication


class Runner(AgentRegistry):
    """Hosts one or several kinds of agents.

    Args:
        launcher: The only agent, named ``default``.
        serve_options: How the REST API behaves.
        launchers: Several agents by name; a client picks one with ``"agent": name``, the first is the default.

    Raises:
        TypeError, ValueError: neither or both of ``launcher`` and ``launchers``, or a name that makes no sense.
    """

    def _class_for_isinstance(self) -> Any:
        """The class of upstream's `Runner`, where somebody has loaded that, else this one's.

        ``vision-agents agent run|serve`` takes what ``isinstance`` says is an upstream Runner, and then calls only
        ``.cli``. It asks for ``__class__`` where the type does not match; nobody who asks has not imported it.
        """
        core = sys.modules.get("vision_agents.core")
        return getattr(core, "Runner", type(self))

    __class__ = property(_class_for_isinstance)

    @property
    def api(self) -> NinjaAPI:
        """The NinjaAPI of the REST endpoints."""
        from .cli.standalone import configure_if_needed

        configure_if_needed(self)
        from .api.factory import api_of

        return api_of(self)

    @property
    def asgi(self) -> AgentsApplication:
        """The ASGI application: REST, Django, and the worker that starts and stops with the server."""
        from .cli.standalone import configure_if_needed

        configure_if_needed(self)
        from .asgi.application import application_of

        return application_of(self)

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
