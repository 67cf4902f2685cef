"""Several workers on one listening socket, under uvicorn's supervisor."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing import connection as pipes
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import uvicorn
from django.db import DatabaseError, connections, router
from uvicorn.supervisors.multiprocess import Multiprocess

from ..conf.settings import get_settings
from ..exceptions import RunnerConfigurationError
from ..messaging.layer import layer_in_settings, reaches_others
from .banner import print_ready
from .child import work
from .options import ProcessOptions
from .subprocess import SIGNALS, Order

if TYPE_CHECKING:
    from ..registry import AgentRegistry

logger = logging.getLogger(__name__)

_PING_SECONDS = 5.0
_QUICK_DEATH_SECONDS = 30.0
_CALM_SECONDS = 180.0
"""After which earlier deaths do not count any more."""
_LONGEST_PAUSE_SECONDS = 30.0
_MOST_QUICK_DEATHS = 5
_SLOW_SECONDS = 60.0
"""After which a new worker that is not ready yet is spoken of."""
_ENDING_TICK_SECONDS = 0.2


def supervise(
    runner: AgentRegistry,
    listener: socket.socket,
    *,
    workers: int,
    options: ProcessOptions,
    began: float,
    reload: bool = False,
) -> None:
    """Have ``workers`` processes serve ``listener``, each as `server.main.serve` with ``options``, until told to end.

    With ``reload`` one whose code has changed is replaced at once, and its sessions close.

    Raises:
        RunnerConfigurationError: they cannot start, or die again and again.
        SystemExit: with code 1, if one of them did not end in order.
    """
    order = replace(_order(runner, options), reload=reload)
    _refuse_unsound_database()
    if workers > 1 and not reaches_others(layer_in_settings()):
        logger.warning(
            "Workers hear of each other only through the database, every %g s, and a call's WebSocket that reaches "
            "another worker than its agent's is refused: set CHANNEL_LAYERS to channels_redis",
            get_settings().POLL_INTERVAL,
        )
    supervisor = Supervisor(listener, order, workers=workers, began=began)
    try:
        supervisor.run()
    finally:
        supervisor.release()
    if supervisor.failure:
        raise RunnerConfigurationError(supervisor.failure)
    if not supervisor.orderly:
        raise SystemExit(1)


class WorkerProcess:
    """One worker, as its supervisor sees it."""

    def __init__(self, listener: socket.socket, order: Order, *, late: bool) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=work, args=(theirs, listener, order, late))
        self.began = time.monotonic()
        self.begun = self.serving = self.ready = self.leaving = self.dismissed = False
        self.told_ready = self.told_slow = False
        self.failure = ""
        self.changed = ""
        """The file of its code that changed first, once one has."""
        self.told_failure = False
        self._pinged_at = 0.0
        self._silent: float | None = None
        # The tracker unblocks signals whenever it is started itself, so that must have happened before.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    @property
    def how_it_ended(self) -> str:
        code = self.process.exitcode or 0
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    @property
    def orderly(self) -> bool:
        """Whether it ended, if it did, as it was meant to."""
        return self.dismissed or not self.process.exitcode

    def tell_if_disorderly(self) -> None:
        if not self.orderly:
            logger.error("Worker %d did not end in order: %s", self.pid, self.how_it_ended)

    def tell(self, *message: Any) -> None:
        with suppress(OSError):
            self.connection.send(message)

    def hear(self) -> None:
        try:
            while self.connection.poll():
                what, text = self.connection.recv()
                if what == "failed":
                    self.failure, self.begun = text, False
                elif what == "changed":
                    self.changed = text
                elif what == "pong":
                    self._silent = None
                else:  # begun, serving, ready, leaving
                    setattr(self, what, True)
        except (EOFError, OSError):
            pass  # it is about to end

    def silent_for(self, elapsed: float) -> float:
        """Return for how many seconds it has owed an answer, of which ``elapsed`` passed since this was last asked."""
        now = time.monotonic()
        if not self.ready and not self.leaving:
            return 0.0  # imports and models that it loads may hold it for as long as they like
        if self._silent is not None:
            # Seconds that this process itself did not run do not count.
            self._silent += min(elapsed, 1.0)
            return self._silent
        if now - self._pinged_at >= _PING_SECONDS:
            self._pinged_at, self._silent = now, 0.0
            self.tell("ping")
        return 0.0

    def dismiss(self) -> None:
        """End it if it has not begun, which means that it hosts nothing; signals do not reach it yet."""
        self.hear()
        if not self.begun:
            self.dismissed = True
            self.process.kill()


class Supervisor(Multiprocess):
    """uvicorn's supervisor, for workers that host calls.

    Of uvicorn's are the signals, the loop, and the order of the end. What differs: a worker is told over its pipe how
    many signals came, so that one that reaches parent and child (Ctrl-C, systemd) counts once; none is killed while it
    loads, or drains and still answers; one that dies at once again and again is not started in a hot loop; SIGHUP
    replaces one by one, unless it was ignored before (nohup).
    """

    def __init__(self, listener: socket.socket, order: Order, *, workers: int, began: float) -> None:
        hangup = signal.getsignal(signal.SIGHUP)
        super().__init__(uvicorn.Config("", workers=workers, log_config=None), [listener])
        if hangup is signal.SIG_IGN:
            signal.signal(signal.SIGHUP, hangup)
        self.failure = ""
        self._listener = listener
        self._order = order
        self._began = began
        self._on_terminal = sys.stderr.isatty()
        self._crew: list[WorkerProcess] = []
        self._leaving: list[WorkerProcess] = []
        """They drain while the crew goes on."""
        self._stale: list[WorkerProcess] = []
        """Those of the crew that SIGHUP wants replaced."""
        self._signals: list[int] = []
        self._complete = False
        """Whether all workers have served at once, be it that one has died since."""
        self._told_ready = False
        self._ending = False
        self._quick_deaths = 0
        self._died_at = self._counted_at = -_CALM_SECONDS
        self._next_start = 0.0
        self._ticked_at = time.monotonic()

    @property
    def orderly(self) -> bool:
        return all(worker.orderly for worker in self._all)

    def release(self) -> None:
        """Let go of the workers, however the supervisor came to its end: what still runs notices, and drains."""
        for worker in self._all:
            worker.connection.close()

    @property
    def _all(self) -> list[WorkerProcess]:
        return [*self._crew, *self._leaving]

    # What uvicorn's loop calls

    def init_processes(self) -> None:
        self._fill()

    def keep_subprocess_alive(self) -> None:
        if self.should_exit.is_set():
            return
        for worker in self._all:
            worker.hear()
        self._tell_ready()  # before any is buried: it may have been ready, and have died since
        for worker in self._leaving:
            if not worker.alive:
                worker.tell_if_disorderly()
        self._leaving = [worker for worker in self._leaving if worker.alive]
        for worker in list(self._crew):
            if self._order.reload and worker.failure and worker.alive and not worker.told_failure:
                worker.told_failure = True
                logger.error("%s. It is tried again when the code changes", worker.failure)
            if worker.leaving:  # it said so, and may have ended since
                self._let_go(worker)
            elif worker.changed:
                logger.warning("%s has changed: reloading", worker.changed)
                self._let_go(worker, "reload")
            elif not worker.alive:
                self._bury(worker)
        self._kill_hung()
        if not self.should_exit.is_set():
            self._fill()
            self._roll()

    def terminate_all(self) -> None:
        self._ending = True
        for worker in self._all:
            worker.leaving = True
            worker.dismiss()
        if self.failure:
            self._relay(1, signal.SIGINT)
        for count, number in enumerate(self._signals, start=1):
            self._relay(count, number)

    def join_all(self) -> None:
        while alive := [worker for worker in self._all if worker.alive]:
            pipes.wait([worker.process.sentinel for worker in alive], timeout=_ENDING_TICK_SECONDS)
            self.handle_signals()
            for worker in alive:
                worker.hear()
            self._kill_hung()
        if not self.failure:
            for worker in self._all:
                worker.tell_if_disorderly()

    def handle_int(self) -> None:
        self._end(signal.SIGINT)

    def handle_term(self) -> None:
        self._end(signal.SIGTERM)

    def handle_hup(self) -> None:
        if self.should_exit.is_set():
            return
        if self._on_terminal and not sys.stderr.isatty():
            logger.warning("The terminal is gone: draining")
            self._end(signal.SIGTERM)
        else:
            logger.warning("SIGHUP: replacing the workers one by one")
            self._stale = sorted(self._crew, key=lambda worker: worker.ready)

    def handle_ttin(self) -> None:
        self.processes_num += 1

    def handle_ttou(self) -> None:
        if self.processes_num > 1 and not self.should_exit.is_set():
            self.processes_num -= 1
            if len(self._crew) > self.processes_num:
                self._let_go(self._crew[-1])

    # Pieces

    def _end(self, number: signal.Signals) -> None:
        self._signals.append(number)
        self.should_exit.set()
        if self._ending:
            self._relay(len(self._signals), number)
        if len(self._signals) > 3:
            for worker in self._all:
                worker.process.kill()

    def _relay(self, count: int, number: int) -> None:
        for worker in self._all:
            worker.tell("signal", count, number)

    def _fill(self) -> None:
        while len(self._crew) < self.processes_num and time.monotonic() >= self._next_start:
            self._start()

    def _start(self) -> None:
        try:
            self._crew.append(WorkerProcess(self._listener, self._order, late=self._complete))
        except OSError as error:  # no memory, too many processes
            self._next_start = time.monotonic() + _LONGEST_PAUSE_SECONDS
            logger.error("No worker can be started, trying again in %g s: %s", _LONGEST_PAUSE_SECONDS, error)

    def _kill_hung(self) -> None:
        now = time.monotonic()
        elapsed, self._ticked_at = now - self._ticked_at, now
        limit = get_settings().WORKER_TTL + get_settings().WORKER_GRACE
        for worker in self._all:
            if worker.alive and worker.silent_for(elapsed) > limit:
                logger.error(
                    "Worker %d has hung for %g s, and its sessions count as lost: killing it", worker.pid, limit
                )
                worker.process.kill()
                worker.process.join(1)

    def _let_go(self, worker: WorkerProcess, how: str = "retire") -> None:
        """Have a worker drain while the others go on, or close to ``reload``; it takes no more connections."""
        self._crew.remove(worker)
        self._leaving.append(worker)
        worker.leaving = True
        worker.dismiss()
        worker.tell(how)

    def _bury(self, worker: WorkerProcess) -> None:
        self._crew.remove(worker)
        worker.connection.close()
        if not self._complete and not worker.serving:
            self._give_up(worker.failure or f"A worker ended before it served ({worker.how_it_ended}): see above")
            return
        what = f"could not start: {worker.failure}" if worker.failure else f"died ({worker.how_it_ended})"
        if self._stale and not worker.ready and worker not in self._stale:
            logger.error("New worker %d %s. The others go on as they are", worker.pid, what)
            self._stale.clear()
            return
        now = time.monotonic()
        calm = now - self._died_at > _CALM_SECONDS or now - worker.began > _QUICK_DEATH_SECONDS
        self._died_at = now
        # What kills all workers at once counts as one death: the next to count is one of those started after it.
        if calm or worker.began >= self._counted_at:
            self._counted_at = now
            self._quick_deaths = 0 if calm else self._quick_deaths + 1
            pause = min(2.0 ** (self._quick_deaths - 1), _LONGEST_PAUSE_SECONDS) if self._quick_deaths else 0.0
            self._next_start = now + pause
        if self._quick_deaths >= _MOST_QUICK_DEATHS and not any(each.ready for each in self._crew):
            self._give_up(f"Workers end again and again soon after their start; the last one {what}")
            return
        pause = max(0.0, self._next_start - now)
        when = f" in {pause:.3g} s" if pause else ""
        logger.error("Worker %d %s. Starting another%s", worker.pid, what, when)

    def _give_up(self, why: str) -> None:
        self.failure = self.failure or why
        self.should_exit.set()

    def _roll(self) -> None:
        """Replace one stale worker: a new one is ready before it drains, and it ends before the next one's turn."""
        self._stale = [worker for worker in self._stale if worker in self._crew]
        if not self._stale or self._leaving:
            return
        if len(self._crew) <= self.processes_num:
            if time.monotonic() >= self._next_start:
                self._start()
            return
        loading = [worker for worker in self._crew if not worker.ready and worker not in self._stale]
        if not loading:
            self._let_go(self._stale.pop(0))
        for worker in loading:
            if not worker.told_slow and time.monotonic() - worker.began > _SLOW_SECONDS:
                worker.told_slow = True
                logger.warning(
                    "Worker %d is not ready %g s after its start: no other is replaced before it is",
                    worker.pid,
                    _SLOW_SECONDS,
                )

    def _tell_ready(self) -> None:
        if len(self._crew) < self.processes_num:
            return
        self._complete = self._complete or all(worker.serving for worker in self._crew)
        for worker in self._crew:
            if self._told_ready and worker.ready and not worker.told_ready:
                worker.told_ready = True
                logger.info("Worker %d is ready", worker.pid)
        if not self._told_ready and all(worker.ready for worker in self._crew):
            self._told_ready = True
            for worker in self._crew:
                worker.told_ready = True
            print_ready(time.monotonic() - self._began)


def _order(runner: AgentRegistry, options: ProcessOptions) -> Order:
    """Return how another process comes by ``runner``."""
    from ..registry import get_runner

    if not runner.standalone and "DJANGO_SETTINGS_MODULE" in os.environ:
        with suppress(RunnerConfigurationError):
            if get_runner() is runner:
                return Order(options=options)
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return Order(module=spec.name)
    path = getattr(main, "__file__", None)
    if path and os.path.isfile(path):
        return Order(script=os.path.abspath(path))
    raise RunnerConfigurationError(
        "Several workers need a runner that each of them can load: put it into a script file, or name it in "
        'VISIONAGENTS_RUNNER["RUNNER"] of a project'
    )


def _refuse_unsound_database() -> None:
    from ..models import AgentSession, Worker
    from ..store.errors import unusable

    try:
        for model in (Worker, AgentSession):
            model.objects.order_by().first()
    except DatabaseError as error:
        raise unusable(error) from error
    finally:
        connection: Any = connections[router.db_for_write(Worker)]
        connection.close()
        if hasattr(connection, "close_pool"):
            connection.close_pool()
