"""`Life`: a worker's life inside the server of its process; signals end it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..asgi.application import AgentsApplication, project_application
from ..exceptions import NotReady, RunnerConfigurationError
from ..utils import garbage
from ..worker.current import current_worker
from ..worker.process import drain, end_for_code, ensure_worker
from ..worker.worker import AgentWorker
from .banner import print_ready

if TYPE_CHECKING:
    from ..registry import AgentRegistry
    from .subprocess import Supervised

logger = logging.getLogger(__name__)

LAST_REQUESTS_SECONDS = 3
_LAST_COMERS_SECONDS = 0.5


class Life:
    """Begins with the server, and ends it once it has drained."""

    def __init__(self, runner: AgentRegistry, began: float, supervised: Supervised | None = None) -> None:
        self.runner = runner
        self.failure: RunnerConfigurationError | None = None
        self.settled = asyncio.Event()
        """Set when the worker is warm, or has ended."""
        self._began = began
        self._supervised = supervised
        self._own_signals = 0
        self._signals = 0
        self._ending: asyncio.Task[None] | None = None
        self._stop_server: Callable[[], None] = lambda: None
        self._stop_listening: Callable[[], None] = lambda: None
        self._hang_up: Callable[[], None] = lambda: None

    def begin(
        self,
        stop_server: Callable[[], None],
        stop_listening: Callable[[], None] = lambda: None,
        hang_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the worker, and from now on let signals end it, and then the server through ``stop_server``.

        One that others take the place of calls ``stop_listening`` first, and a moment later ``hang_up``, which ends the
        connections that are kept between requests: their clients come to the others.
        """
        self._stop_server, self._stop_listening, self._hang_up = stop_server, stop_listening, hang_up
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(signal_number, self._on_own_signal, signal_number)
            except NotImplementedError:  # Windows
                signal.signal(
                    signal_number,
                    lambda number, frame: loop.call_soon_threadsafe(self._on_own_signal, signal.Signals(number)),
                )
        self._starting = loop.create_task(self._start())
        if self._supervised is not None:
            self._supervised.begin(
                on_signal=self._on_signal,
                on_retire=self._on_retire,
                on_reload=self._on_reload,
                on_orphaned=self._on_orphaned,
            )

    async def _start(self) -> None:
        try:
            worker = await ensure_worker(self.runner)
        except RunnerConfigurationError as error:
            self.failure = error
            await self._end(drain(self.runner, 0))
            return
        except NotReady:
            return  # a signal came meanwhile, and ends the server
        except Exception as error:
            logger.debug("The worker could not start", exc_info=True)
            self.failure = RunnerConfigurationError(f"The worker could not start: {error}")
            await self._end(drain(self.runner, 0))
            return
        if self._supervised is not None:
            self._supervised.tell("serving")
        self._telling = asyncio.get_running_loop().create_task(self._tell_when_warm(worker))

    async def _tell_when_warm(self, worker: AgentWorker) -> None:
        await worker.wait_warm()
        garbage.settle()
        self.settled.set()
        if not worker.running or worker.draining:
            return
        if self._supervised is not None:
            self._supervised.tell("ready")
        else:
            print_ready(time.monotonic() - self._began)

    def _on_own_signal(self, signal_number: signal.Signals) -> None:
        self._own_signals += 1
        if self._supervised is not None and not self._signals:
            self._supervised.tell("leaving")
        self._on_signal(self._own_signals, signal_number)

    def _on_signal(self, count: int, signal_number: int) -> None:
        """Answer the ``count``-th signal; one that reached this process and its supervisor is the same one."""
        worker = current_worker()
        if count <= self._signals:
            if signal_number == signal.SIGINT and worker is not None:
                worker.hurry()
            return
        self._signals = count
        if count == 1:
            timeout = None if signal_number == signal.SIGTERM else 0
            self._ending = asyncio.get_running_loop().create_task(self._end(drain(self.runner, timeout)))
        elif count == 2 and worker is not None:
            logger.warning("Second signal: closing the remaining sessions now")
            worker.hurry()
        elif count == 3 and worker is not None:
            logger.warning("Third signal: leaving behind the agents that have not closed yet")
            worker.hurry()
            for session in list(worker.live_sessions):
                session.request_close(force=True, by="third signal", reason=worker.closing_reason)
        elif count > 3:
            logger.error("Leaving at once; the next worker declares what was left as lost")
            os._exit(1)

    def _on_retire(self) -> None:
        """Drain while other workers go on: they take the connections, and new sessions with them."""
        self._stop_listening()
        # Whoever got through just before is answered, not turned away.
        asyncio.get_running_loop().call_later(_LAST_COMERS_SECONDS, self._hand_over)

    def _hand_over(self) -> None:
        self._on_signal(1, signal.SIGTERM)
        self._hang_up()

    def _on_reload(self) -> None:
        """Close at once: a worker with newer code takes the connections, and who is on a call here comes again."""
        self._stop_listening()
        if not self._signals:
            self._signals = 1
            self._ending = asyncio.get_running_loop().create_task(self._end(end_for_code(self.runner)))

    def _on_orphaned(self) -> None:
        # A successor may want the port before the last call here has ended.
        self._stop_listening()
        self._hang_up()
        if not self._signals:
            logger.warning("The supervisor is gone: draining")
            self._on_signal(1, signal.SIGTERM)

    async def _end(self, ending: Coroutine[Any, Any, None]) -> None:
        try:
            self.runner.stopped = True
            if self._starting is not asyncio.current_task():
                await asyncio.wait({self._starting}, timeout=LAST_REQUESTS_SECONDS)  # it sees that and stops again
            await ending
        finally:
            self._stop_server()
            self.settled.set()


def prepared_application(runner: AgentRegistry) -> AgentsApplication:
    application = project_application(runner)
    application.managed = True
    runner.stopped = False
    return application
