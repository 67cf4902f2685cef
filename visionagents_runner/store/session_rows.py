"""The rows of sessions while they live: found, asked to close, given their history and metrics."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import router, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from ..conf.settings import get_settings
from ..messaging import notifications
from ..messaging.layer import get_layer, worker_group
from ..messaging.outbox import send_from_anywhere
from ..models import AgentSession, EndReason, EventLine, SessionCommand, SessionEvent, Worker, WorkerState
from ..models.worker import seconds_ago
from ..signals import session_ended
from . import database
from .errors import try_again_after_deadlock

if TYPE_CHECKING:
    from ..conf.prices import Cost

_BATCH = 500


async def get_session(pk: uuid.UUID | str) -> AgentSession | None:
    """Return the row with that id, or None: also for an id that is no UUID."""
    try:
        key = pk if isinstance(pk, uuid.UUID) else uuid.UUID(pk)
    except ValueError:
        return None
    return await database.read(AgentSession.objects.filter(pk=key).first)


async def request_close(pk: uuid.UUID | str, *, by: str = "", force: bool = False) -> bool:
    """Ask the worker of a session, wherever it runs, to close it. True if the request is new."""
    return bool(await database.write(request_close_sync, [pk], by=by, force=force))


def request_close_sync(pks: Iterable[uuid.UUID | str], *, by: str = "", force: bool = False) -> int:
    """Ask the workers of these sessions to close them; for synchronous code such as the admin.

    With ``force``, a session whose worker is silent or gone, so that nobody is there to close it, ends here and now.
    Returns how many requests are new.
    """
    keys = [pk if isinstance(pk, uuid.UUID) else uuid.UUID(pk) for pk in pks]
    sessions = AgentSession.objects.filter(pk__in=keys)
    asked, ended = sessions.request_close(by=by, force=force)
    count = len(asked) + len(ended)
    if force:
        silent = Q(worker__isnull=True) | Q(worker__state=WorkerState.STOPPED)
        silent |= Q(worker__heartbeat_at__lt=seconds_ago(get_settings().WORKER_TTL))
        orphans = list(sessions.live().filter(silent).values_list("pk", flat=True))
        orphaned = AgentSession.objects.filter(pk__in=orphans)
        ended += orphaned.finish(EndReason.REQUESTED, data={"by": by, "orphan": True})
    told = partial(_tell_of_close, keys, by, force)
    transaction.on_commit(told, using=router.db_for_write(AgentSession), robust=True)
    if ended:
        told = partial(tell_of_ends, ended, EndReason.REQUESTED)
        transaction.on_commit(told, using=router.db_for_write(AgentSession), robust=True)
    return count


def tell_of_ends(keys: Sequence[uuid.UUID], reason: EndReason) -> None:
    """Have the worker here tell of these ends on its loop; where none runs, do that on this thread."""
    if not notifications.tell_of_ends(keys, reason):
        told = {"status": reason.status.value, "end_reason": reason.value}
        for key in keys:
            session_ended.send_robust(AgentSession, session_id=str(key), **told)


def _tell_of_close(keys: Sequence[uuid.UUID], by: str, force: bool) -> None:
    """Tell the workers of these sessions, here and elsewhere. Who is not reached sees it at the next poll."""
    notifications.tell_of_close_requests(keys, by, force)
    if get_layer() is None:
        return
    theirs: dict[uuid.UUID, list[str]] = {}
    live = AgentSession.objects.live().filter(pk__in=keys, worker__isnull=False).order_by()
    for pk, worker_id in live.values_list("pk", "worker_id"):
        theirs.setdefault(worker_id, []).append(str(pk))
    for worker_id, sessions in theirs.items():
        message = {"type": "control.close", "sessions": sessions, "by": by, "force": force}
        send_from_anywhere(worker_group(worker_id), message)


class Wanted(NamedTuple):
    """What others want of a session."""

    session_id: uuid.UUID
    close: bool
    force: bool
    commands: bool
    """Whether there are commands that wait to be taken."""


async def wanted_of(worker_id: uuid.UUID, *, commands_within: float) -> list[Wanted]:
    """Return what is wanted of the live sessions of a worker, those of which nothing is wanted left out."""
    return await database.read(_wanted_of, worker_id, commands_within)


def _wanted_of(worker_id: uuid.UUID, commands_within: float) -> list[Wanted]:
    commands = SessionCommand.objects.waiting(commands_within).filter(session=OuterRef("pk"))
    mine = AgentSession.objects.live().filter(worker_id=worker_id).annotate(commands_wait=Exists(commands))
    wanted = mine.filter(Q(close_requested_at__isnull=False) | Q(commands_wait=True)).order_by()
    fields = wanted.values_list("pk", "close_requested_at", "force_close", "commands_wait")
    return [Wanted(pk, at is not None, force, waits) for pk, at, force, waits in fields]


async def live_sessions_of(worker: Worker) -> list[uuid.UUID]:
    """Return the live sessions of ``worker``."""
    mine = AgentSession.objects.live().filter(worker_id=worker.pk)
    return await database.read(lambda: list(mine.order_by().values_list("pk", flat=True)))


async def end_not_begun(worker: Worker, session_ids: Sequence[uuid.UUID], why: str) -> list[uuid.UUID]:
    """End those of these sessions that are live and a worker's, as never begun. Returns their ids."""
    if not session_ids:
        return []
    mine = AgentSession.objects.filter(worker_id=worker.pk)
    return await database.write(mine.finish, EndReason.CREATE_FAILED, error=why, keys=session_ids)


async def ended_among(session_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Return those of these sessions whose rows have ended."""
    return await database.read(_ended_among, session_ids)


def _ended_among(session_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    ended: list[uuid.UUID] = []
    for start in range(0, len(session_ids), _BATCH):  # SQLite takes a limited number of parameters
        rows = AgentSession.objects.ended().filter(pk__in=session_ids[start : start + _BATCH])
        ended += rows.order_by().values_list("pk", flat=True)
    return ended


async def record(lines: Sequence[EventLine], *, after: Mapping[uuid.UUID, int] | None = None) -> dict[uuid.UUID, int]:
    """Append ``lines`` to the histories of their sessions, all or none. Returns the last number of each session.

    After a failure that leaves open whether they were written, give ``after``, the last number of each session that
    was returned before: they are not written twice.
    """
    known = None if after is None else dict(after)
    return await database.write(try_again_after_deadlock, partial(SessionEvent.objects.append, lines, after=known))


async def save_metrics(
    snapshots: Mapping[uuid.UUID, Mapping[str, Any]], costs: Mapping[uuid.UUID, Cost] | None = None
) -> None:
    """Keep the latest metrics of running agents, and what they cost, on their rows: every worker can show them."""
    await database.write(_save_metrics, snapshots, costs or {})


def _save_metrics(snapshots: Mapping[uuid.UUID, Mapping[str, Any]], costs: Mapping[uuid.UUID, Cost]) -> None:
    now = timezone.now()
    with transaction.atomic(using=router.db_for_write(AgentSession)):
        for pk, metrics in snapshots.items():
            priced = costs[pk].values() if pk in costs else {}
            AgentSession.objects.filter(pk=pk).update(metrics=dict(metrics), metrics_at=now, **priced)
