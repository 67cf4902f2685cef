"""`SessionCommand`: something that a session's agent is to do, asked of a worker that does not run it."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import NamedTuple

from django.db import models
from django.db.models import BooleanField, ExpressionWrapper, F, Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from .session import AgentSession
from .worker import WorkerState, seconds_ago

_BATCH = 500


class CommandKind(models.TextChoices):
    SAY = "say", _("say")
    RESPOND = "respond", _("respond")


class CommandOutcome(models.TextChoices):
    DONE = "done", _("done")
    CANNOT = "cannot", _("the agent cannot")
    TIMEOUT = "timeout", _("not taken in time")
    FAILED = "failed", _("failed")


class CommandState(NamedTuple):
    """What whoever asked needs to know."""

    taken: bool
    outcome: str
    detail: str
    ended: bool
    """Whether the session has."""
    silent: bool
    """Whether nothing is heard of the session's worker."""


class SessionCommandQuerySet(models.QuerySet["SessionCommand"]):
    def waiting(self, within: float | None = None) -> SessionCommandQuerySet:
        """Commands that no worker has taken; with ``within``, only those that were asked in the last so many seconds.

        Whoever asked for an older one has gone without withdrawing it, and it is not to be done any more.
        """
        waiting = self.filter(taken_at__isnull=True)
        return waiting if within is None else waiting.filter(created_at__gt=seconds_ago(within))

    def list_waiting(self, session_id: uuid.UUID, within: float) -> list[SessionCommand]:
        """Return the commands to a session that wait, in the order in which they were asked."""
        return list(self.waiting(within).filter(session_id=session_id).order_by("created_at", "pk"))

    def take(self, key: uuid.UUID, within: float) -> bool:
        """Take a command to do it; False if it was taken, or withdrawn, or is too old. So it is done once at most.

        Its text is not kept any longer: what was said stands in the session's history, as far as REDACT lets it.
        """
        return bool(self.waiting(within).filter(pk=key).update(taken_at=Now(), text=""))

    def answer(self, key: uuid.UUID, outcome: CommandOutcome, detail: str = "") -> bool:
        return bool(
            self.filter(pk=key, answered_at__isnull=True).update(outcome=outcome, detail=detail, answered_at=Now())
        )

    def withdraw(self, key: uuid.UUID) -> bool:
        """Delete a command that no worker has taken; False if one has."""
        return bool(self.waiting().filter(pk=key).delete()[0])

    def state_of(self, key: uuid.UUID, worker_ttl: float) -> CommandState | None:
        """Return what has become of a command; None if its row is gone, with its session."""
        found = self.filter(pk=key).annotate(
            silent=ExpressionWrapper(
                Q(session__worker__isnull=True)
                | Q(session__worker__state=WorkerState.STOPPED)
                | Q(session__worker__heartbeat_at__lt=seconds_ago(worker_ttl)),
                output_field=BooleanField(),
            ),
            session_ended_at=F("session__ended_at"),
        )
        row = found.values_list("taken_at", "outcome", "detail", "session_ended_at", "silent").first()
        if row is None:
            return None
        taken_at, outcome, detail, ended_at, silent = row
        return CommandState(taken_at is not None, outcome, detail, ended_at is not None, bool(silent))

    def sweep(self, age: timedelta) -> None:
        """Delete commands that nobody waits for any more: whoever asked has gone without deleting them."""
        # Found first, because a DELETE that looks for its rows locks those that it passes, on MariaDB and MySQL.
        old = list(self.filter(created_at__lt=seconds_ago(age.total_seconds())).values_list("pk", flat=True)[:_BATCH])
        if old:
            self.filter(pk__in=old).delete()


class SessionCommand(models.Model):
    """The worker that runs the session takes it, does it, and writes the outcome; whoever asked then deletes it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    session = models.ForeignKey(AgentSession, on_delete=models.CASCADE, related_name="commands")
    kind = models.CharField(max_length=16, choices=CommandKind.choices)
    text = models.TextField()
    interrupt = models.BooleanField(default=False)
    asked_by = models.CharField(max_length=255, blank=True)
    outcome = models.CharField(max_length=16, choices=CommandOutcome.choices, blank=True)
    detail = models.TextField(blank=True)
    created_at = models.DateTimeField(db_default=Now())
    taken_at = models.DateTimeField(null=True, blank=True)
    answered_at = models.DateTimeField(null=True, blank=True)

    objects = SessionCommandQuerySet.as_manager()

    class Meta:
        indexes = (
            models.Index(fields=["session"], condition=Q(taken_at__isnull=True), name="va_command_waiting"),
            models.Index(fields=["created_at"], name="va_command_created"),
        )
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.kind} in {self.session_id}"
