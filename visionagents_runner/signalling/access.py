"""Who may join a call, and as what.

A join token speaks for itself. Without one, whoever may start sessions may join and speak, provided that no session of
the call is hidden from them; whoever may view its sessions and read what is said may listen. What is refused is
refused alike whether there is such a call or not.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from django.core.handlers.asgi import ASGIRequest
from ninja.errors import HttpError

from .. import store
from ..models import AgentSession
from ..permissions import Access, Action, authorize, identify, rule_for
from ..tokens import Role, VoidToken, read_join_token
from ..worker import current_worker
from .wire import Code, Fatal

if TYPE_CHECKING:
    from ..runner import Runner
    from ..session import LiveSession

logger = logging.getLogger(__name__)

_MOST_SESSIONS = 100
_ENDED = "The session that this invitation was for has ended"


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


class HandshakeRequest(ASGIRequest):
    """A WebSocket's handshake as the request that permission rules take."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        # CONNECT is what a handshake is over HTTP/2. As no safe method, it needs an Origin where a cookie counts:
        # browsers let the page of any site open a WebSocket, and send the cookie along.
        headers = scope.get("headers", ())
        super().__init__(
            {
                "query_string": b"",
                **scope,
                "type": "http",
                "method": "CONNECT",
                "scheme": _http_scheme(scope),
                "headers": headers,
            },
            BytesIO(),
        )


def _http_scheme(scope: Mapping[str, Any]) -> str:
    scheme = scope.get("scheme")
    if scheme is not None:
        return {"ws": "http", "wss": "https"}.get(scheme, str(scheme))
    # Daphne does not tell: then it is the page's own, or http for a client that is no page.
    for name, value in scope.get("headers", ()):
        if name == b"origin" and value.startswith(b"https://"):
            return "https"
    return "http"


async def admit(scope: Mapping[str, Any], runner: Runner, call_type: str, call_id: str, token: str | None) -> Admission:
    """Return as what the client behind ``scope`` may join this call, now.

    Raises:
        Fatal: it may not.
    """
    if token is not None:
        return await _by_token(token, call_type, call_id)
    request = HandshakeRequest(scope)
    try:
        return await _by_rule(request, runner, call_type, call_id)
    except HttpError as refusal:
        code = Code.SIGN_IN if refusal.status_code == 401 else Code.NOT_ALLOWED
        raise Fatal(code, str(refusal)) from None


# By token


async def _by_token(token: str, call_type: str, call_id: str) -> Admission:
    try:
        invited = read_join_token(token)
    except VoidToken as error:
        raise Fatal(Code.VOID_TOKEN, str(error)) from None
    if (invited.call_type, invited.call_id) != (call_type, call_id):
        raise Fatal(Code.NOT_ALLOWED, "This invitation is for another call")
    await _check_live(invited.session_id)
    return Admission(invited.role, f"guest-{uuid.uuid4().hex[:12]}", invited.name, session_id=invited.session_id)


async def _check_live(session_id: str) -> None:
    worker = current_worker()
    if worker is not None and (session := worker.get_session(session_id)) is not None:
        if session.finished or session.closing:
            raise Fatal(Code.VOID_TOKEN, _ENDED)
        return
    row = await store.get_session(session_id)
    if row is None or not row.is_live or row.close_requested_at is not None:
        raise Fatal(Code.VOID_TOKEN, _ENDED)


# By rule


async def _by_rule(request: HandshakeRequest, runner: Runner, call_type: str, call_id: str) -> Admission:
    try:
        access = await authorize(request, runner, Action.START, call_id=call_id, body=_start_body(call_type, call_id))
    except HttpError as refusal:
        return await _listener(request, runner, call_type, call_id, refusal)
    if not access.sees_all or rule_for(runner, Action.VIEW) is not None:
        sessions = await _sessions_on(call_type, call_id)
        if not await _sees(request, runner, access, call_id, sessions):
            raise HttpError(403, "You may not see every session of this call")
    user_id, name = _who(access)
    return Admission("speaker", user_id, name, may_start=True)


async def _listener(
    request: HandshakeRequest, runner: Runner, call_type: str, call_id: str, refusal: HttpError
) -> Admission:
    """Return the admission of somebody who may not start sessions.

    Raises:
        HttpError: ``refusal``, whatever it is that they may not: it says nothing about this call.
    """
    try:
        access = await authorize(request, runner, Action.TRANSCRIPT, call_id=call_id)
        who = await identify(request, ())
    except HttpError:
        raise refusal from None
    sessions = await _sessions_on(call_type, call_id)
    if not sessions or not await _sees(request, runner, access, call_id, sessions):
        raise refusal
    user_id, name = _who(Access(who.user_id, who.name) if who is not None else access)
    return Admission("listener", user_id, name)


def _start_body(call_type: str, call_id: str) -> Any:
    """Return what a rule for starts finds in a request's body."""
    from ..api.schemas import StartSession

    return StartSession(call_id=call_id, call_type=call_type, agent=None, metadata=None)


def _who(access: Access) -> tuple[str, str]:
    if access.user_id is not None:
        return str(access.user_id), access.name
    return f"{access.name or 'guest'}-{uuid.uuid4().hex[:12]}", ""


async def _sees(
    request: HandshakeRequest, runner: Runner, access: Access, call_id: str, sessions: list[_OnCall]
) -> bool:
    if rule_for(runner, Action.VIEW) is None:
        return all(access.sees(session.started_by_id) for session in sessions)
    try:
        for session in sessions:
            await authorize(request, runner, Action.VIEW, call_id=call_id, session_id=session.id)
    except HttpError:
        return False
    return True


# Sessions


@dataclass(frozen=True, slots=True)
class _OnCall:
    id: str
    started_by_id: Any


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


async def _sessions_on(call_type: str, call_id: str) -> list[_OnCall]:
    return await store.read(_read_sessions, call_type, call_id)


def _read_sessions(call_type: str, call_id: str) -> list[_OnCall]:
    rows = AgentSession.objects.live().on_call(call_type, call_id)
    return [_OnCall(str(pk), user_id) for pk, user_id in rows.values_list("pk", "started_by_id")[:_MOST_SESSIONS]]
