"""`AgentSession`: one agent on one call, from the moment it is asked for until long after it ended."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models, router, transaction
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from ..news import tell_on_commit
from .fields import ExactCharField
from .worker import Worker, seconds_ago

if TYPE_CHECKING:
    from ..costs import Cost
    from .event import SessionEvent


class SessionStatus(models.TextChoices):
    QUEUED = "queued", _("queued")
    STARTING = "starting", _("starting")
    ACTIVE = "active", _("active")
    CLOSING = "closing", _("closing")
    UNREACHABLE = "unreachable", _("unreachable")
    CLOSED = "closed", _("closed")
    FAILED = "failed", _("failed")
    LOST = "lost", _("lost")


class EndReason(models.TextChoices):
    FINISHED = "finished", _("finished")
    REQUESTED = "requested", _("requested")
    IDLE = "idle", _("idle")
    MAX_DURATION = "max_duration", _("maximum duration")
    DRAINED = "drained", _("drained")
    CANCELLED = "cancelled", _("cancelled")
    CREATE_FAILED = "create_failed", _("agent could not be built")
    JOIN_FAILED = "join_failed", _("could not join the call")
    ERROR = "error", _("error")
    WORKER_LOST = "worker_lost", _("worker lost")

    @property
    def status(self) -> SessionStatus:
        """The end state that goes with this reason."""
        if self in {EndReason.CREATE_FAILED, EndReason.JOIN_FAILED, EndReason.ERROR}:
            return SessionStatus.FAILED
        return SessionStatus.LOST if self is EndReason.WORKER_LOST else SessionStatus.CLOSED


MAX_ERROR_LENGTH = 64 * 1024
ENDED = (SessionStatus.CLOSED, SessionStatus.FAILED, SessionStatus.LOST)


class AgentSessionQuerySet(models.QuerySet["AgentSession"]):
    def live(self) -> AgentSessionQuerySet:
        """Sessions that have not ended."""
        return self.filter(ended_at__isnull=True)

    def ended(self) -> AgentSessionQuerySet:
        return self.filter(ended_at__isnull=False)

    def ended_longer_ago_than(self, age: timedelta) -> AgentSessionQuerySet:
        """Sessions that ended more than ``age`` ago by the database's clock."""
        then = seconds_ago(age.total_seconds())
        # No session ends before it is asked for, and that moment has an index.
        return self.ended().filter(ended_at__lt=then, created_at__lt=then)

    def on_call(self, call_type: str, call_id: str) -> AgentSessionQuerySet:
        return self.filter(call_type=call_type, call_id=call_id)

    def occupying(self) -> AgentSessionQuerySet:
        """Sessions that count against limits: live ones that a worker has taken."""
        return self.live().exclude(status=SessionStatus.QUEUED)

    def mark_unreachable(self) -> int:
        """Their worker is silent: keep them live, but say so. Returns how many changed."""
        occupying = self.occupying().exclude(status=SessionStatus.UNREACHABLE)
        return len(_change(occupying, "unreachable", status=SessionStatus.UNREACHABLE))

    def mark_reachable(self) -> int:
        """Their worker is back: give them the state that their timestamps tell. Returns how many changed."""
        status = Case(
            When(close_requested_at__isnull=False, then=Value(SessionStatus.CLOSING)),
            When(started_at__isnull=False, then=Value(SessionStatus.ACTIVE)),
            default=Value(SessionStatus.STARTING),
        )
        return len(_change(self.filter(status=SessionStatus.UNREACHABLE), "reachable", status=status))

    def finish(
        self,
        reason: EndReason,
        *,
        error: str = "",
        at: datetime | None = None,
        data: dict[str, Any] | None = None,
        keys: Sequence[uuid.UUID] | None = None,
        **values: Any,
    ) -> list[uuid.UUID]:
        """Give the live ones among these their end state, once and for ever. Returns those that ended by this call.

        ``values`` are further fields to set with it.
        """
        return _change(
            self.live(),
            "ended",
            keys=keys,
            data={"reason": reason.value, **(data or {})},
            status=reason.status,
            end_reason=reason,
            error=_storable(error),
            ended_at=at or Now(),
            **values,
        )

    def request_close(self, *, force: bool = False, by: str = "") -> int:
        """Ask the workers of these sessions to close them. Asking again changes nothing, but may add ``force``.

        A queued session has no worker: it ends here and now. Returns how many requests are new.
        """
        ended = self.filter(status=SessionStatus.QUEUED).finish(EndReason.REQUESTED, data={"by": by})
        return len(ended) + len(self.mark_closing(force=force, by=by))

    def mark_closing(
        self, *, force: bool = False, by: str = "", keys: Sequence[uuid.UUID] | None = None
    ) -> list[uuid.UUID]:
        """Note that these, which workers run, are to be closed. Returns those for which that is new."""
        if force:
            self.live().filter(force_close=False).update(force_close=True)
        return _change(
            self.live().filter(close_requested_at__isnull=True),
            "close_requested",
            keys=keys,
            data={"by": by, "force": force},
            close_requested_at=Now(),
            status=Case(When(status=SessionStatus.UNREACHABLE, then=F("status")), default=Value(SessionStatus.CLOSING)),
        )


class AgentSession(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    agent = models.CharField(max_length=100, default="default", help_text=_("Name of the launcher."))
    call_type = ExactCharField(max_length=255, default="default")
    call_id = ExactCharField(max_length=255)
    metadata = models.JSONField(default=dict, blank=True)
    status = models.CharField(max_length=16, choices=SessionStatus.choices, default=SessionStatus.STARTING)
    end_reason = models.CharField(max_length=16, choices=EndReason.choices, blank=True)
    error = models.TextField(blank=True, help_text=_("Traceback or reason. For operators only."))
    worker = models.ForeignKey(Worker, on_delete=models.PROTECT, null=True, blank=True, related_name="sessions")
    agent_id = models.CharField(max_length=255, blank=True, help_text=_("The id of the vision-agents Agent."))
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    source = models.CharField(
        max_length=32, blank=True, help_text=_("Where the start came from: api, command, code, admin.")
    )
    force_close = models.BooleanField(default=False)
    metrics = models.JSONField(default=dict, blank=True, help_text=_("Last snapshot of the agent's metrics."))
    metrics_at = models.DateTimeField(null=True, blank=True)
    cost = models.DecimalField(
        max_digits=20,
        decimal_places=10,
        null=True,
        blank=True,
        help_text=_("By the price table in settings; empty: nothing is priced."),
    )
    cost_currency = models.CharField(max_length=8, blank=True, default="", db_default="")
    cost_unpriced = models.JSONField(
        default=list, blank=True, help_text=_("What the cost lacks, because it has no price.")
    )
    event_seq = models.PositiveIntegerField(default=0, editable=False)

    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True, blank=True, help_text=_("The agent was built and began to join."))
    joined_at = models.DateTimeField(null=True, blank=True)
    close_requested_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    events: models.Manager[SessionEvent]

    objects = AgentSessionQuerySet.as_manager()

    class Meta:
        ordering = ("-created_at", "-id")
        permissions = (
            ("start_agentsession", "Can start agent sessions"),
            ("close_agentsession", "Can close agent sessions"),
            ("force_close_agentsession", "Can force agent sessions to close"),
            ("speak_agentsession", "Can speak into agent sessions"),
            ("view_transcript", "Can read what was said in agent sessions"),
            ("view_metrics", "Can view metrics of agents and workers"),
        )
        indexes = (
            # Almost every row is ended; what the runtime asks for all day are the few live ones.
            models.Index(
                fields=["worker", "agent"], condition=Q(ended_at__isnull=True), name="va_session_live_by_worker"
            ),
            models.Index(
                fields=["call_type", "call_id"], condition=Q(ended_at__isnull=True), name="va_session_live_by_call"
            ),
            models.Index(fields=["call_id", "-created_at"], name="va_session_call_id"),
            models.Index(fields=["status", "-created_at"], name="va_session_status"),
            models.Index(fields=["-created_at", "-id"], name="va_session_created"),
        )
        constraints = (
            models.CheckConstraint(
                name="va_session_known_status", condition=Q(status__in=[status.value for status in SessionStatus])
            ),
            models.CheckConstraint(
                name="va_session_one_end",
                condition=(Q(status__in=[status.value for status in ENDED], ended_at__isnull=False) & ~Q(end_reason=""))
                | (~Q(status__in=[status.value for status in ENDED]) & Q(ended_at__isnull=True, end_reason="")),
            ),
        )

    def __str__(self) -> str:
        return f"{self.agent} on {self.call_type}/{self.call_id}"

    @property
    def is_live(self) -> bool:
        return self.ended_at is None

    def insert(self) -> None:
        """Insert this new row together with the first line of its history. Call it inside a transaction."""
        from .event import SessionEvent

        self.event_seq = 1
        self.save(force_insert=True)
        SessionEvent.objects.create(
            session=self, seq=1, kind="requested", data={"source": self.source} if self.source else {}
        )
        tell_on_commit([self.pk], using=router.db_for_write(AgentSession), states=True)

    def mark_active(self, *, agent_id: str, at: datetime | None = None) -> bool:
        """The agent is built and its join begins; False if that is known or it has ended.

        One that is asked to close, or unreachable, meanwhile stays that; its timestamps tell what it was.
        """
        return bool(
            _change(
                self._self().live().filter(started_at__isnull=True),
                "started",
                keys=[self.pk],
                data={"agent_id": agent_id},
                status=Case(When(status=SessionStatus.STARTING, then=Value(SessionStatus.ACTIVE)), default=F("status")),
                agent_id=agent_id,
                started_at=at or Now(),
            )
        )

    def mark_joined(self, *, at: datetime | None = None) -> bool:
        waiting = self._self().live().filter(joined_at__isnull=True)
        return bool(_change(waiting, "joined", keys=[self.pk], joined_at=at or Now()))

    def mark_closing(self, *, by: str, force: bool = False) -> bool:
        """It is being closed, ``by`` whom or what; False if that is known already."""
        return bool(self._self().mark_closing(by=by, force=force, keys=[self.pk]))

    def finish(
        self,
        reason: EndReason,
        *,
        error: str = "",
        at: datetime | None = None,
        metrics: dict[str, Any] | None = None,
        cost: Cost | None = None,
    ) -> bool:
        """Give it its end state; False if it had one already, which then stays.

        ``at`` is when it ended (now, if None), ``metrics`` the agent's last ones, ``cost`` what it cost.
        """
        values: dict[str, Any] = {"metrics": metrics, "metrics_at": at or Now()} if metrics else {}
        if cost is not None:
            values |= cost.values()
        return bool(self._self().finish(reason, error=error, at=at, keys=[self.pk], **values))

    def _self(self) -> AgentSessionQuerySet:
        return AgentSession.objects.filter(pk=self.pk)


def _storable(text: str) -> str:
    """Return ``text`` as every database takes it: tracebacks may hold NUL, or lone surrogates from file names."""
    clean = text.replace("\0", "").encode("utf-8", "backslashreplace").decode()
    return (
        clean
        if len(clean) <= MAX_ERROR_LENGTH
        else f"{clean[: MAX_ERROR_LENGTH // 2]}\n[...]\n{clean[-MAX_ERROR_LENGTH // 2 :]}"
    )


def _change(
    queryset: AgentSessionQuerySet,
    kind: str,
    *,
    keys: Sequence[uuid.UUID] | None = None,
    data: dict[str, Any] | None = None,
    **values: Any,
) -> list[uuid.UUID]:
    """Apply ``values`` to the rows of ``queryset`` and write one line of history for each, or do nothing at all.

    With the line that ends a session come the rows of its webhooks: whoever ends it, and whatever dies next, they are
    sent.

    Each row is updated under the conditions of ``queryset`` again, so that of two processes that race for one change
    exactly one makes it and writes its line. ``keys``, where the caller knows them, saves the query that finds them.
    Returns the keys of the rows that changed.
    """
    from .delivery import WebhookDelivery
    from .event import SessionEvent

    changed: list[uuid.UUID] = []
    if keys is None:
        keys = list(queryset.order_by("pk").values_list("pk", flat=True))
    using = router.db_for_write(AgentSession)
    for key in keys:
        with transaction.atomic(using=using):
            if not queryset.filter(pk=key).update(event_seq=F("event_seq") + 1, **values):
                continue
            seq = AgentSession.objects.values_list("event_seq", flat=True).get(pk=key)
            SessionEvent.objects.create(session_id=key, seq=seq, kind=kind, data=data or {})
            if kind == "ended":
                WebhookDelivery.objects.enqueue(key)
            tell_on_commit([key], using=using, states=True)
        changed.append(key)
    return changed
