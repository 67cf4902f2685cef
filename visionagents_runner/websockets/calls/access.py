"""Who may be on a call, and as what.

The rule, for whoever comes without an invitation:

    They may start sessions on the call, to speak, or read transcripts, to listen; and of the sessions that are live on
    the call they may see every one, or one is their own.

Why the last: a session hears its whole call, and is read by its owner, so nobody is locked out of a call whose session
is theirs. That nobody buys this right by starting a second session on a call is `store.calls.Visible`'s. What they may
see is always what the rule for viewing says (`permissions.Access.sees`).

An invitation opens the call only as far as whoever made its session may: its bearer may be there while that session
lives, and its maker has an active account and may still start sessions, or read transcripts. Who has no name here
(nobody signed in: code of the project, a local request, somebody whom a callable of `ServeOptions` let in) cannot lose
a right. An invitation that expires keeps nobody who has joined from staying.

On an empty call there is no session whose rights could protect it: all who may start hear each other.

It is asked when somebody comes, before an agent enters the room that they are in (`edge.room.Room.vet`), when they
follow a call to another worker, and every few seconds (`recheck`). It is always asked where their WebSocket is, which
has the request that they came with; another worker that they are relayed to has it asked there. What is refused is
refused alike whether there is such a call or not.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import router
from ninja.errors import HttpError

from ...auth.local_requests import local_counts
from ...auth.permissions import Access, Action, authorize, identify_leniently, rule_for
from ...auth.tokens import JoinToken, Role, VoidToken, read_join_token
from ...models import AgentSession
from ...models.key import AgentKey, Scope
from ...store import calls, database, session_rows
from ...utils.tasks import shared
from ...worker.current import current_worker
from ..handshake import HandshakeRequest
from ..protocol import Code, Fatal

if TYPE_CHECKING:
    from ...registry import AgentRegistry
    from ...sessions.session import LiveSession

logger = logging.getLogger(__name__)

_ENDED = "The session that this invitation was for has ended"
_NOBODYS = "Whoever started the session of this invitation may not be on its call any more"


@dataclass(frozen=True, slots=True)
class Admission:
    """As what somebody may join."""

    role: Role
    user_id: str
    """Of a signed-in user the primary key; others get one that nobody else has."""
    name: str
    """"" lets them say it themselves."""
    may_start: bool = False
    """Whether they may start agents on this call."""
    session_id: str | None = None
    """The session that they were invited to: they leave when it ends. Such guests are told less."""
    judged: tuple[str, ...] | None = None
    """The sessions of the call that were looked at; None: whatever comes does not matter."""
    sees_own: bool = False
    """Whether they see only sessions of their own: of others that are on the call they learn what can be heard."""
    identity: str | None = None
    """Whose share of `quotas` they have; None where nobody need prove anything."""
    seats: int | None = None
    """How many places all with their invitation have, if it says so."""


class Judge:
    """Judges one client of a call, by what it came with, as often as that matters."""

    def __init__(
        self, scope: Mapping[str, Any], runner: AgentRegistry, call: tuple[str, str], token: str | None
    ) -> None:
        self._scope = scope
        self._runner = runner
        self._call = call
        self._token = token
        self._invited: JoinToken | None = None

    async def admit(self) -> Admission:
        """Return as what the client may join the call.

        Raises:
            Fatal: it may not.
        """
        if self._token is not None:
            return await self._by_token(self._token)
        return await self._by_rule(None)

    async def confirm(self, admission: Admission, since: float) -> None:
        """Return if who joined may stay, as what they joined. What was looked up ``since`` is fresh enough.

        Raises:
            Fatal: they may not, any more.
        """
        if self._invited is not None:
            await _check_invitation(self._invited, self._runner, since)
            return
        now = await self._by_rule(since)
        if admission.role == "speaker" and now.role != "speaker":
            raise Fatal(Code.NOT_ALLOWED, "You may only listen on this call now: join again to do that")

    # By token

    async def _by_token(self, token: str) -> Admission:
        try:
            invited = read_join_token(token)
        except VoidToken as error:
            raise Fatal(Code.VOID_TOKEN, str(error)) from None
        if (invited.call_type, invited.call_id) != self._call:
            raise Fatal(Code.NOT_ALLOWED, "This invitation is for another call")
        await _check_invitation(invited, self._runner, None)
        self._invited = invited
        user_id = f"guest-{uuid.uuid4().hex[:12]}"
        return Admission(invited.role, user_id, invited.name, session_id=invited.session_id, seats=invited.seats)

    # By rule

    async def _by_rule(self, since: float | None) -> Admission:
        request = HandshakeRequest(self._scope, since)
        try:
            return await self._admission(request)
        except HttpError as refusal:
            code = Code.SIGN_IN if refusal.status_code == 401 else Code.NOT_ALLOWED
            raise Fatal(code, str(refusal)) from None

    async def _admission(self, request: HandshakeRequest) -> Admission:
        call_type, call_id = self._call
        body = _start_body(call_type, call_id)
        try:
            access = await authorize(request, self._runner, Action.START, call_id=call_id, body=body)
        except HttpError as refusal:
            return await self._listener(request, refusal)
        judged = None
        if not access.sees_every_call:
            sessions = await self._sessions(request)
            if not await access.sees_call(request, sessions):
                raise HttpError(403, "You may not see every session of this call")
            judged = _ids(sessions)
        user_id, name = _who(access)
        return Admission("speaker", user_id, name, may_start=True, judged=judged, sees_own=_sees_own(access))

    async def _listener(self, request: HandshakeRequest, refusal: HttpError) -> Admission:
        """Return the admission of somebody who may not start sessions.

        Raises:
            HttpError: ``refusal``, whatever it is that they may not: it says nothing about this call.
        """
        view = rule_for(self._runner, Action.VIEW)
        try:
            access = await authorize(request, self._runner, Action.TRANSCRIPT, call_id=self._call[1])
            if view is not None:  # it was not asked about any one session yet
                who = await identify_leniently(request, ())
                access = Access(who.user_id, who.name, view=view) if who is not None else Access(view=view)
        except HttpError:
            raise refusal from None
        sessions = await self._sessions(request)
        is_joining = request.judged_since is None
        if (is_joining and not sessions) or not await access.sees_call(request, sessions):
            raise refusal
        user_id, name = _who(access)
        judged = None if access.sees_every_call else _ids(sessions)
        return Admission("listener", user_id, name, judged=judged, sees_own=_sees_own(access))

    async def _sessions(self, request: HandshakeRequest) -> list[calls.OnCall]:
        look = partial(calls.present_on, *self._call)
        since = request.judged_since
        return await (look() if since is None else shared(("call", *self._call), since, look))


def _ids(sessions: list[calls.OnCall]) -> tuple[str, ...]:
    return tuple(str(session.id) for session in sessions)


def _sees_own(access: Access) -> bool:
    return access.view is None and not access.sees_all


def _start_body(call_type: str, call_id: str) -> Any:
    """Return what a rule for starts finds in a request's body."""
    from ...api.schemas import StartSession

    return StartSession(call_id=call_id, call_type=call_type, agent=None, metadata=None)


def _who(access: Access) -> tuple[str, str]:
    if access.user_id is not None:
        return str(access.user_id), access.name
    return f"{access.name or 'guest'}-{uuid.uuid4().hex[:12]}", ""


async def _check_invitation(invited: JoinToken, runner: AgentRegistry, since: float | None) -> None:
    """Return if an invitation counts, for one who comes or, ``since`` given, for one who is there.

    Raises:
        Fatal: its session has ended, or whoever made that may not be on its call.
    """
    worker = current_worker()
    session = worker.get_session(invited.session_id) if worker is not None else None
    if session is not None:
        over, closing, row = session.finished, session.closing, session.row
    else:
        read = partial(session_rows.get_session, invited.session_id)
        found = await (read() if since is None else shared(("session", invited.session_id), since, read))
        if found is None:
            raise Fatal(Code.VOID_TOKEN, _ENDED)
        over, closing, row = not found.is_live, found.close_requested_at is not None, found
    if over or (closing and since is None):
        raise Fatal(Code.VOID_TOKEN, _ENDED)
    if row.started_by_id is None and not invited.has_maker:
        return
    ask = partial(database.read, _maker_counts, row, _rights_are_known(runner))
    if row.started_by_id is None or not await (
        ask() if since is None else shared(("maker", row.started_by_id, row.source, row.restart_of_id), since, ask)
    ):
        raise Fatal(Code.VOID_TOKEN, _NOBODYS)


def _rights_are_known(runner: AgentRegistry) -> bool:
    """Whether it can be told what somebody may who is not here: no callable, nor where they ask from, decides it."""
    return not local_counts(runner) and rule_for(runner, Action.START) is None


def _maker_counts(session: AgentSession, rights_are_known: bool) -> bool:
    """Whether whoever started a session has an active account, and could still be on its call. It queries."""
    from django.contrib.auth import get_user_model

    using = router.db_for_write(AgentSession)
    users: Any = get_user_model()._default_manager.using(using)
    user = users.filter(pk=session.started_by_id).first()
    if user is None or not getattr(user, "is_active", True):
        return False
    source = session.source
    if source == "restart" and session.restart_of_id is not None:
        first = AgentSession.objects.using(using).filter(pk=session.restart_of_id)
        source = first.values_list("source", flat=True).first() or ""
    # For whom code of the project starts a session need not be allowed to.
    if not rights_are_known or not source.startswith("api"):
        return True
    if any(user.has_perm(action.permission) for action in (Action.START, Action.TRANSCRIPT)):
        return True
    theirs = AgentKey.objects.using(using).valid().filter(owner=user).values_list("scopes", flat=True)
    return any({Scope.START, Scope.TRANSCRIPT} & set(scopes) for scopes in theirs)


def live_sessions(call_type: str, call_id: str) -> list[LiveSession]:
    """Return the sessions of a call that this process runs."""
    worker = current_worker()
    if worker is None:
        return []
    return [
        session
        for session in worker.live_sessions
        if session.call_id == call_id and session.call_type == call_type and not session.finished
    ]
