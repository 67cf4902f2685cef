"""``/sessions``: the routes of the documented Runner."""

from __future__ import annotations

from functools import partial

from django.http import HttpRequest, HttpResponse
from ninja import Query, Router
from ninja.errors import HttpError

from ..auth.permissions import Access, Action, authorize
from ..store import database
from .actions import close, own_invitation, start
from .bodies import authorize_and_parse
from .errors import answer, json_response, written
from .listing import list_page
from .lookup import call_of, detail, find_visible, priced
from .operations import json_body, operation, runner_of, take_share
from .schemas import AllFilters, Error, SessionDetail, SessionList, SessionStarted, StartError, StartSession, Success

router = Router(tags=["sessions"])

START_ANSWERS = {
    429: (Error, "A limit on live sessions, or on starts in a time, is reached; says which."),
    409: (StartError, "The session was closed while its agent was being built."),
    500: (StartError, "The agent could not be built; the row of the session keeps why."),
    503: (StartError, "Warming up, draining, or the agent took too long to start; says which."),
}


@operation(
    router,
    "POST",
    "/sessions",
    answers={201: (SessionStarted, "The agent is built, and joins."), **START_ANSWERS},
    errors=(401, 403, 413, 422),
    body=json_body(StartSession.model_json_schema(), required=True),
    summary="Start an agent on a call",
)
async def start_session(request: HttpRequest) -> HttpResponse:
    """Answers when the agent is built and its join has begun."""
    access, body = await authorize_and_parse(request, Action.START, StartSession, share="starts")
    session = await start(request, runner_of(request), body.call_id, body, access)
    return json_response({**await detail(request, session, access), **own_invitation(session, access)}, 201)


@operation(
    router,
    "GET",
    "/sessions",
    answers={200: (SessionList, "One page.")},
    errors=(401, 403, 422, 503),
    summary="List sessions",
)
async def list_sessions(request: HttpRequest, filters: Query[AllFilters]) -> HttpResponse:
    """Sessions of all workers, ended ones included, as far as the asker may see them."""
    access = await authorize(request, runner_of(request), Action.VIEW, call_id=filters.call_id)
    return answer(await database.read(written, list_page, access, filters, filters.call_id), "application/json")


@operation(
    router,
    "GET",
    "/sessions/{session_id}",
    answers={200: (SessionDetail, "The session, also after it has ended.")},
    errors=(401, 403, 404, 503),
    summary="Get a session",
)
async def get_session(request: HttpRequest, session_id: str) -> HttpResponse:
    """A session that runs in this process is answered from memory."""
    access = await _authorize(request, Action.VIEW, session_id)
    found = await find_visible(request, session_id, access)
    cost = priced(found)
    if cost and not await _may_see_numbers(request, session_id):
        cost = {}
    return json_response({**await detail(request, found, access), **cost})


@operation(
    router,
    "DELETE",
    "/sessions/{session_id}",
    answers={200: (Success, "It closes, or had ended before.")},
    errors=(401, 403, 404, 503),
    summary="Close a session",
)
async def close_session(request: HttpRequest, session_id: str) -> HttpResponse:
    """Asking again changes nothing. The agent leaves the call at once where this process runs it."""
    access = await _authorize(request, Action.CLOSE, session_id)
    take_share(request, access, "closes")
    found = await find_visible(request, session_id, access)
    await close(found, access)
    return json_response({"success": True})


async def _may_see_numbers(request: HttpRequest, session_id: str) -> bool:
    """Whether somebody who may see the session may also see what it cost."""
    try:
        access = await _authorize(request, Action.METRICS, session_id)
        await find_visible(request, session_id, access)
    except HttpError:
        return False
    return True


async def _authorize(request: HttpRequest, action: Action, session_id: str) -> Access:
    find_call_id = partial(call_of, request, session_id)
    return await authorize(request, runner_of(request), action, session_id=session_id, find_call_id=find_call_id)
