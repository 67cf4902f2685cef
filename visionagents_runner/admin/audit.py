"""Who did what to a session or a worker: from its history, and from the admin's own log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from ..models import AgentSession, SessionEvent
from . import display

MOST_LINES = 100
_KINDS = ("requested", "close_requested", "asked", "ended")
_SAME = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Line:
    at: datetime
    who: str
    what: str
    where: str

    @property
    def time(self) -> SafeString:
        return display.moment(self.at)


def trail_of_session(session: AgentSession, last_seq: int) -> list[Line]:
    """Who asked for it, spoke into it and closed it, the oldest first. What was said is for the transcript."""
    window = SessionEvent.objects.filter(session=session, seq__gt=last_seq, kind__in=_KINDS).order_by("-seq")
    events = [_of_event(session, event) for event in window[:MOST_LINES]][::-1]
    return _merged([line for line in events if line is not None], log_of(session))


def log_of(row: Model) -> list[Line]:
    """What was done to ``row`` in the admin, the oldest first."""
    entries = LogEntry.objects.filter(
        content_type=ContentType.objects.get_for_model(type(row)), object_id=str(row.pk)
    ).select_related("user")
    newest = entries.order_by("-action_time", "-pk")[:MOST_LINES]
    return [
        Line(entry.action_time, entry.user.get_username(), entry.get_change_message(), _("admin")) for entry in newest
    ][::-1]


def _merged(events: list[Line], log: list[Line]) -> list[Line]:
    """A click in the admin leaves a line in both: it is shown once, with where it was made."""
    lines = list(events)
    for entry in log:
        for number, line in enumerate(lines):
            if line.who == entry.who and not line.where and abs(line.at - entry.at) < _SAME:
                lines[number] = replace(line, where=entry.where)
                break
        else:
            lines.append(entry)
    return sorted(lines, key=lambda line: line.at)


def _of_event(session: AgentSession, event: SessionEvent) -> Line | None:
    data: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
    by = str(data.get("by") or "")
    match event.kind:
        case "requested" if data.get("restart_of"):
            return Line(event.at, _("by itself"), _("Started again, because its worker was lost."), "")
        case "requested":
            who = session.started_by.get_username() if session.started_by else ""
            return Line(event.at, who, _("Asked for the session."), str(data.get("source") or session.source))
        case "close_requested":
            return Line(event.at, by, _("Forced to close.") if data.get("force") else _("Asked to close."), "")
        case "asked":
            said = data.get("how") == "say"
            return Line(event.at, by, _("Had the agent say something.") if said else _("Had the agent reply."), "")
        case "ended" if by:
            return Line(event.at, by, _("Ended it."), "")
    return None
