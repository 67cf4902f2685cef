"""Sessions and workers of any age."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models.functions import Now

from visionagents_runner.models import AgentSession, EndReason, SessionEvent, Worker


def ago(age: timedelta) -> Any:
    return Now() - age


def worker(stopped: timedelta | None = None, **values: Any) -> Worker:
    made = Worker.objects.create(hostname="web-1.example", pid=1, **values)
    if stopped is not None:
        made.mark_stopped()
        Worker.objects.filter(pk=made.pk).update(
            started_at=ago(stopped), heartbeat_at=ago(stopped), stopped_at=ago(stopped)
        )
    return made


def session(
    ended: timedelta | None = None, reason: EndReason = EndReason.FINISHED, *, events: int = 3, **values: Any
) -> AgentSession:
    """Make a session that ended this long ago after an hour (None: it lives), with this many events (at least 2)."""
    made = AgentSession(call_id="call", status="starting", **values)
    made.insert()
    if ended is not None:
        made.finish(reason)
        asked = ended + timedelta(hours=1)
        AgentSession.objects.filter(pk=made.pk).update(created_at=ago(asked), ended_at=ago(ended))
    more = range(2 if ended is None else 3, events + 1)
    SessionEvent.objects.bulk_create([SessionEvent(session=made, seq=seq, kind="message") for seq in more])
    AgentSession.objects.filter(pk=made.pk).update(event_seq=events)
    return made
