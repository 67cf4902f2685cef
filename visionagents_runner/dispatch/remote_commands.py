"""Having the agent of a session speak that another process runs: by a row that its worker finds, takes and answers."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable

from ..conf.settings import get_settings
from ..messaging.layer import worker_group
from ..messaging.outbox import send_from_anywhere
from ..models import AgentSession, CommandKind, CommandOutcome, SessionCommand, SessionStatus
from ..sessions import commands
from ..sessions.commands import AgentFailed, CannotSpeak
from ..store import database, errors
from ..utils.loops import call_from_thread, wait_for_event
from ..utils.tasks import HeldTasks
from ..worker.current import current_worker

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.02
_LAST_PAUSE_SECONDS = 0.25
_LAST_ANSWER_SECONDS = 2.0
"""How long the answer of a worker may take whose session has ended meanwhile."""

_ENDED = "The session has ended"
_SILENT = "The session's worker is silent"
_QUEUED = "No worker has taken the session yet"

_asking = HeldTasks()


async def ask(session_id: uuid.UUID, kind: CommandKind, text: str, *, interrupt: bool, by: str = "") -> None:
    """Have the agent of a session say ``text``, or respond to it; returns when its worker says that it is under way.

    It goes on if its caller is cancelled.

    Raises:
        CannotSpeak: the agent cannot, the session has ended, or its worker is silent.
        TimeoutError: the worker did not take it in time: then it is withdrawn. Or the agent did not: it may say it all
            the same.
        AgentFailed: its worker's log says why.
    """
    command = SessionCommand(session_id=session_id, kind=kind, text=text, interrupt=interrupt, asked_by=by[:255])
    await asyncio.shield(_asking.spawn(_ask(command), name=f"ask-{command.pk}"))


async def _ask(command: SessionCommand) -> None:
    deadline = time.monotonic() + commands.SPEAK_SECONDS
    owner = await database.write(_insert, command)
    news = asyncio.Event()
    forget, asker = _expect_answer(command.pk, news)
    try:
        send_from_anywhere(
            worker_group(owner),
            {
                "type": "control.command",
                "session": str(command.session_id),
                "command": str(command.pk),
                "asker": asker,
            },
        )
        await _until_answered(command.pk, news, deadline)
    finally:
        forget()
        try:
            await database.write(SessionCommand.objects.filter(pk=command.pk).delete)
        except errors.DATABASE_ERRORS as error:
            logger.warning(
                "A command stays until it is swept: the database does not answer: %s", errors.first_line(error)
            )


def _insert(command: SessionCommand) -> uuid.UUID:
    """Insert a new command. Returns the id of the worker that runs its session.

    Raises:
        CannotSpeak: none does.
    """
    row = AgentSession.objects.filter(pk=command.session_id).only("status", "ended_at", "worker_id").first()
    if row is None or not row.is_live:
        raise CannotSpeak(_ENDED)
    if row.status == SessionStatus.QUEUED or row.worker_id is None:
        raise CannotSpeak(_QUEUED)
    command.save(force_insert=True)
    return row.worker_id


def _expect_answer(key: uuid.UUID, news: asyncio.Event) -> tuple[Callable[[], None], str]:
    """Have ``news`` set when the other worker says that it answered. Returns what ends that, and who is to be told."""
    worker = current_worker()
    if worker is None:
        return lambda: None, ""
    loop = asyncio.get_running_loop()

    def answered() -> None:
        # On the worker's loop, which is not that of a request under WSGI.
        call_from_thread(loop, news.set)

    return worker.control.expect(key, answered), str(worker.id)


async def _until_answered(key: uuid.UUID, news: asyncio.Event, deadline: float) -> None:
    pause = _FIRST_PAUSE_SECONDS
    while True:
        await wait_for_event(news, pause)
        news.clear()
        pause = min(1.5 * pause, _LAST_PAUSE_SECONDS)
        over = time.monotonic() >= deadline
        try:
            state = await database.read(SessionCommand.objects.state_of, key, get_settings().WORKER_TTL)
            if state is None:
                raise CannotSpeak(_ENDED)
            if state.outcome:
                return _judge(state.outcome, state.detail)
            if not (over or state.ended or state.silent):
                continue
            if not state.taken and not await database.write(SessionCommand.objects.withdraw, key):
                continue  # it was taken this moment
        except errors.DATABASE_ERRORS as error:
            logger.warning(
                "Whether a command was answered is not known: the database does not answer: %s",
                errors.first_line(error),
            )
            if over:
                raise TimeoutError from error
            continue
        if state.silent:
            raise CannotSpeak(_SILENT)
        if state.ended:
            if over or not state.taken:
                raise CannotSpeak(_ENDED)
            deadline = min(deadline, time.monotonic() + _LAST_ANSWER_SECONDS)
        else:
            raise TimeoutError


def _judge(outcome: str, detail: str) -> None:
    match CommandOutcome(outcome):
        case CommandOutcome.CANNOT:
            raise CannotSpeak(detail)
        case CommandOutcome.TIMEOUT:
            raise TimeoutError
        case CommandOutcome.FAILED:
            raise AgentFailed("The agent failed; the log of its worker says why")
