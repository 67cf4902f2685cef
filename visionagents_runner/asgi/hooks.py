"""Where the servers that give no lifespan have the worker drained: daphne, and Django's runserver."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

from ..worker.process import end_for_code, end_with_server, sweep
from ..worker.worker import AgentWorker

if TYPE_CHECKING:
    from ..registry import AgentRegistry

logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 15.0


def hook_into_server(runner: AgentRegistry, worker: AgentWorker) -> None:
    """Have the worker drained by a server that gives no lifespan.

    Under daphne the reactor waits for it before it stops, and its listeners answer (``/ready`` says 503) until then.
    Under ``runserver``, whose server runs in a daemon thread, a change of code and the end of the process close the
    sessions first, at once.
    """
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        _hook_into_runserver(runner, worker, loop)
        return
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    if reactor is None or getattr(reactor, "_asyncioEventloop", None) is not loop:
        return
    from twisted.internet.defer import Deferred

    def before_shutdown() -> Any:
        return Deferred.fromFuture(asyncio.ensure_future(_end_and_sweep(runner), loop=loop))

    reactor.addSystemEventTrigger("before", "shutdown", before_shutdown)


def _hook_into_runserver(runner: AgentRegistry, worker: AgentWorker, loop: asyncio.AbstractEventLoop) -> None:
    def close_all(by: str) -> None:
        if not worker.running or not loop.is_running():
            return
        try:
            asyncio.run_coroutine_threadsafe(end_for_code(runner, by=by), loop).result(_CLOSE_SECONDS)
        except Exception:
            logger.exception("The sessions could not be closed before the reload; the next start declares them lost")

    from django.utils.autoreload import file_changed

    def on_change(*, file_path: Any, **kwargs: Any) -> None:
        if str(file_path).endswith(".py"):
            close_all("reload")

    file_changed.connect(on_change, weak=False, dispatch_uid="visionagents_runner.asgi")
    # Before the interpreter's threads end: an atexit function would come too late for the database's.
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        register(close_all, "server stop")


async def _end_and_sweep(runner: AgentRegistry) -> None:
    await end_with_server(runner)
    await sweep()
