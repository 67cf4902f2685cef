"""The one worker of a serving process: started for its runner when it is first wanted, and drained at the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from django.conf import settings

from ..exceptions import NotReady
from ..store import database
from ..utils.loops import one_per_loop
from .current import current_worker
from .worker import AgentWorker

if TYPE_CHECKING:
    from ..registry import AgentRegistry

_starting = one_per_loop(asyncio.Lock)


async def ensure_worker(runner: AgentRegistry) -> AgentWorker:
    """Return the worker of this process, starting one for ``runner`` if there is none.

    Raises:
        NotReady: the worker of this process has drained: the process is about to end.
        RunnerConfigurationError: the database has no tables for it.
    """
    if (worker := current_worker()) is not None and worker.running:
        return worker
    async with _starting():
        if (worker := current_worker()) is not None and worker.running:
            return worker
        _refuse_if_stopped(runner)
        worker = AgentWorker(runner.launchers, runner=runner.path, serves=True)
        await worker.start()
        try:
            _refuse_if_stopped(runner)  # a signal may have come meanwhile
        except NotReady:
            await worker.stop()
            raise
        return worker


def _refuse_if_stopped(runner: AgentRegistry) -> None:
    if runner.stopped:
        raise NotReady("The worker has stopped")


async def drain(runner: AgentRegistry, timeout: float | None = None) -> None:
    """Drain the worker of this process and have no other one started. Its threads end too."""
    runner.stopped = True
    if (worker := current_worker()) is not None:
        await worker.drain(timeout)
    await asyncio.to_thread(database.close)


async def end_with_server(runner: AgentRegistry) -> None:
    """End the worker because somebody else's server stops: drained, or in development (DEBUG) closed at once.

    What stops a server there is a change of its code as a rule (``uvicorn --reload``), and it does not say so.
    """
    if settings.DEBUG:
        await end_for_code(runner, by="server stop")
    else:
        await drain(runner)


async def end_for_code(runner: AgentRegistry, *, by: str = "reload") -> None:
    """Stop the worker of this process for a newer version of the code, and have no other one started here."""
    runner.stopped = True
    if (worker := current_worker()) is not None:
        await worker.stop_for_code(by=by)
    await asyncio.to_thread(database.close)


async def sweep(patience: float = 5.0) -> None:
    """Cancel every other task of this loop and wait for them: no ``finally`` runs for a task that is just dropped."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=patience)
