"""`SessionEvent`: one line of a session's history."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import models, router, transaction
from django.db.models.functions import Now

from ..messaging.notifications import tell_of_news_on_commit
from .bulk import insert_events, take_numbers
from .session import AgentSession

_LIFECYCLE = {
    "requested": "The session was asked for: who by, how, and with which metadata.",
    "claimed": "A worker took it from the queue.",
    "postponed": "It may not start yet: a limit over all workers is reached, or its worker had no room after all.",
    "requeued": "Its worker gave it back to the queue before it had started.",
    "started": "The agent is built, and joins its call.",
    "joined": "The agent is on the call.",
    "close_requested": "Somebody, or a limit, wants it to end; `force`: without waiting for the agent.",
    "ended": "It has its end state, with the reason.",
    "unreachable": "Its worker has been silent for WORKER_TTL.",
    "reachable": "Its worker is heard of again.",
}
_WITHOUT_WORDS = {
    "agent_joined": "The agent has come onto the call.",
    "agent_left": "The agent has left the call.",
    "participant_joined": "A person has come onto the call.",
    "participant_left": "A person has left the call.",
    "user_turn_started": "A person began to speak.",
    "user_turn_ended": "A person has finished speaking.",
    "agent_turn_started": "The agent began to speak.",
    "agent_turn_ended": "The agent has stopped speaking; `interrupted`: because somebody cut in.",
    "turn": "An answer is over: what its time was made of, in milliseconds.",
    "error": "The agent reported an error: of which component, and whether it goes on. Its text holds words.",
    "connection": "The connection to a model came or went.",
    "dropped": "Events that are missing here, by kind, and why.",
}
_WITH_WORDS = {
    "message": "Something was said or typed, once it was complete; an answer that was cut, as far as it was heard.",
    "tool_started": "The model calls a tool, with these arguments.",
    "tool_ended": "The tool has returned, or failed: its result, and the milliseconds that it took.",
    "asked": "Somebody had the agent say or answer something from outside the call.",
    "custom": "A custom event of a page or of the agent.",
}

KINDS = _LIFECYCLE | _WITHOUT_WORDS | _WITH_WORDS
"""Every kind of event that a history may hold, and what it tells; the reference is made of this."""

LIFECYCLE_KINDS = frozenset(_LIFECYCLE)
"""What the runner itself tells of a session. All other kinds are told by `observe`, and written by `recorder`."""

KINDS_WITHOUT_WORDS = LIFECYCLE_KINDS | _WITHOUT_WORDS.keys()
"""For whoever may see the session. All others hold what was said or done with it: for who may read transcripts."""

_QUOTING = {"error": "message", "connection": "reason"}
"""What of these kinds is the text of a model's provider, which may repeat what was said."""


def without_words(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """Return what of an event of `KINDS_WITHOUT_WORDS` is for whoever may not read what was said."""
    quoting = _QUOTING.get(kind)
    if quoting is None or not isinstance(data, dict):
        return data
    return {key: value for key, value in data.items() if key != quoting}


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event that has no place in its session's history yet."""

    session_id: uuid.UUID
    kind: str
    at: datetime
    data: dict[str, Any]


class SessionEventQuerySet(models.QuerySet["SessionEvent"]):
    def append(self, lines: Sequence[EventLine], *, after: dict[uuid.UUID, int] | None = None) -> dict[uuid.UUID, int]:
        """Write ``lines``, in order, behind what their sessions' histories hold already; all of them or none.

        Each session's numbers are taken by one UPDATE of its row, as single lines take theirs, so that whoever writes
        meanwhile gets others, without gaps. Lines of sessions that were deleted are left out.

        ``after`` is for a second try, when the first ended without an answer (the connection broke at the commit): the
        last number of each session that is known to have been written before. They are not written twice.

        Returns the last number of each session.
        """
        wanted = Counter(line.session_id for line in lines)
        using = router.db_for_write(SessionEvent)
        with transaction.atomic(using=using):
            last = take_numbers(using, wanted)
            seq = {key: number - wanted[key] for key, number in last.items()}
            # Only now, with the sessions' rows held: a first try that was still under way has ended.
            if after is not None and self._holds(lines, last, after):
                transaction.set_rollback(True, using=using)
                return seq
            events = []
            for line in lines:
                if line.session_id in seq:
                    seq[line.session_id] += 1
                    events.append((line, seq[line.session_id]))
            insert_events(using, events)
            tell_of_news_on_commit(list(last), using=using, states=False)
        return last

    def _holds(self, lines: Sequence[EventLine], sessions: Container[uuid.UUID], after: dict[uuid.UUID, int]) -> bool:
        """Whether ``lines`` stand in the histories of those of their sessions that still exist."""
        first = next((line for line in lines if line.session_id in sessions), None)
        if first is None:
            return True
        seq = after.get(first.session_id, 0)
        # All or none were written, so one line tells.
        return self.filter(session_id=first.session_id, seq__gt=seq, kind=first.kind, at=first.at).exists()


class SessionEvent(models.Model):
    """``seq`` counts from 1 without gaps within a session, in the order of writing; ``at`` is the event's own time.

    ``data`` is JSON of at most 16 KB. Its keys, by ``kind``, beside the runner's own (`LIFECYCLE_KINDS`):

    ========================================== =======================================================================
    agent_joined, agent_left                   none
    participant_joined, participant_left       participant_id, user_id
    user_turn_started, user_turn_ended         participant_id, user_id
    message                                    message_id, role, user_id, completed (false: it was cut), text
    agent_turn_started, agent_turn_ended       none; interrupted
    tool_started                               tool_call_id, name, arguments
    tool_ended                                 tool_call_id, name, ok, ms, error, result
    turn                                       participant_id, how ("speech", "text"), end_of_turn_ms, recognition_ms,
                                               model_ms, voice_ms, total_ms (null: not known), interrupted
    error                                      component, type, message, recoverable
    connection                                 component, state ("connected", "disconnected"), reason
    asked                                      how ("say", "respond"), by, text: from outside the call
    custom                                     data, from ("agent", or who sent it)
    dropped                                    kinds (how many of each are missing), reason
    ========================================== =======================================================================

    ``partial`` (participant_id, user_id, role, text so far, message_id) goes to live viewers and is never kept. The
    ``message_id`` of spoken partial words is provisional: the final message of that person takes their place.
    """

    session = models.ForeignKey(AgentSession, on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveIntegerField()
    kind = models.CharField(max_length=64)
    at = models.DateTimeField(db_default=Now())
    data = models.JSONField(default=dict, blank=True)

    objects = SessionEventQuerySet.as_manager()

    class Meta:
        ordering = ("session_id", "seq")
        constraints = (models.UniqueConstraint(fields=["session", "seq"], name="va_event_session_seq"),)
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.seq} {self.kind}"
