"""The rows of workers: their beats and their end, and the end of those that gave none."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..conf.settings import get_settings
from ..models import AgentSession, Chore, EndReason, SessionCommand, Slot, Worker, WorkerState
from ..utils.process import ProcessIdentity, is_known_dead
from . import database

if TYPE_CHECKING:
    from ..models.worker import WorkerQuerySet

logger = logging.getLogger(__name__)

_SLOT_AGE = timedelta(days=1)
_COMMAND_AGE = timedelta(minutes=1)


async def register(worker: Worker) -> None:
    await database.write(partial(worker.save, force_insert=True))


async def beat(worker: Worker, *, within: float, draining: bool = False, **values: Any) -> bool:
    """Record a heartbeat, with further ``values``, and take back sessions that others thought unreachable.

    Returns False if others had declared this worker dead; it is revived then, and its former sessions are lost.

    Raises:
        TimeoutError: the database did not answer ``within`` seconds.
    """
    return await asyncio.wait_for(database.run_heartbeat(_beat, worker, draining, values), within)


def _beat(worker: Worker, draining: bool, values: dict[str, Any]) -> bool:
    alive = Worker.objects.beat(worker.pk, **values)
    if worker.leaving:
        return True  # it stopped while this was on its way, and stays so
    if not alive:
        worker.revive(draining=draining)
    AgentSession.objects.filter(worker_id=worker.pk).mark_reachable()
    return alive


async def set_draining(worker: Worker, draining: bool = True) -> None:
    await database.persist(worker.mark_draining if draining else worker.mark_running)


async def drain_requested(worker: Worker) -> bool:
    """Whether an operator wants this worker to take no new sessions."""
    return await database.read(Worker.objects.filter(pk=worker.pk, drain_requested_at__isnull=False).exists)


async def stop(worker: Worker) -> list[uuid.UUID]:
    """Say goodbye for a worker. Sessions that it could not end itself end now as `drained`; returns their ids."""
    return await database.write(_stop, worker)


def _stop(worker: Worker) -> list[uuid.UUID]:
    worker.leaving = True
    left = AgentSession.objects.filter(worker_id=worker.pk).finish(
        EndReason.DRAINED, error="The worker stopped before the session had closed."
    )
    worker.mark_stopped()
    Slot.objects.forget_worker(worker.pk)
    return left


class Reaped(NamedTuple):
    """The sessions that looking after others has ended."""

    lost: list[uuid.UUID]
    expired: list[uuid.UUID]


async def reap(
    me: Worker, identity: ProcessIdentity, *, may_judge: Callable[[], bool] = lambda: True, every: float = 0.0
) -> Reaped:
    """Look after the sessions of workers that died, mark them unreachable, then lost, and after those in the queue.

    Any worker may do this at any time: each change is conditional, so that of several exactly one makes it. While
    ``may_judge()``, asked on any thread, says no, only workers of this machine whose processes are known to be gone
    count as dead.

    What takes looking at the sessions of all workers is done by one of them in ``every`` seconds; with 0, at each call.
    """
    return await database.run_reaping(_reap, me, identity, may_judge, every)


def _reap(me: Worker, identity: ProcessIdentity, may_judge: Callable[[], bool], every: float) -> Reaped:
    others = Worker.objects.running().exclude(pk=me.pk)
    lost: list[uuid.UUID] = []
    expired: list[uuid.UUID] = []
    for worker in others.filter(boot_id=identity.boot_id, pid_namespace=identity.pid_namespace).exclude(boot_id=""):
        if is_known_dead(worker.pid, worker.process_started):
            lost += _bury(worker, "The worker's process ended without closing it.")
    if may_judge() and _takes("judge", every):
        lost += _judge_silent(others, may_judge)
    if _takes("sweep", every):
        expired = AgentSession.objects.expire()
        # A worker that was stopped while one of its starts was being admitted leaves a row that nobody runs.
        stopped = Worker.objects.filter(state=WorkerState.STOPPED)
        orphans = AgentSession.objects.filter(worker_id__in=stopped.values("pk"))
        lost += orphans.finish(EndReason.WORKER_LOST, error="The worker stopped before the session had begun.")
        SessionCommand.objects.sweep(_COMMAND_AGE)
        Slot.objects.forget_old(_SLOT_AGE)
    return Reaped(lost, expired)


def _takes(name: str, every: float) -> bool:
    return not every or Chore.objects.take(name, every)


def _judge_silent(others: WorkerQuerySet, may_judge: Callable[[], bool]) -> list[uuid.UUID]:
    settings = get_settings()
    lost: list[uuid.UUID] = []
    most = settings.WORKER_TTL + settings.WORKER_GRACE
    dead = list(others.silent(most))
    silent = list(others.silent(settings.WORKER_TTL).values_list("pk", flat=True))
    # Asked again: if that took long, it was the database that was silent.
    if not silent or not may_judge():
        return []
    for worker in dead:
        why = f"The worker has been silent since {worker.heartbeat_at:%Y-%m-%d %H:%M:%S} UTC."
        lost += _bury(worker, why, silent_for=most)
    theirs = AgentSession.objects.filter(worker_id__in=silent)
    # Their worker, if it lives, has stopped these by its own clock, so that they can go on elsewhere at once.
    lost += theirs.filter(restartable=True).finish(
        EndReason.WORKER_LOST, error="The worker has been silent for its time-to-live (WORKER_TTL)."
    )
    theirs.mark_unreachable()
    return lost


def _bury(worker: Worker, why: str, *, silent_for: float | None = None) -> list[uuid.UUID]:
    """End a worker and its sessions; with ``silent_for``, unless it has given a sign of life meanwhile."""
    # First, so that it takes nothing more should it live all the same. What this leaves, should we die here, is swept.
    if not worker.mark_stopped(silent_for=silent_for):
        return []
    lost = AgentSession.objects.filter(worker_id=worker.pk).finish(EndReason.WORKER_LOST, error=why)
    Slot.objects.forget_worker(worker.pk)
    if lost:
        logger.warning("Worker %s is gone; %d of its sessions are lost", worker, len(lost))
    return lost
