"""What a session's agent did and said: events, transcript, metrics; of live sessions and of those that ended."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from ninja import Query, Router
from ninja.errors import HttpError

from ..auth.permissions import Access, Action, authorize, rule_for, who_asks
from ..models import KINDS_WITHOUT_WORDS, SessionEvent, without_words
from ..quotas import heavy_read
from ..store import database
from ..utils.timestamps import iso
from .errors import answer, encode_json, json_response
from .lookup import call_of, find_visible, measured, priced
from .operations import operation, runner_of
from .pagination import Page, page_of
from .schemas import After, EventList, SessionMetrics, Transcript, TranscriptPart
from .status import preferred_type
from .transcripts import as_text, as_vtt

router = Router(tags=["history"])

_TYPES = {"json": "application/json", "text": "text/plain", "vtt": "text/vtt"}


@operation(
    router,
    "GET",
    "/sessions/{session_id}/events",
    answers={200: (EventList, "One page.")},
    errors=(401, 403, 404, 422, 503),
    summary="List the events of a session",
)
async def list_events(request: HttpRequest, session_id: str, part: Query[After]) -> HttpResponse:
    """Oldest first. To follow a live session, ask again after the last `seq` that came: within a second it is there.

    Events that hold what was said, or done with it, come only to who may read transcripts; so does what an error says.
    """
    access = await _authorize(request, Action.VIEW, session_id)
    found = await find_visible(request, session_id, access)
    words = await _may_read_words(request, session_id)
    async with heavy_read(who_asks(request, access)):
        body = await database.read(_events, found.key, part, words)
    return answer(body, _TYPES["json"])


@operation(
    router,
    "GET",
    "/sessions/{session_id}/transcript",
    answers={200: (Transcript, "What was said, in the order in which it was whole.")},
    errors=(401, 403, 404, 422, 503),
    texts={"text/plain": "A line for each message.", "text/vtt": "WebVTT; times count from the start."},
    summary="Get the transcript of a session",
)
async def get_transcript(request: HttpRequest, session_id: str, part: Query[TranscriptPart]) -> HttpResponse:
    """Messages of people and of the agent, those that were cut short included. JSON unless asked otherwise.

    Where more follow, the `Link` header names what to ask next, whatever the format.
    """
    access = await _authorize(request, Action.TRANSCRIPT, session_id)
    found = await find_visible(request, session_id, access)
    kinds = (_TYPES["text"], _TYPES["vtt"])
    kind = _TYPES[part.format] if part.format else preferred_type(request.headers.get("Accept", ""), kinds)
    async with heavy_read(who_asks(request, access)):
        if kind == _TYPES["json"]:
            about = {"session_id": found.id, "call_id": found.call_id}
            body, following = await database.read(_transcript, found.key, part, about)
            response = answer(body, kind)
        else:
            write = as_vtt if kind == _TYPES["vtt"] else as_text
            start = found.started_at or found.row.created_at
            body, following = await database.read(_written_transcript, found.key, part, write, start)
            response = answer(body, f"{kind}; charset=utf-8")
    if following is not None:
        query = {**part.model_dump(exclude_unset=True, exclude_none=True), "after": following}
        response["Link"] = f'<?{urlencode(query)}>; rel="next"'
    response["Vary"] = "Accept"
    return response


@operation(
    router,
    "GET",
    "/sessions/{session_id}/metrics",
    answers={200: (SessionMetrics, "The agent's metrics.")},
    errors=(401, 403, 404, 503),
    summary="Get the metrics of a session",
)
async def get_session_metrics(request: HttpRequest, session_id: str) -> HttpResponse:
    """Of this moment where this process runs the session; else what its worker wrote down last."""
    found = await find_visible(request, session_id, await _authorize(request, Action.METRICS, session_id))
    about = {"session_id": found.id, "call_id": found.call_id, "started_at": iso(found.started_at)}
    return json_response({**about, **measured(found), **priced(found)})


async def _authorize(request: HttpRequest, action: Action, session_id: str) -> Access:
    find_call_id = partial(call_of, request, session_id)
    return await authorize(request, runner_of(request), action, session_id=session_id, find_call_id=find_call_id)


async def _may_read_words(request: HttpRequest, session_id: str) -> bool:
    """Whether somebody who may see the session may also read what was said in it."""
    if rule_for(runner_of(request), Action.TRANSCRIPT) is not None:
        return True  # the same callable of `ServeOptions` has just allowed it
    try:
        await _authorize(request, Action.TRANSCRIPT, session_id)
    except HttpError:
        return False
    return True


# In a reader's thread


def _events(key: uuid.UUID, part: After, words: bool) -> bytes:
    """Return `schemas.EventList` as JSON. It queries."""

    def make(row: SessionEvent) -> tuple[str, int]:
        data = row.data if words else without_words(row.kind, row.data)
        return _sized({"seq": row.seq, "kind": row.kind, "at": iso(row.at), "data": data})

    return _json({}, page_of(key, part.after, part.limit, None if words else KINDS_WITHOUT_WORDS, make))


def _transcript(key: uuid.UUID, part: TranscriptPart, about: dict[str, Any]) -> tuple[bytes, int | None]:
    """Return `schemas.Transcript` as JSON, and its `next`. It queries."""
    page = page_of(key, part.after, part.limit, {"message"}, lambda row: _sized(_message(row)))
    return _json(about, page), page.next


def _written_transcript(
    key: uuid.UUID, part: TranscriptPart, write: Callable[[list[dict[str, Any]], datetime], str], start: datetime
) -> tuple[bytes, int | None]:
    """Return a transcript as text, and the number to go on after. It queries."""

    def make(row: SessionEvent) -> tuple[dict[str, Any], int]:
        message = _message(row, raw=True)
        return message, len(message["text"].encode()) + len(message["user_id"].encode()) + 100

    page = page_of(key, part.after, part.limit, {"message"}, make)
    return write(page.items, start).encode(), page.next


def _sized(item: dict[str, Any]) -> tuple[str, int]:
    text = encode_json(item)
    return text, len(text)


def _json(about: dict[str, Any], page: Page[str]) -> bytes:
    head = "".join(f"{encode_json(key)}:{encode_json(value)}," for key, value in about.items())
    return f'{{{head}"items":[{",".join(page.items)}],"next":{encode_json(page.next)}}}'.encode()


def _message(row: SessionEvent, *, raw: bool = False) -> dict[str, Any]:
    """Return `schemas.Message`; ``raw`` keeps the time a datetime. `REDACT` may have taken keys away."""
    data = row.data
    return {
        "seq": row.seq,
        "at": row.at if raw else iso(row.at),
        **{key: str(data.get(key) or "") for key in ("message_id", "role", "user_id", "text")},
        "completed": bool(data.get("completed", True)),
    }
