"""``/calls``: the routes of vision-agents 0.6.9. There a session that has ended does not exist."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Query, Router

from ..auth.permissions import Access, Action, authorize
from ..store import database
from ..utils.validation import clean_call_part
from .actions import close, own_invitation, start
from .bodies import authorize_and_parse
from .errors import answer, json_response, written
from .listing import list_page
from .lookup import Found, began, find_on_call, measured
from .operations import json_body, operation, runner_of, take_share
from .schemas import CallSession, CallSessionMetrics, Filters, SessionList, StartCallSession
from .sessions import START_ANSWERS

router = Router(tags=["calls"])


@operation(
    router,
    "POST",
    "/calls/{call_id}/sessions",
    answers={201: (CallSession, "The agent is built, and joins."), **START_ANSWERS},
    errors=(401, 403, 413, 422),
    body=json_body(StartCallSession.model_json_schema(), required=False),
    summary="Start an agent on a call",
)
async def start_call_session(request: HttpRequest, call_id: str) -> HttpResponse:
    """Answers when the agent is built and its join has begun."""
    clean_call_part("call_id", call_id)
    access, body = await authorize_and_parse(
        request, Action.START, StartCallSession, default={}, call_id=call_id, share="starts"
    )
    session = await start(request, runner_of(request), call_id, body, access)
    return json_response({**_describe(session), **own_invitation(session, access)}, 201)


@operation(
    router,
    "GET",
    "/calls/{call_id}/sessions",
    answers={200: (SessionList, "One page.")},
    errors=(401, 403, 422, 503),
    summary="List the sessions of a call",
)
async def list_call_sessions(request: HttpRequest, call_id: str, filters: Query[Filters]) -> HttpResponse:
    """Of calls of any type with this id; ended ones included."""
    clean_call_part("call_id", call_id)
    access = await authorize(request, runner_of(request), Action.VIEW, call_id=call_id)
    return answer(await database.read(written, list_page, access, filters, call_id), "application/json")


@operation(
    router,
    "GET",
    "/calls/{call_id}/sessions/{session_id}",
    answers={200: (CallSession, "The session, while it lives.")},
    errors=(401, 403, 404, 422, 503),
    summary="Get a live session",
)
async def get_call_session(request: HttpRequest, call_id: str, session_id: str) -> HttpResponse:
    """A session that has ended, or is on another call, is not found."""
    found, _ = await _find(request, Action.VIEW, call_id, session_id)
    return json_response(_describe(found))


@operation(
    router,
    "GET",
    "/calls/{call_id}/sessions/{session_id}/metrics",
    answers={200: (CallSessionMetrics, "The agent's metrics.")},
    errors=(401, 403, 404, 422, 503),
    summary="Get the metrics of a live session",
)
async def get_call_session_metrics(request: HttpRequest, call_id: str, session_id: str) -> HttpResponse:
    """Of this moment where this process runs the session; else what its worker wrote down a few seconds ago."""
    found, _ = await _find(request, Action.METRICS, call_id, session_id)
    return json_response({**_describe(found), **measured(found)})


@operation(
    router,
    "DELETE",
    "/calls/{call_id}/sessions/{session_id}",
    answers={202: (None, "It closes.")},
    errors=(401, 403, 404, 422, 503),
    summary="Close a session",
)
async def close_call_session(request: HttpRequest, call_id: str, session_id: str) -> HttpResponse:
    """The agent leaves the call at once where this process runs it."""
    found, access = await _find(request, Action.CLOSE, call_id, session_id)
    take_share(request, access, "closes")
    await close(found, access)
    response = HttpResponse(status=202)
    del response["Content-Type"]
    return response


@operation(
    router,
    "POST",
    "/calls/{call_id}/sessions/{session_id}/close",
    answers={202: (None, "It closes.")},
    errors=(401, 403, 404, 422, 503),
    summary="Close a session, for navigator.sendBeacon",
)
async def beacon_call_session(request: HttpRequest, call_id: str, session_id: str) -> HttpResponse:
    """What DELETE does: a page that is being closed can only send a POST."""
    return await close_call_session(request, call_id, session_id)


async def _find(request: HttpRequest, action: Action, call_id: str, session_id: str) -> tuple[Found, Access]:
    clean_call_part("call_id", call_id)
    access = await authorize(request, runner_of(request), action, call_id=call_id, session_id=session_id)
    return await find_on_call(request, call_id, session_id, access), access


def _describe(found: Found) -> dict[str, Any]:
    return {"session_id": found.id, "call_id": found.call_id, "session_started_at": began(found)}
