"""What queued sessions wait for, and since when: for the admin and for Prometheus. By the database's clock.

``due_at`` alone does not tell: each try that runs into a limit over all workers moves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db.models import Case, CharField, Count, DateTimeField, F, Min, OuterRef, QuerySet, Subquery, Value, When
from django.db.models.functions import Coalesce, Now

from ..models import AgentSession, SessionEvent

if TYPE_CHECKING:
    from ..models.session import AgentSessionQuerySet

WORKER = "worker"
"""It is due: a worker with room."""
LIMIT = "limit"
"""At its last try a limit over all workers was reached."""
TIME = "time"
"""It is not due yet."""
FOR = (WORKER, LIMIT, TIME)


@dataclass(frozen=True, slots=True)
class Queue:
    """Some sessions that wait for the same."""

    count: int
    oldest: timedelta
    """How long the one has waited that could have started first; 0 of those that are not due yet."""


def with_waits(sessions: AgentSessionQuerySet) -> QuerySet[Any]:
    """Annotate queued sessions with ``waits_for``, one of `FOR`, and ``waits_since``: when each could have started."""
    # The history tells of the first try that was in vain: it was due by then.
    first_try = SessionEvent.objects.filter(session=OuterRef("pk"), kind="postponed").order_by("seq").values("at")[:1]
    since: Any = Coalesce(Subquery(first_try), F("due_at"), output_field=DateTimeField())
    return sessions.annotate(
        waits_for=Case(
            When(attempts__gt=0, then=Value(LIMIT)),
            When(due_at__gt=Now(), then=Value(TIME)),
            default=Value(WORKER),
            output_field=CharField(),
        ),
        waits_since=Case(When(attempts__gt=0, then=since), default=F("due_at"), output_field=DateTimeField()),
    )


def queues() -> dict[tuple[str, str], Queue]:
    """Return what waits in the queue, by agent and one of `FOR`."""
    groups = with_waits(AgentSession.objects.queued()).order_by().values("agent", "waits_for")
    rows = groups.annotate(count=Count("pk"), since=Min("waits_since"), now=Now())
    found: dict[tuple[str, str], Queue] = {}
    for row in rows:
        oldest = max(timedelta(), row["now"] - row["since"]) if row["since"] else timedelta()
        found[row["agent"], row["waits_for"]] = Queue(row["count"], oldest)
    return found
