"""daphne or uvicorn, embedded, with a drain that ends before the server cuts its connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import store
from .application import AgentsApplication, drain, project_application, sweep
from .exceptions import RunnerConfigurationError
from .logs import Format, configure_logging
from .report import print_ready, print_report
from .worker import AgentWorker, current_worker, ensure_worker

if TYPE_CHECKING:
    import uvicorn

    from .runner import Runner

logger = logging.getLogger(__name__)

SERVERS = ("daphne", "uvicorn")
_BACKLOG = 2048
_LAST_REQUESTS_SECONDS = 3
_THREADS = "visionagents-"
_LOADING_THREADS = "speech-load"


def serve(
    runner: Runner,
    *,
    host: str,
    port: int,
    agents_log_level: str = "INFO",
    http_log_level: str = "INFO",
    log_format: Format | None = None,
    debug: bool = False,
    server: str = "daphne",
    splash: bool = True,
) -> None:
    """Serve until SIGTERM (drains) or SIGINT (closes in order).

    A second signal ends a drain: what is left closes in order at once. A third one does not wait for agents that take
    their time to close; one more ends the process.

    Raises:
        RunnerConfigurationError: the address cannot be listened on, or the worker cannot start.
    """
    if server not in SERVERS:
        raise RunnerConfigurationError(f"Unknown server {server!r}: choose from {', '.join(SERVERS)}")
    configure_logging(agents=agents_log_level, http=http_log_level, log_format=log_format)
    if debug:
        # Read when the loop is made, which for daphne is when it is first imported.
        os.environ.setdefault("PYTHONASYNCIODEBUG", "1")
    began = time.monotonic()
    application = project_application(runner)
    application.managed = True
    runner.stopped = False
    listener = listen(host, port)
    try:
        application.prepare()
        if splash:
            print_report(runner, url=url_of(listener))
        life = _Life(runner, began)
        if server == "daphne":
            _serve_daphne(application, listener, life, debug=debug)
        else:
            _serve_uvicorn(application, listener, life, debug=debug)
    finally:
        listener.close()
    if life.failure is not None:
        raise life.failure
    leave_if_held(0)


def leave_if_held(code: int) -> None:
    """End the process now, with ``code``, if a thread would keep Python from it; else do nothing.

    Python would join a thread that still waits (for the database, for a ``create_agent`` that never returns), for as
    long as that takes. One that loads models for speech is waited for neither: nobody will hear them.
    """
    if not store.close():
        logger.error("The database does not answer; leaving without saying goodbye to it")
    elif held := _threads_left(_LAST_REQUESTS_SECONDS):
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


class _Life:
    """The worker's life inside one server: started with it, drained by signals."""

    def __init__(self, runner: Runner, began: float) -> None:
        self.runner = runner
        self.failure: RunnerConfigurationError | None = None
        self._began = began
        self._signals = 0
        self._ending: asyncio.Task[None] | None = None
        self._stop_server: Callable[[], None] = lambda: None

    def begin(self, stop_server: Callable[[], None]) -> None:
        """Start the worker, and from now on let signals end it, and then the server through ``stop_server``."""
        self._stop_server = stop_server
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(signal_number, self._on_signal, signal_number)
            except NotImplementedError:  # Windows
                signal.signal(
                    signal_number,
                    lambda number, frame: loop.call_soon_threadsafe(self._on_signal, signal.Signals(number)),
                )
        self._starting = loop.create_task(self._start())

    async def _start(self) -> None:
        try:
            worker = await ensure_worker(self.runner)
        except RunnerConfigurationError as error:
            self.failure = error
            await self._end(0)
            return
        except Exception as error:
            logger.debug("The worker could not start", exc_info=True)
            self.failure = RunnerConfigurationError(f"The worker could not start: {error}")
            await self._end(0)
            return
        self._telling = asyncio.get_running_loop().create_task(self._tell_when_warm(worker))

    async def _tell_when_warm(self, worker: AgentWorker) -> None:
        await worker.wait_warm()
        if worker.running and not worker.draining:
            print_ready(time.monotonic() - self._began)

    def _on_signal(self, signal_number: signal.Signals) -> None:
        self._signals += 1
        worker = current_worker()
        if self._signals == 1:
            timeout = None if signal_number == signal.SIGTERM else 0
            self._ending = asyncio.get_running_loop().create_task(self._end(timeout))
        elif self._signals == 2 and worker is not None:
            logger.warning("Second signal: closing the remaining sessions now")
            worker.hurry()
        elif self._signals == 3 and worker is not None:
            logger.warning("Third signal: leaving behind the agents that have not closed yet")
            worker.hurry()
            for session in list(worker.live_sessions):
                session.request_close(force=True, by="third signal", reason=worker.closing_reason)
        elif self._signals > 3:
            logger.error("Leaving at once; the next worker declares what was left as lost")
            os._exit(1)

    async def _end(self, timeout: float | None) -> None:
        try:
            self.runner.stopped = True
            if self._starting is not asyncio.current_task():
                await asyncio.wait({self._starting}, timeout=_LAST_REQUESTS_SECONDS)  # it sees that and stops again
            await drain(self.runner, timeout)
        finally:
            self._stop_server()


def _serve_daphne(application: AgentsApplication, listener: socket.socket, life: _Life, *, debug: bool) -> None:
    from daphne.server import Server  # installs Twisted's reactor: not before it is wanted
    from twisted.internet import reactor as _reactor

    from .bodylimit import limit_bodies

    reactor: Any = _reactor

    class OrderedServer(Server):  # type: ignore[misc]  # daphne is not typed
        def kill_all_applications(self) -> Any:
            # Daphne's own raises KeyError for a client that had sent only half of its headers.
            for details in self.connections.values():
                details.setdefault("application_instance", _done_future())
            return super().kill_all_applications()

    def begin() -> None:
        limit_bodies(server.http_factory, application)
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

    server = OrderedServer(
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


def _serve_uvicorn(application: AgentsApplication, listener: socket.socket, life: _Life, *, debug: bool) -> None:
    server = uvicorn_server(application, on_startup=life.begin)

    async def main() -> None:
        await server.serve(sockets=[listener])
        await sweep()

    asyncio.run(main(), debug=debug)


def uvicorn_server(
    application: Any,
    *,
    on_startup: Callable[[Callable[[], None]], None] = lambda stop: None,
    patience: int = _LAST_REQUESTS_SECONDS,
) -> uvicorn.Server:
    """Return a uvicorn that leaves signals and lifespan to its caller: ``await server.serve(sockets=[...])``.

    ``on_startup`` is called, when it listens, with what stops it. ``patience``: seconds that requests may take then.
    """
    import uvicorn

    class OrderedServer(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            yield  # they are the worker's: it drains first

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            on_startup(self._leave)

        def _leave(self) -> None:
            self.should_exit = True

    config = uvicorn.Config(
        application,
        lifespan="off",
        log_config=None,
        access_log=True,
        ws="auto",
        # The calls have ended by then. Without it, a client that has sent half a body keeps the server for ever.
        timeout_graceful_shutdown=patience,
    )
    return OrderedServer(config)


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


def _done_future() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_event_loop().create_future()
    future.set_result(None)
    return future


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
