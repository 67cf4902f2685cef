"""daphne or uvicorn, embedded, with a drain that ends before the server cuts its connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..asgi.application import AgentsApplication, project_application
from ..conf.settings import get_settings
from ..exceptions import RunnerConfigurationError
from ..store import database
from ..telemetry.logs import Format, configure_logging
from ..worker.process import sweep
from .banner import print_report, warn_of_local_requests
from .lifecycle import LAST_REQUESTS_SECONDS, Life
from .subprocess import STARTUP_FAILURE, Supervised, place

if TYPE_CHECKING:
    from ..registry import AgentRegistry
    from .uvicorn import OrderedServer

logger = logging.getLogger(__name__)

SERVERS = ("daphne", "uvicorn")
_BACKLOG = 2048
_NO_KEEP_ALIVE_TIMEOUT = 3600
_THREADS = "visionagents-"
_LOADING_THREADS = "speech-load"


def serve(
    runner: AgentRegistry,
    *,
    host: str,
    port: int,
    agents_log_level: str = "INFO",
    http_log_level: str = "INFO",
    log_format: Format | None = None,
    debug: bool = False,
    server: str | None = None,
    workers: int | None = None,
    splash: bool = True,
) -> None:
    """Serve until SIGTERM (drains) or SIGINT (closes in order).

    A second signal ends a drain: what is left closes in order at once. A third one does not wait for agents that take
    their time to close; one more ends the process. With several ``workers``, all that holds for each of them.

    Raises:
        RunnerConfigurationError: the address cannot be listened on, or the worker cannot start.
        SystemExit: with code 1, if one of several workers did not end in order.
    """
    server, workers = choose_server(server, workers)
    configure_logging(agents=agents_log_level, http=http_log_level, log_format=log_format)
    if debug:
        # Read when the loop is made, which for daphne is when it is first imported.
        os.environ.setdefault("PYTHONASYNCIODEBUG", "1")
    began = time.monotonic()
    if (supervised := place()) is not None:
        _serve_supervised(runner, supervised, began, debug=debug)
        return
    if workers > 1 and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RunnerConfigurationError(
            'Each worker loads this script first: call cli() or serve() under `if __name__ == "__main__":`'
        )
    application = _prepared(runner)
    listener = listen(host, port)
    try:
        application.prepare()
        if splash:
            print_report(runner, url=url_of(listener), workers=workers)
        warn_of_local_requests(runner, listener.getsockname()[0])
        if workers > 1:
            from .supervisor import supervise

            options = {
                "host": host,
                "port": port,
                "agents_log_level": agents_log_level,
                "http_log_level": http_log_level,
                "log_format": log_format,
                "debug": debug,
                "server": server,
                "workers": workers,
            }
            supervise(runner, listener, workers=workers, options=options, began=began)
            return
        life = Life(runner, began)
        if server == "daphne":
            _serve_daphne(application, listener, life, debug=debug)
        else:
            _serve_uvicorn(application, listener, life, debug=debug)
    finally:
        listener.close()
    if life.failure is not None:
        raise life.failure
    leave_if_held(0)


def choose_server(server: str | None, workers: int | None) -> tuple[str, int]:
    """Return the server and the number of workers to have, of which None leaves the choice.

    Several workers are uvicorn's; WEB_CONCURRENCY says how many, as with uvicorn and gunicorn, where nothing else does.

    Raises:
        RunnerConfigurationError: there is no such server, or it cannot have that many.
    """
    if server is not None and server not in SERVERS:
        raise RunnerConfigurationError(f"Unknown server {server!r}: choose from {', '.join(SERVERS)}")
    if workers is None:
        text = "" if server == "daphne" else os.environ.get("WEB_CONCURRENCY", "").strip()
        if not text:
            return server or "daphne", 1
        if not (text.isdecimal() and int(text) > 0):
            raise RunnerConfigurationError(
                f"The environment variable WEB_CONCURRENCY is {text!r}: make it a number from 1 on, or set --workers"
            )
        workers = int(text)
    if workers < 1:
        raise RunnerConfigurationError(f"{workers} workers cannot serve: choose 1 or more with --workers")
    if workers > 1 and server == "daphne":
        raise RunnerConfigurationError(
            f"daphne is one process: for {workers} workers use --server uvicorn, or run several daphnes behind a load "
            "balancer (systemd units, containers)"
        )
    if workers > 1 and not hasattr(signal, "pthread_sigmask"):
        raise RunnerConfigurationError("Several workers need a Unix system: here, leave --workers out")
    return server or ("uvicorn" if workers > 1 else "daphne"), workers


def _prepared(runner: AgentRegistry) -> AgentsApplication:
    application = project_application(runner)
    application.managed = True
    runner.stopped = False
    return application


def _serve_supervised(runner: AgentRegistry, supervised: Supervised, began: float, *, debug: bool) -> None:
    """Serve as one of several workers; what keeps it from starting is the supervisor's to tell."""
    life = Life(runner, began, supervised)
    try:
        application = _prepared(runner)
        application.prepare()
        _serve_uvicorn(application, supervised.listener, life, debug=debug, late=supervised.late)
        if life.failure is not None:
            raise life.failure
    except RunnerConfigurationError as error:
        supervised.tell("failed", str(error))
        leave_if_held(STARTUP_FAILURE)
        raise SystemExit(STARTUP_FAILURE) from None
    leave_if_held(0)


def leave_if_held(code: int) -> None:
    """End the process now, with ``code``, if a thread would keep Python from it; else do nothing.

    Python would join a thread that still waits (for the database, for a ``create_agent`` that never returns), for as
    long as that takes. One that loads models for speech is waited for neither: nobody will hear them.
    """
    if not database.close():
        logger.error("The database does not answer; leaving without saying goodbye to it")
    elif held := _threads_left(LAST_REQUESTS_SECONDS):
        logger.error("Left behind: %s", ", ".join(f"the thread {name}" for name in held))
    elif not any(thread.name.startswith(_LOADING_THREADS) for thread in threading.enumerate()):
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever read it has gone
            stream.flush()
    os._exit(code)


def _threads_left(seconds: float) -> list[str]:
    """Return which threads of this package still run ``seconds`` from now: those whose work never comes back."""
    ours = [thread for thread in threading.enumerate() if thread.name.startswith(_THREADS)]
    deadline = time.monotonic() + seconds
    for thread in ours:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread.name for thread in ours if thread.is_alive()]


def _serve_daphne(application: AgentsApplication, listener: socket.socket, life: Life, *, debug: bool) -> None:
    from twisted.internet import reactor as _reactor

    from .daphne import OrderedDaphne  # installs Twisted's reactor: not before it is wanted

    reactor: Any = _reactor

    def begin() -> None:
        server.watch.start(reactor._asyncioEventloop)
        life.begin(stop)

    def stop() -> None:
        reactor.callLater(0, reactor.stop)

    def after_applications() -> Any:
        from twisted.internet.defer import Deferred

        return Deferred.fromFuture(asyncio.ensure_future(sweep(), loop=reactor._asyncioEventloop))

    def ready() -> None:
        # The loop does not run yet: a task made now would have no running loop.
        reactor.callLater(0, begin)
        reactor.addSystemEventTrigger("before", "shutdown", after_applications)

    server = OrderedDaphne(
        application,
        endpoints=[_endpoint(listener)],
        signal_handlers=False,
        action_logger=_log_daphne_action,
        ready_callable=ready,
        verbosity=3 if debug else 1,
    )
    server.run()
    if server.abort_start and life.failure is None:
        raise RunnerConfigurationError("daphne could not listen on the address: see the log")


def _serve_uvicorn(
    application: AgentsApplication, listener: socket.socket, life: Life, *, debug: bool, late: bool = False
) -> None:
    """``late``: take connections only once the worker is warm."""
    server = uvicorn_server(application, on_startup=lambda: None if late else begin())

    server.config.load()  # what it imports would hold the loop later

    def begin() -> None:
        life.begin(server.leave, server.stop_listening, server.hang_up)

    async def main() -> None:
        if late:
            begin()
            await life.settled.wait()
        if not server.should_exit:
            await server.serve(sockets=[listener])
        await sweep()

    asyncio.run(main(), debug=debug)


def uvicorn_server(
    application: Any,
    *,
    on_startup: Callable[[], None] = lambda: None,
    patience: int = LAST_REQUESTS_SECONDS,
) -> OrderedServer:
    """Return a uvicorn that leaves signals and lifespan to its caller: ``await server.serve(sockets=[...])``.

    ``on_startup`` is called when it listens. ``patience``: seconds that requests may take when it stops.
    """
    import uvicorn

    from .uvicorn import OrderedServer

    limits = get_settings()
    config = uvicorn.Config(
        application,
        lifespan="off",
        workers=1,  # else uvicorn reads WEB_CONCURRENCY, whatever that is
        log_config=None,
        access_log=True,
        ws="websockets-sansio",
        ws_max_size=limits.MAX_MESSAGE_BYTES,
        # Audio does not get smaller, and a kilobyte that unpacks to a megabyte does not come.
        ws_per_message_deflate=False,
        timeout_keep_alive=limits.KEEP_ALIVE_TIMEOUT or _NO_KEEP_ALIVE_TIMEOUT,  # type: ignore[arg-type]  # takes a float
        # The calls have ended by then. Without it, a client that has sent half a body keeps the server for ever.
        timeout_graceful_shutdown=patience,
    )
    return OrderedServer(config, on_startup=on_startup)


def listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host.strip("[]"), port), family=family, backlog=_BACKLOG)
    except OverflowError:
        raise RunnerConfigurationError(f"{port} is no port: choose one from 0 to 65535") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RunnerConfigurationError(
                f"Port {port} on {host} is in use: stop the other server, or choose another with --port"
            ) from None
        if error.errno in {errno.EACCES, errno.EPERM}:
            raise RunnerConfigurationError(
                f"Port {port} on {host} needs privileges: choose one above 1023 with --port"
            ) from None
        raise RunnerConfigurationError(f"Cannot listen on {host}:{port}: {error.strerror or error}") from None
    # asyncio sets it only where the socket names its protocol; without it each answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)
    return listener


def _endpoint(listener: socket.socket) -> str:
    """Return Twisted's description of the bound socket."""
    domain = "" if listener.family == socket.AF_INET else f":domain={int(listener.family)}"
    if domain:
        # The fd: parser takes its domain as text and fails on it; a tcp: endpoint has to bind anew.
        host, port = listener.getsockname()[:2]
        listener.close()
        return f"tcp:port={port}:interface={host}".replace(host, host.replace(":", r"\:"))
    return f"fd:fileno={listener.detach()}"  # Twisted makes a copy of it and closes it


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - shown, not bound
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _log_daphne_action(protocol: str, action: str, details: dict[str, Any]) -> None:
    if protocol == "http" and action == "complete":
        level = logging.ERROR if details["status"] == 500 else logging.INFO
        logging.getLogger("daphne.access").log(
            level,
            "%s %s %s in %.0f ms",
            details["method"],
            details["path"],
            details["status"],
            details["time_taken"] * 1000,
            extra={"client": details["client"]},
        )
