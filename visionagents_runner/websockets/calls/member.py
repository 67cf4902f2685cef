"""`CallMember`: somebody in the room of this process, whose WebSocket may be here or at another worker."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Callable, Coroutine, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...conf.settings import get_settings
from ...exceptions import TooMany
from ...quotas import few_at_once, spend
from ...store.errors import DATABASE_ERRORS
from ...utils.tasks import HeldTasks, spawn
from ...utils.validation import call_key
from .. import protocol
from ..protocol import Code, Fatal, Refused
from . import access, sessions
from .events import to_message
from .relocation import get_follower

if TYPE_CHECKING:
    from types import ModuleType

    from ...edge import PcmLink, Person
    from ...sessions.session import LiveSession
    from .access import Admission

logger = logging.getLogger(__name__)

VET_SECONDS = 3.0
"""How long somebody may take to be judged before an agent comes: less than `edge.room.VET_SECONDS`."""
_OFFER_SECONDS = 30.0
_SAY_SECONDS = 120.0
_ENDS_SECONDS = 2.0
_OFFERS_AT_ONCE = 4
_SAYS_AT_ONCE = 8

_saying = HeldTasks()
"""What is being said outlives who typed it: others heard it, and wait for the reply."""


class Port(Protocol):
    """The way to a client."""

    def post(self, message: dict[str, Any], *, key: Hashable | None = None) -> None:
        """Send a message, in place of one with the same ``key`` that has not been sent yet."""

    async def send_frame(self, frame: bytes) -> None:
        """Send audio as soon as there is room for it."""

    def fail(self, error: BaseException) -> None:
        """Close the connection, and say why."""

    def finish(self) -> None:
        """Close the connection, in order."""

    def move(self) -> None:
        """Have the client meet the others where the agent of the call is now."""

    async def vet(self, since: float) -> None:
        """Return if the client may be on its call with all the sessions there are now.

        Raises:
            Fatal: it may not, or that cannot be asked now.
        """


@dataclass(frozen=True, slots=True)
class Guest:
    """Who joins, and as what."""

    call: tuple[str, str]
    admission: Admission
    name: str
    agents: tuple[str, ...] = ()
    """Those that they may start; none if they may start none."""


class CallMember:
    """Has somebody in the room, acts for their client there, and tells it what happens.

    It takes for granted that they may join.
    """

    def __init__(self, port: Port, guest: Guest) -> None:
        self._port = port
        self._guest = guest
        self._admission = guest.admission
        self._call_type, self._call_id = guest.call
        self._person: Person | None = None
        self._link: PcmLink | None = None
        self._link_task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._hidden: dict[str, bool] = {}
        """Whether the session of an agent is hidden from them, by the agent's id."""
        self._undo: list[Callable[[], None]] = []
        self._negotiating = asyncio.Lock()
        self._offers = 0
        self._says = 0

    async def leave(self) -> None:
        """Leave the call; nothing of this member is left."""
        for undo in self._undo:
            undo()
        if self._link is not None:
            self._link.close()
        if self._person is not None:
            self._person.leave()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # What the client sends

    def on_message(self, kind: str, message: dict[str, Any]) -> None:
        person = self._person
        assert person is not None
        act = _ACTIONS.get(kind)
        reference = _reference(message)
        try:
            if act is None:
                raise Refused(Code.BAD_MESSAGE, "There is no such type of message")
            act(self, person, message, reference)
        except Refused as problem:
            self._port.post(protocol.error(problem, reference))
        except TooMany as problem:
            self._port.post(protocol.error(Refused(Code.TOO_FAST, str(problem)), reference))

    def on_frame(self, frame: bytes) -> None:
        # Frames may still be on their way when the link has closed, and a listener's are not heard.
        if self._link is not None and self._may_speak:
            self._link.receive(frame)

    @property
    def _may_speak(self) -> bool:
        return self._admission.role == "speaker"

    # Joining

    async def join(self) -> None:
        """Enter the room; the welcome is the first that the client is told.

        Raises:
            Fatal: there is no room for them.
        """
        edge = await _load_edge()
        await self._be_judged()
        self._person = person = self._enter(edge)
        call = self._guest.call
        self._undo.append(sessions.on_start(*call, self._watch))
        if self._admission.session_id is None:  # others leave with the session that they were invited to
            self._undo.append(get_follower().stay(call, self._port.move))
        live = access.live_sessions(*call)
        self._port.post(self._welcome(person, live))
        for session in live:
            self._watch(session)
        self._do(self._tell_events(person), name="events")

    async def _be_judged(self) -> None:
        """Return once they were judged with all sessions in mind that are here now: then nothing may be awaited.

        From then on the room has them judged before an agent comes.
        """
        judged = self._admission.judged
        if judged is None:
            return
        known = set(judged)
        while unknown := {session.id for session in access.live_sessions(*self._guest.call)} - known:
            await self._port.vet(time.monotonic())
            known |= unknown

    async def _vet(self, since: float) -> None:
        """Stay only if they may be there with the agent that is about to come."""
        try:
            async with asyncio.timeout(VET_SECONDS):
                await self._port.vet(since)
        except Exception as error:
            self._port.fail(error if isinstance(error, Fatal) else unasked(error))
            if self._person is not None:
                self._person.leave()

    def _enter(self, edge: ModuleType) -> Person:
        admission = self._admission
        # Whoever comes from a worker of an older version is counted by the user.
        share = edge.Share(
            admission.identity or f"user:{admission.user_id}",
            is_invited=admission.session_id is not None,
            seats=admission.seats,
        )
        try:
            spend("joins", identity=share.identity, call=call_key(*self._guest.call))
            person: Person = edge.join_room(
                self._call_type,
                self._call_id,
                self._admission.user_id,
                name=self._guest.name,
                may_speak=self._may_speak,
                vet=self._vet,
                share=share,
            )
        except edge.RoomFull as error:
            raise Fatal(Code.FULL, str(error)) from None
        except TooMany as error:
            raise Fatal(Code.TOO_MANY, str(error)) from None
        return person

    def _welcome(self, person: Person, live: list[LiveSession]) -> dict[str, Any]:
        return {
            "type": "welcome",
            "v": protocol.VERSION,
            "participant_id": person.participant.id,
            "user_id": person.participant.user_id,
            "name": person.name,
            "role": self._admission.role,
            "call": {"type": self._call_type, "id": self._call_id},
            "may_start": bool(self._guest.agents),
            "agents": list(self._guest.agents),
            "sessions": [self._describe(session) for session in live],
            "ice_servers": list(get_settings().ICE_SERVERS),
            "limits": {"message_bytes": protocol.MESSAGE_BYTES, "text_chars": protocol.TEXT_CHARS},
        }

    # Telling

    async def _tell_events(self, person: Person) -> None:
        guest = self._admission.session_id is not None
        async for event in person:
            hidden = self._admission.sees_own and self._is_hidden(getattr(event, "agent_id", ""))
            told = to_message(event, self._describe_agent, for_guest=guest, hidden=hidden)
            if told is not None:
                self._port.post(told.message, key=told.key)
        # The room has ended for everybody. Why its sessions did is known in a moment.
        if self._watched:
            await asyncio.wait(self._watched.values(), timeout=_ENDS_SECONDS)
        raise Fatal(Code.CALL_ENDED, "The call has ended")

    def _is_hidden(self, agent_id: str) -> bool:
        if agent_id not in self._hidden:
            live = access.live_sessions(self._call_type, self._call_id)
            session = next((each for each in live if sessions.agent_id(each) == agent_id), None)
            if session is None:
                return False
            self._hidden[agent_id] = not self._sees(session)
        return self._hidden[agent_id]

    def _sees(self, session: LiveSession) -> bool:
        """Whether they may see the session itself, and not just hear what it says on the call."""
        admission = self._admission
        return admission.session_id is None and not (
            admission.sees_own and str(session.started_by_id) != admission.user_id
        )

    def _describe_agent(self, participant_id: str) -> dict[str, Any] | None:
        for session in access.live_sessions(self._call_type, self._call_id):
            if sessions.agent_id(session) == participant_id:
                self._watch(session)
                return self._describe(session)
        return None

    def _describe(self, session: LiveSession) -> dict[str, Any]:
        connections = self._person.room.agents if self._person is not None else ()
        mine = sessions.agent_id(session)
        presence = next((each.presence(here=True) for each in connections if mine and each.agent.id == mine), None)
        return sessions.describe(session, presence, for_guest=not self._sees(session))

    def _watch(self, session: LiveSession) -> None:
        """Tell when ``session`` has ended."""
        if session.id not in self._watched:
            self._watched[session.id] = self._do(self._tell_end(session), name="watch")

    async def _tell_end(self, session: LiveSession) -> None:
        await session.wait_ended()
        self._port.post(sessions.describe_end(session))
        if self._admission.session_id == session.id:
            raise Fatal(Code.VOID_TOKEN, sessions.end_words(session.end_reason))

    # What the client asks for

    def _offer(self, person: Person, message: dict[str, Any], reference: str | int | None) -> None:
        sdp = message.get("sdp")
        if not isinstance(sdp, str) or not sdp:
            raise Refused(Code.BAD_OFFER, "An offer needs its sdp")
        if self._offers >= _OFFERS_AT_ONCE:
            raise Refused(Code.TOO_FAST, "Wait for the answers to the offers before")
        person.spend("media")
        self._offers += 1
        self._do(self._negotiate(person, sdp, reference), name="negotiate")

    async def _negotiate(self, person: Person, sdp: str, reference: str | int | None) -> None:
        from ...edge import BadOffer, NoMedia

        try:
            async with self._negotiating, asyncio.timeout(_OFFER_SECONDS), few_at_once("media"):
                answer = await person.negotiate(sdp)
        except BadOffer as error:
            problem = Refused(Code.BAD_OFFER, str(error))
        except NoMedia as error:
            problem = Refused(Code.NO_MEDIA, str(error))
        except TimeoutError:
            problem = Refused(Code.NO_MEDIA, "No connection for media could be prepared in time")
        except Exception:
            if not person.here:
                return
            logger.exception("Answering an offer failed on %s/%s", self._call_type, self._call_id)
            problem = Refused(Code.NO_MEDIA, "No connection for media could be prepared")
        else:
            self._port.post({"type": "answer", "id": reference, "sdp": answer})
            return
        finally:
            self._offers -= 1
        self._port.post(protocol.error(problem, reference))

    def _pcm(self, person: Person, message: dict[str, Any], reference: str | int | None) -> None:
        on = _flag(message, "on")
        if on and self._link is None:
            from ...edge import NoMedia

            person.spend("media")
            try:
                self._link = person.open_pcm()
            except NoMedia as error:
                raise Refused(Code.NO_MEDIA, str(error)) from None
            self._link_task = self._do(self._send_audio(self._link), name="pcm")
        elif not on and self._link is not None:
            self._link.close()
            self._link = None
            if self._link_task is not None:
                self._link_task.cancel()
        self._port.post({"type": "pcm", "on": on})

    async def _send_audio(self, link: PcmLink) -> None:
        # What the client has no room for is dropped by the link, the oldest first.
        async for frame in link:
            await self._port.send_frame(frame)
        if self._link is link:  # something else took its place: WebRTC, or somebody ended it
            self._link = None
            self._port.post({"type": "pcm", "on": False})

    def _say(self, person: Person, message: dict[str, Any], reference: str | int | None) -> None:
        self._check_may_speak()
        text = message.get("text")
        if not isinstance(text, str) or not text.strip():
            raise Refused(Code.BAD_MESSAGE, "There is nothing to say: the text is empty")
        if len(text) > protocol.TEXT_CHARS:
            raise Refused(Code.TOO_LARGE, f"Say no more than {protocol.TEXT_CHARS} characters at once")
        if self._says >= _SAYS_AT_ONCE:
            raise Refused(Code.TOO_FAST, "Wait until the agent has taken what was said before")
        person.spend("turns")
        self._says += 1
        _saying.spawn(self._ask(person, text, reference), name="call-member-say")

    async def _ask(self, person: Person, text: str, reference: str | int | None) -> None:
        try:
            async with asyncio.timeout(_SAY_SECONDS):
                await person.say(text)
        except Exception as error:
            if not person.here:
                return
            logger.warning("What was typed on %s/%s was not taken: %r", self._call_type, self._call_id, error)
            self._port.post(protocol.error(Refused(Code.SAY_FAILED, "The agent did not take it"), reference))
        else:
            self._port.post({"type": "said", "id": reference})
        finally:
            self._says -= 1

    def _custom(self, person: Person, message: dict[str, Any], reference: str | int | None) -> None:
        self._check_may_speak()
        data = message.get("data")
        if not isinstance(data, dict):
            raise Refused(Code.BAD_MESSAGE, "data must be a JSON object")
        try:
            person.receive_custom(data)
        except ValueError as error:
            raise Refused(Code.TOO_LARGE, str(error)) from None

    def _mute(self, person: Person, message: dict[str, Any], reference: str | int | None) -> None:
        muted = _flag(message, "muted")
        person.spend("mutes")
        person.set_muted(muted)

    def _leave(self, person: Person, message: dict[str, Any], reference: str | int | None) -> None:
        person.leave()
        self._port.finish()

    def _check_may_speak(self) -> None:
        if not self._may_speak:
            raise Refused(Code.NOT_ALLOWED, "You may listen on this call, but not speak")

    # Tasks

    def _do(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        task = spawn(work, name=f"call-member-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._port.fail(error)


_ACTIONS: dict[str, Callable[[CallMember, Person, dict[str, Any], str | int | None], None]] = {
    "offer": CallMember._offer,
    "pcm": CallMember._pcm,
    "say": CallMember._say,
    "custom": CallMember._custom,
    "mute": CallMember._mute,
    "leave": CallMember._leave,
}


def unasked(error: BaseException) -> BaseException:
    """Return what to tell somebody who could not be judged, because of ``error``, while an agent came."""
    if isinstance(error, (TimeoutError, *DATABASE_ERRORS)):
        detail = "Whether you may hear the agent that comes could not be asked in time: join again in a moment"
        return Fatal(Code.GOING_AWAY, detail)
    return error


async def _load_edge() -> ModuleType:
    """Import `edge`, which imports vision-agents: seconds that would hold up every call on this loop."""
    return await asyncio.to_thread(importlib.import_module, "visionagents_runner.edge")


def _reference(message: Mapping[str, Any]) -> str | int | None:
    """Return the ``id`` of a message, by which the client knows its answer.

    Raises:
        Fatal: it is none.
    """
    given = message.get("id")
    if given is None or (isinstance(given, str) and len(given) <= protocol.MAX_REFERENCE_CHARS):
        return given
    if isinstance(given, int) and abs(given) < 2**53:
        return given
    raise Fatal(Code.BAD_MESSAGE, f"An id must be a number, or text of up to {protocol.MAX_REFERENCE_CHARS} characters")


def _flag(message: Mapping[str, Any], name: str) -> bool:
    value = message.get(name)
    if not isinstance(value, bool):
        raise Refused(Code.BAD_MESSAGE, f"{name} must be true or false")
    return value
