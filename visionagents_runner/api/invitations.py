"""``/sessions/{session_id}/invitations``: letting people without an account join the call of a session."""

from __future__ import annotations

from functools import partial

from django.http import HttpRequest, HttpResponse
from ninja import Router

from ..auth.permissions import Action, authorize
from ..auth.tokens import make_join_token, read_join_token
from ..models import SessionStatus
from ..store import calls
from ..utils.timestamps import iso
from ..views import find_base, page_path
from .bodies import parse_body
from .errors import APIError, json_response
from .lookup import call_of, find_visible
from .operations import json_body, operation, runner_of, take_share
from .schemas import Error, Invitation, Invite

router = Router(tags=["sessions"])


@operation(
    router,
    "POST",
    "/sessions/{session_id}/invitations",
    answers={
        201: (Invitation, "An invitation; it is kept nowhere."),
        409: (Error, "The session has ended, or closes."),
    },
    errors=(401, 403, 404, 413, 422, 503),
    body=json_body(Invite.model_json_schema(), required=False),
    summary="Invite somebody to the call of a session",
)
async def invite(request: HttpRequest, session_id: str) -> HttpResponse:
    """Whoever has the token may join the call without an account, until it expires or the session ends."""
    runner = runner_of(request)
    find_call_id = partial(call_of, request, session_id)
    starter = await authorize(request, runner, Action.START, session_id=session_id, find_call_id=find_call_id)
    access = await authorize(request, runner, Action.VIEW, session_id=session_id, find_call_id=find_call_id)
    take_share(request, access, "invitations")
    body = await parse_body(request, Invite, default={})
    session = await find_visible(request, session_id, access)
    if session.ended_at is not None or session.status == SessionStatus.CLOSING:
        raise APIError(409, "The session has ended: nobody can be invited to it any more")
    # Whoever has the token hears the whole call, and so might whoever asks for it.
    if not await starter.sees_call(request, await calls.present_on(session.call_type, session.call_id)):
        raise APIError(403, "You may not see every session of this call, so you may not invite anybody to it")
    token = make_join_token(session.row, role=body.role, name=body.name, expires_in=body.expires_in, seats=body.seats)
    expires_at = iso(read_join_token(token).expires_at)
    base = find_base(request, request.path_info[request.path_info.rindex("sessions/") :])
    path = None if base is None else page_path(base, session.call_type, session.call_id)
    # In the fragment, which browsers keep to themselves: it stands in no log, and no Referer.
    url = None if path is None else f"{request.build_absolute_uri(path)}#token={token}"
    return json_response({"token": token, "url": url, "expires_at": expires_at, "role": body.role}, 201)
