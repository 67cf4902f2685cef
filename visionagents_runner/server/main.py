"""daphne or uvicorn, embedded, with a drain that ends before the server cuts its connections."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from typing import TYPE_CHECKING

from ..auth.local_requests import warn_of_local_requests
from ..exceptions import RunnerConfigurationError
from ..telemetry.logs import Format
from .banner import print_report
from .forced_exit import leave_if_held
from .lifecycle import Life, prepared_application
from .options import ProcessOptions, configure_process
from .sockets import listen, url_of
from .subprocess import this_supervised

if TYPE_CHECKING:
    from ..registry import AgentRegistry

logger = logging.getLogger(__name__)

SERVERS = ("daphne", "uvicorn")


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
    reload: bool = False,
    splash: bool = True,
) -> None:
    """Serve until SIGTERM (drains) or SIGINT (closes in order).

    A second signal ends a drain: what is left closes in order at once. A third one does not wait for agents that take
    their time to close; one more ends the process. With several ``workers``, all that holds for each of them.

    With ``reload``, for development, a change of the code closes the sessions and has the new code served.

    Raises:
        RunnerConfigurationError: the address cannot be listened on, or the worker cannot start.
        SystemExit: with code 1, if one of several workers did not end in order.
    """
    server, workers = choose_server(server, workers, reload=reload)
    how: ProcessOptions = {
        "agents_log_level": agents_log_level,
        "http_log_level": http_log_level,
        "log_format": log_format,
        "debug": debug,
    }
    if (supervised := this_supervised()) is not None:
        from .uvicorn import serve_supervised

        serve_supervised(runner, supervised, **how)
        return
    began = time.monotonic()
    configure_process(**how)
    if (workers > 1 or reload) and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RunnerConfigurationError(
            'Each worker loads this script first: call cli() or serve() under `if __name__ == "__main__":`'
        )
    application = prepared_application(runner)
    listener = listen(host, port)
    try:
        application.prepare()
        if splash:
            print_report(runner, url=url_of(listener), workers=workers)
        warn_of_local_requests(runner, listener.getsockname()[0])
        if workers > 1 or reload:
            from .supervisor import supervise

            supervise(runner, listener, workers=workers, options=how, began=began, reload=reload)
            return
        life = Life(runner, began)
        if server == "daphne":
            from .daphne import serve_daphne  # installs Twisted's reactor: not before it is wanted

            serve_daphne(application, listener, life, debug=debug)
        else:
            from .uvicorn import serve_uvicorn

            serve_uvicorn(application, listener, life, debug=debug)
    finally:
        listener.close()
    if life.failure is not None:
        raise life.failure
    leave_if_held(0)


def choose_server(server: str | None, workers: int | None, *, reload: bool = False) -> tuple[str, int]:
    """Return the server and the number of workers to have, of which None leaves the choice.

    Several workers are uvicorn's; WEB_CONCURRENCY says how many, as with uvicorn and gunicorn, where nothing else does.
    One that is to ``reload`` is uvicorn's, too, and it is one, whatever WEB_CONCURRENCY says.

    Raises:
        RunnerConfigurationError: there is no such server, or it cannot have that many.
    """
    if server is not None and server not in SERVERS:
        raise RunnerConfigurationError(f"Unknown server {server!r}: choose from {', '.join(SERVERS)}")
    if reload:
        if server == "daphne":
            raise RunnerConfigurationError("daphne cannot reload: leave --server out, or --reload")
        if workers not in {None, 1}:
            raise RunnerConfigurationError(f"--reload is for one worker, not for {workers}: leave --workers out")
        if not hasattr(signal, "pthread_sigmask"):
            raise RunnerConfigurationError("--reload needs a Unix system: here, use manage.py runserver")
        return "uvicorn", 1
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
