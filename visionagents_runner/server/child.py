"""A worker process under a supervisor, from its beginning to its end.

It is imported there before Django is set up: models, and what imports them, come later.
"""

from __future__ import annotations

import logging
import os
import runpy
import signal
import socket
import traceback
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from ..exceptions import RunnerConfigurationError
from .subprocess import SIGNALS, STARTUP_FAILURE, Order, Supervised, become_supervised

if TYPE_CHECKING:
    from .options import ProcessOptions


def work(connection: Connection, listener: socket.socket, order: Order, late: bool) -> None:
    """Be a worker: what a process that a supervisor spawned does, from its beginning to its end."""
    supervised = Supervised(connection, listener, late=late, reload=order.reload)
    become_supervised(supervised)
    # A hangup is the supervisor's affair. Not SIG_IGN, which the programs that agents run would inherit; they do where
    # somebody else wants it (nohup).
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    _name_process_in_logs()
    try:
        _serve(supervised, order)
    except (Exception, SystemExit) as error:
        if not order.reload:
            raise
        _wait_for_better_code(supervised, error)


def _serve(supervised: Supervised, order: Order) -> None:
    if order.script:
        runpy.run_path(order.script, run_name="__main__")
    elif order.module:
        runpy.run_module(order.module, run_name="__main__", alter_sys=True)
    else:
        assert order.options is not None
        _serve_project(supervised, order.options)
    if not supervised.begun:
        supervised.tell("failed", f"{order.script or order.module} ended without serving when a worker ran it")


def _serve_project(supervised: Supervised, options: ProcessOptions) -> None:
    import django

    django.setup()
    from ..registry import get_runner
    from .uvicorn import serve_supervised

    try:
        runner = get_runner()
    except RunnerConfigurationError as error:
        supervised.tell("failed", str(error))
        raise SystemExit(STARTUP_FAILURE) from error
    serve_supervised(runner, supervised, **options)


def _wait_for_better_code(supervised: Supervised, error: BaseException) -> None:
    from .reload import wait_for_change

    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # there is nothing to end in order: the supervisor ends it
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
        supervised.tell("failed", f"{type(error).__name__}: {error}")
    elif error.code != STARTUP_FAILURE:  # of which the supervisor has been told
        supervised.tell("failed", f"The code ended the process with {error.code!r} while it was loaded")
    if (path := wait_for_change(error, supervised.began, supervised.is_orphaned)) is not None:
        supervised.tell("changed", str(path))


def _name_process_in_logs() -> None:
    """Have each record carry ``pid``: the formats of `logs` show whatever a record has beyond the usual."""
    from ..telemetry import logs  # noqa: F401 - what records have when it is imported counts as usual

    make, pid = logging.getLogRecordFactory(), os.getpid()

    def make_with_pid(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.pid = pid
        return record

    logging.setLogRecordFactory(make_with_pid)
