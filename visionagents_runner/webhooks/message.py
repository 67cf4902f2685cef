"""What a webhook says, and its signature: Standard Webhooks (https://www.standardwebhooks.com)."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime

from django.db.models import Count
from standardwebhooks.webhooks import Webhook

from .. import __version__
from ..conf.webhooks import Endpoint
from ..models import AgentSession, SessionEvent, SessionStatus, WebhookDelivery
from ..utils.timestamps import iso

TYPE = "session.ended"

_COUNTED = {"message": "messages", "turn": "turns", "tool_started": "tool_calls", "error": "errors"}


def build_body(delivery: WebhookDelivery) -> bytes:
    """Return the body for an ended session: what ``GET /sessions/{id}`` says of it, and how much happened in it.

    It is alike at every attempt, holds no word of what was said and no traceback.

    Raises:
        AgentSession.DoesNotExist: the session was deleted, and the delivery with it.
    """
    session = AgentSession.objects.defer("error", "metrics").get(pk=delivery.session_id)
    kinds = dict(
        SessionEvent.objects.filter(session=session, kind__in=_COUNTED)
        .order_by()
        .values_list("kind")
        .annotate(count=Count("pk"))
    )
    body = {
        "type": TYPE,
        "timestamp": iso(session.ended_at),
        "data": {
            "session_id": str(session.pk),
            "call_id": session.call_id,
            "call_type": session.call_type,
            "agent": session.agent,
            "status": session.status,
            "end_reason": session.end_reason or None,
            "created_at": iso(session.created_at),
            "started_at": iso(session.started_at),
            "joined_at": iso(session.joined_at),
            "ended_at": iso(session.ended_at),
            "metadata": session.metadata,
            "due_at": iso(session.due_at),
            "restart_of": _id(session.restart_of_id),
            "restarted_as": _id(_restarted_as(session)),
            "counts": {
                "events": session.event_seq,
                **{name: kinds.get(kind, 0) for kind, name in _COUNTED.items()},
            },
        },
    }
    return json.dumps(body).encode()


def sign(endpoint: Endpoint, delivery: WebhookDelivery, body: bytes, at: datetime | None = None) -> dict[str, str]:
    """Return the headers of one attempt. The id stays the same at every attempt, the time is that of this one."""
    at = at or datetime.now(UTC)
    message_id = delivery.message_id
    signatures = [Webhook(secret).sign(message_id, at, body.decode()) for secret in endpoint.secrets]
    return {
        "content-type": "application/json",
        "user-agent": f"visionagents-runner/{__version__}",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _restarted_as(session: AgentSession) -> uuid.UUID | None:
    """Return the id of the session that goes on for one that is lost: it was made in the transaction of its end."""
    if session.status != SessionStatus.LOST:
        return None
    return AgentSession.objects.filter(restart_of=session.pk).values_list("pk", flat=True).first()


def _id(key: uuid.UUID | None) -> str | None:
    return None if key is None else str(key)
