"""Lists of sessions: newest first, in pages of a bounded size."""

from __future__ import annotations

import base64
import binascii
import uuid
from datetime import UTC, datetime
from typing import Any

from django.db.models import Q

from ..auth.permissions import Access
from ..exceptions import InvalidInput
from ..models import AgentSession
from ..utils.validation import clean_call_part
from .errors import Unprocessable
from .lookup import Found, describe
from .schemas import Filters

_FIELDS = (
    "id",
    "call_id",
    "call_type",
    "agent",
    "status",
    "end_reason",
    "created_at",
    "started_at",
    "joined_at",
    "ended_at",
)


def list_page(access: Access, filters: Filters, call_id: str | None) -> dict[str, Any]:
    """Return one page as `schemas.SessionList`. It queries.

    A page goes on where the one before ended (by time and id), not at an offset: new sessions shift nothing, and a
    late page costs no more than the first. Nothing is counted, because the table keeps its history.

    Raises:
        APIError: 422 for a filter that is malformed.
    """
    sessions = AgentSession.objects.only(*_FIELDS)
    if not access.sees_all:
        sessions = sessions.filter(started_by_id=access.user_id)
    if filters.status is not None:
        sessions = sessions.filter(status=filters.status)
    if filters.agent is not None:
        sessions = sessions.filter(agent=_clean("agent", filters.agent))
    if call_id is not None:
        sessions = sessions.filter(call_id=_clean("call_id", call_id))
    if filters.cursor:
        at, key = _decode(filters.cursor)
        sessions = sessions.filter(Q(created_at__lt=at) | Q(created_at=at, id__lt=key))
    rows = list(sessions.order_by("-created_at", "-id")[: filters.limit + 1])
    page = rows[: filters.limit]
    more = len(rows) > filters.limit
    return {"items": [describe(Found(row)) for row in page], "next": _encode(page[-1]) if more else None}


def _clean(field: str, value: str) -> str:
    try:
        return clean_call_part(field, value)
    except InvalidInput as error:
        raise Unprocessable("query", error.field, error.message) from None


def _encode(row: AgentSession) -> str:
    text = f"{row.created_at.astimezone(UTC).isoformat()} {row.pk}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[datetime, uuid.UUID]:
    try:
        text = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        at, _, key = text.decode("ascii").partition(" ")
        moment = datetime.fromisoformat(at)
        if moment.utcoffset() is None:
            raise ValueError("naive")
        return moment.astimezone(UTC), uuid.UUID(key)
    except (ValueError, OverflowError, binascii.Error):
        raise Unprocessable("query", "cursor", "is not one that a list gave as next") from None
