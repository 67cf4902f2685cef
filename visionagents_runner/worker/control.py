"""`SessionControl`: a worker's side of what other processes want of its sessions: that they close, or speak.

What is wanted stands in the database, where each poll looks for it; messages only say that it is worth a look now.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..messaging import notifications
from ..messaging.layer import Link, Message, get_link, worker_group
from ..models import CommandOutcome, SessionCommand
from ..sessions import commands
from ..store import database, errors, session_rows
from ..utils.loops import call_from_thread
from ..utils.tasks import HeldTasks

if TYPE_CHECKING:
    from ..sessions.session import LiveSession
    from .worker import AgentWorker

logger = logging.getLogger(__name__)


class SessionControl:
    """One a worker. Call it on the worker's event loop."""

    def __init__(self, worker: AgentWorker) -> None:
        self._worker = worker
        self._link: Link | None = None
        self._undo: list[Callable[[], None]] = []
        self._tasks = HeldTasks()
        self._serving: dict[uuid.UUID, bool] = {}
        """The sessions whose commands are being taken, and whether to look once more."""
        self._doing: set[uuid.UUID] = set()
        self._askers: dict[uuid.UUID, tuple[uuid.UUID, uuid.UUID]] = {}
        """By command: to which session it is, and which worker wants to know when it is answered."""
        self._expected: dict[uuid.UUID, Callable[[], None]] = {}

    def open(self) -> None:
        loop = asyncio.get_running_loop()

        def listener(keys: Sequence[uuid.UUID], by: str, force: bool) -> None:
            call_from_thread(loop, self._close_sessions, keys, by, force)

        self._undo.append(notifications.on_close_request(listener))
        self._link = get_link()
        if self._link is not None:
            self._undo.append(self._link.join(worker_group(self._worker.id), self._on_message))

    def close(self) -> None:
        for undo in self._undo:
            undo()
        self._undo.clear()
        for task in self._tasks:
            task.cancel()

    async def look(self) -> None:
        """Do what is wanted of sessions that run here. The worker calls it each POLL_INTERVAL."""
        for wanted in await session_rows.wanted_of(self._worker.id, commands_within=commands.SPEAK_SECONDS):
            if wanted.close and (session := self._session(wanted.session_id)) is not None:
                session.request_close(by="request", force=wanted.force)
            elif wanted.commands:
                self._serve(wanted.session_id)

    def expect(self, command: uuid.UUID, answered: Callable[[], None]) -> Callable[[], None]:
        """Have ``answered()`` called when another worker says that it answered a command. Returns what ends that."""
        self._expected[command] = answered

        def forget() -> None:
            self._expected.pop(command, None)

        return forget

    def _session(self, key: uuid.UUID) -> LiveSession | None:
        session = self._worker.get_session(str(key))
        return None if session is None or session.finished else session

    def _on_message(self, message: Message) -> None:
        match message["type"]:
            case "control.close":
                self._close_sessions(map(uuid.UUID, message["sessions"]), message["by"], message["force"])
            case "control.command":
                key = uuid.UUID(message["session"])
                if message["asker"]:
                    self._askers[uuid.UUID(message["command"])] = (key, uuid.UUID(message["asker"]))
                self._serve(key)
            case "control.answer":
                if (answered := self._expected.get(uuid.UUID(message["command"]))) is not None:
                    answered()

    def _close_sessions(self, keys: Iterable[uuid.UUID], by: str, force: bool) -> None:
        for key in keys:
            if (session := self._session(key)) is not None:
                session.request_close(by=by, force=force)

    # Commands

    def _serve(self, key: uuid.UUID) -> None:
        """Take the commands to a session, those that were asked first before others."""
        begun = key in self._serving
        self._serving[key] = True
        if not begun:
            self._spawn(self._take_all(key), name=f"commands-{key}")

    async def _take_all(self, key: uuid.UUID) -> None:
        try:
            while self._serving[key]:
                self._serving[key] = False
                asked = {command for command, (session_id, _) in self._askers.items() if session_id == key}
                for command in await database.read(SessionCommand.objects.list_waiting, key, commands.SPEAK_SECONDS):
                    session = self._session(key)
                    if session is not None and await database.write(
                        SessionCommand.objects.take, command.pk, commands.SPEAK_SECONDS
                    ):
                        self._doing.add(command.pk)
                        # They begin in order, and do not wait for each other: one may be there to interrupt another.
                        self._spawn(self._do(session, command), name=f"command-{command.pk}")
                for late in asked - self._doing:
                    self._tell_asker(late)  # answered before its message came
        except errors.DATABASE_ERRORS as error:
            logger.warning(
                "Commands to session %s wait: the database does not answer: %s", key, errors.first_line(error)
            )
        except Exception:
            logger.exception("Commands to session %s could not be taken", key)
        finally:
            del self._serving[key]

    async def _do(self, session: LiveSession, command: SessionCommand) -> None:
        outcome, detail = CommandOutcome.DONE, ""
        try:
            await commands.speak(session, command.kind, command.text, interrupt=command.interrupt, by=command.asked_by)
        except commands.CannotSpeak as error:
            outcome, detail = CommandOutcome.CANNOT, str(error)
        except TimeoutError:
            outcome = CommandOutcome.TIMEOUT
        except Exception as error:
            outcome = CommandOutcome.FAILED
            if not isinstance(error, commands.AgentFailed):
                logger.exception("Session %s could not be asked to speak", session.id)
        try:
            await database.write(SessionCommand.objects.answer, command.pk, outcome, detail)
        except errors.DATABASE_ERRORS as error:
            logger.warning("Who asked session %s to speak is not answered: %s", session.id, errors.first_line(error))
        finally:
            self._doing.discard(command.pk)
            self._tell_asker(command.pk)

    def _tell_asker(self, command: uuid.UUID) -> None:
        _, asker = self._askers.pop(command, (None, None))
        if asker is not None and self._link is not None:
            self._link.send(worker_group(asker), {"type": "control.answer", "command": str(command)})

    def _spawn(self, coroutine: Any, *, name: str) -> None:
        self._tasks.spawn(coroutine, name=f"agent-worker-{name}")
