"""`AgentSession`: one agent on one call, from the moment it is asked for until long after it ended."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings
from django.db import models, router, transaction
from django.db.models import Case, Exists, F, Q, Value, When
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from ..exceptions import RunnerConfigurationError
from ..messaging.notifications import give_to_engine, tell_of_news_on_commit, tell_of_queued
from ..utils.credentials import without_credentials
from ..utils.text import visible
from .fields import ExactCharField
from .worker import Worker, in_seconds, seconds_ago

if TYPE_CHECKING:
    from ..conf.prices import Cost
    from .event import SessionEvent

logger = logging.getLogger(__name__)


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
    EXPIRED = "expired", _("no worker had room in time")

    @property
    def status(self) -> SessionStatus:
        """The end state that goes with this reason."""
        if self in {EndReason.CREATE_FAILED, EndReason.JOIN_FAILED, EndReason.ERROR, EndReason.EXPIRED}:
            return SessionStatus.FAILED
        return SessionStatus.LOST if self is EndReason.WORKER_LOST else SessionStatus.CLOSED


MAX_ERROR_LENGTH = 64 * 1024
ENDED = (SessionStatus.CLOSED, SessionStatus.FAILED, SessionStatus.LOST)
OCCUPYING = (SessionStatus.STARTING, SessionStatus.ACTIVE, SessionStatus.CLOSING, SessionStatus.UNREACHABLE)
LIVE = (SessionStatus.QUEUED, *OCCUPYING)

PRIORITIES = range(-100, 101)
"""Of queued sessions; the highest goes first."""


class CloseRequests(NamedTuple):
    """What became of the request to close some sessions, of those that had not been asked to."""

    asked: list[uuid.UUID]
    """Their workers are to close them."""
    ended: list[uuid.UUID]
    """They had no worker yet."""


class AgentSessionQuerySet(models.QuerySet["AgentSession"]):
    def live(self) -> AgentSessionQuerySet:
        """Sessions that have not ended."""
        # By their states too, though that says no more: MariaDB and MySQL have no index of the live, but one of states.
        return self.filter(ended_at__isnull=True, status__in=LIVE)

    def ended(self) -> AgentSessionQuerySet:
        return self.filter(ended_at__isnull=False)

    def ended_longer_ago_than(self, age: timedelta) -> AgentSessionQuerySet:
        """Sessions that ended more than ``age`` ago by the database's clock."""
        then = seconds_ago(age.total_seconds())
        # No session ends before it is asked for, and that moment has an index.
        return self.ended().filter(ended_at__lt=then, created_at__lt=then)

    def present(self) -> AgentSessionQuerySet:
        """Live sessions, but for those dispatched for a time that is still to come: these are on no call yet."""
        waits = Q(status=SessionStatus.QUEUED, attempts=0)
        return self.live().filter(~waits | Q(due_at__lte=Now()))

    def on_call(self, call_type: str, call_id: str) -> AgentSessionQuerySet:
        return self.filter(call_type=call_type, call_id=call_id)

    def occupying(self) -> AgentSessionQuerySet:
        """Sessions that count against limits: live ones that a worker has taken."""
        return self.filter(ended_at__isnull=True, status__in=OCCUPYING)

    def queued(self) -> AgentSessionQuerySet:
        """Sessions that wait for a worker."""
        return self.filter(status=SessionStatus.QUEUED)

    def due(self) -> AgentSessionQuerySet:
        """Queued sessions that a worker may take now, those that shall be first before others."""
        in_time = Q(expires_at__isnull=True) | Q(expires_at__gt=Now())
        return self.queued().filter(in_time, due_at__lte=Now()).order_by("-priority", "due_at", "pk")

    def dispatch(self, call_id: str, **options: Any) -> AgentSession:
        """Have a worker with room start an agent on a call: `dispatch.dispatch`, which see."""
        from ..dispatch.dispatch import dispatch

        return dispatch(call_id, **options)

    async def adispatch(self, call_id: str, **options: Any) -> AgentSession:
        """`dispatch` for asynchronous code."""
        from ..dispatch.dispatch import adispatch

        return await adispatch(call_id, **options)

    def claim(self, key: uuid.UUID, worker_id: uuid.UUID, *, restartable: bool = False) -> bool:
        """Take a session that is due for a worker.

        False if another one was faster, it is not due any more, or others have declared that worker dead.
        """
        values = {"status": SessionStatus.STARTING, "worker_id": worker_id, "restartable": restartable}
        data = {"worker": str(worker_id)}
        there = Exists(Worker.objects.running().filter(pk=worker_id))
        return bool(_change(self.due().order_by().filter(there), "claimed", keys=[key], data=data, **values))

    def unclaim(self, key: uuid.UUID, worker_id: uuid.UUID) -> bool:
        """Give back a session that ``worker_id`` took and has not begun to build; False if it is not so any more."""
        mine = self.live().filter(worker_id=worker_id, status=SessionStatus.STARTING, started_at__isnull=True)
        return bool(_change(mine, "requeued", keys=[key], status=SessionStatus.QUEUED, worker_id=None, due_at=Now()))

    def postpone(self, key: uuid.UUID, seconds: float, *, why: str, limit: str = "") -> bool:
        """Let a queued session wait for so long before the next worker tries. Its history tells of the first time.

        ``why`` is for people, ``limit`` the name of what holds it back (`SessionLimitExceeded.limit`).
        """
        values = {"due_at": in_seconds(seconds), "attempts": F("attempts") + 1}
        waiting = self.due().order_by()
        if _change(waiting.filter(attempts=0), "postponed", keys=[key], data={"reason": why, "limit": limit}, **values):
            return True
        return bool(waiting.filter(pk=key).update(**values))

    def hurry(
        self, most: int, *, agents: Iterable[str], calls: Iterable[tuple[str, str]], users: Iterable[Any]
    ) -> list[AgentSession]:
        """Have those tried again now that a limit holds back, of which one may have freed its place.

        They are of these agents, on these calls, or of these users. Returns them, those that shall be first before
        others, and no more than ``most``.
        """
        freed = Q(agent__in=agents) | Q(started_by_id__in=users)
        for call_type, call_id in calls:
            freed |= Q(call_type=call_type, call_id=call_id)
        held_back = self.queued().filter(freed, attempts__gt=0, due_at__gt=Now())
        first = list(held_back.order_by("-priority", "created_at", "pk")[:most])
        if first:
            held_back.order_by().filter(pk__in=[session.pk for session in first]).update(due_at=Now())
        return first

    def expire(self) -> list[uuid.UUID]:
        """End the queued sessions whose time is over. Returns their ids."""
        late = self.queued().filter(expires_at__lte=Now())
        return late.finish(EndReason.EXPIRED, error="No worker had room for it until then (expires_at).")

    def withdraw(self, key: uuid.UUID) -> bool:
        """Delete a session that no worker has taken, as if nobody had asked for it; False if one has."""
        with transaction.atomic(using=router.db_for_write(AgentSession)):
            # The lock is this UPDATE: a worker that claims it meanwhile waits here, and then finds nothing.
            if not self.queued().filter(pk=key).update(priority=F("priority")):
                return False
            self.filter(pk=key).delete()
            tell_of_news_on_commit([key], using=router.db_for_write(AgentSession), states=True)
        return True

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

    def request_close(self, *, force: bool = False, by: str = "") -> CloseRequests:
        """Ask the workers of these sessions to close them. Asking again changes nothing, but may add ``force``.

        A queued session has no worker: it ends here and now.
        """
        unasked = self.live().filter(close_requested_at__isnull=True).order_by()
        states = dict(sorted(unasked.values_list("pk", "status")))
        queued = [key for key, status in states.items() if status == SessionStatus.QUEUED]
        ended = self._end_queued(queued, by)
        # One that a worker took this moment is asked of that worker, and one that it gave back ends here.
        asked = self.mark_closing(force=force, by=by, keys=[key for key in states if key not in ended])
        ended += self._end_queued([key for key in states if key not in {*ended, *asked}], by)
        return CloseRequests(asked, ended)

    def _end_queued(self, keys: Sequence[uuid.UUID], by: str) -> list[uuid.UUID]:
        return self.queued().finish(EndReason.REQUESTED, data={"by": by}, keys=keys)

    def mark_closing(
        self, *, force: bool = False, by: str = "", keys: Sequence[uuid.UUID] | None = None
    ) -> list[uuid.UUID]:
        """Note that these, which workers run, are to be closed. Returns those for which that is new."""
        if force:
            self.live().filter(force_close=False).update(force_close=True)
        return _change(
            self.occupying().filter(close_requested_at__isnull=True),
            "close_requested",
            keys=keys,
            data={"by": by, "force": force},
            close_requested_at=Now(),
            status=Case(When(status=SessionStatus.UNREACHABLE, then=F("status")), default=Value(SessionStatus.CLOSING)),
        )


class AgentSession(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    agent = ExactCharField(max_length=100, default="default", help_text=_("Name of the launcher."))
    call_type = ExactCharField(max_length=255, default="default")
    call_id = ExactCharField(max_length=255)
    metadata = models.JSONField(default=dict, blank=True)
    status = models.CharField(max_length=16, choices=SessionStatus.choices, default=SessionStatus.STARTING)
    priority = models.SmallIntegerField(
        default=0, db_default=0, help_text=_("While it is queued: of those that are due, the highest goes first.")
    )
    due_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text=_("While it is queued: no worker takes it earlier. Empty: it was never queued."),
    )
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text=_("It ends if no worker has taken it by then; empty: it waits.")
    )
    attempts = models.PositiveIntegerField(
        default=0, db_default=0, help_text=_("How often a worker could not take it, because of a limit.")
    )
    restartable = models.BooleanField(
        default=False, db_default=False, help_text=_("Started again, once, if its worker is lost.")
    )
    restart_of = models.OneToOneField(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        # An older version, beside this one during a deploy, prunes without knowing of this field.
        db_constraint=False,
        related_name="restarted_as",
        help_text=_("The session whose worker was lost, which this one goes on for."),
    )
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
        default=list,
        db_default=Value([], models.JSONField()),
        blank=True,
        help_text=_("What the cost lacks, because it has no price."),
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
            ("view_error", "Can read the errors and tracebacks of agent sessions"),
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
            models.Index(
                fields=["-priority", "due_at"], condition=Q(status=SessionStatus.QUEUED), name="va_session_queue"
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

    def insert(self, *, hand_over: bool = True) -> None:
        """Insert this new row together with the first line of its history. Call it inside a transaction.

        One that is queued is handed to the engine that moves the queue, if there is one, in the same transaction.
        """
        from .event import SessionEvent

        self.event_seq = 1
        due_now = self.status == SessionStatus.QUEUED and self.due_at is None
        if due_now:
            self.due_at = Now()  # by the clock that it is compared with
        reckoned = [name for name in ("due_at", "expires_at") if hasattr(getattr(self, name), "resolve_expression")]
        self.save(force_insert=True)
        if reckoned and not due_now:
            self.refresh_from_db(fields=reckoned)
        data = {"source": self.source} if self.source else {}
        if self.restart_of_id is not None:
            data["restart_of"] = str(self.restart_of_id)
        SessionEvent.objects.create(session=self, seq=1, kind="requested", data=data)
        if self.status == SessionStatus.QUEUED and hand_over:
            give_to_engine(self)
        if due_now:
            self.refresh_from_db(fields=reckoned)
        tell_of_news_on_commit([self.pk], using=router.db_for_write(AgentSession), states=True)

    def insert_queued(self) -> None:
        """Insert this queued row, and tell workers of it when it is committed."""
        using = router.db_for_write(AgentSession)
        with transaction.atomic(using=using):
            self.insert()
            transaction.on_commit(tell_of_queued, using=using, robust=True)

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
        data: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        cost: Cost | None = None,
    ) -> bool:
        """Give it its end state; False if it had one already, which then stays.

        ``at`` is when it ended (now, if None), ``data`` what else its history tells of that, ``metrics`` the agent's
        last ones, ``cost`` what it cost.
        """
        values: dict[str, Any] = {"metrics": metrics, "metrics_at": at or Now()} if metrics else {}
        if cost is not None:
            values |= cost.values()
        return bool(self._self().finish(reason, error=error, at=at, data=data, keys=[self.pk], **values))

    def _self(self) -> AgentSessionQuerySet:
        return AgentSession.objects.filter(pk=self.pk)


def _storable(text: str) -> str:
    """Return ``text`` as every database takes it and everybody may see it: no credentials, no control characters."""
    clean = visible(without_credentials(text))
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

    With the line that ends a session come the rows of its webhooks, and the row that goes on for one whose worker is
    lost: whoever ends it, and whatever dies next, they are sent, and it is started again.

    Each row is updated under the conditions of ``queryset`` again, so that of two processes that race for one change
    exactly one makes it and writes its line. ``keys``, where the caller knows them, saves the query that finds them.
    Returns the keys of the rows that changed.
    """
    from .delivery import WebhookDelivery
    from .event import SessionEvent

    if len([alias for alias, count in queryset.query.alias_refcount.items() if count]) > 1:
        # Django would update the rows that a subquery found, and the database not judge its conditions again when the
        # UPDATE had to wait for another one: both would have made the change.
        raise ValueError("Name the sessions of other tables' rows by a subquery (worker_id__in=...), not by a join")
    changed: list[uuid.UUID] = []
    if keys is None:
        # In the order in which the recorder takes rows: who holds several waits only for those that come after them.
        keys = sorted(queryset.order_by().values_list("pk", flat=True))
    using = router.db_for_write(AgentSession)
    for key in keys:
        with transaction.atomic(using=using):
            if not queryset.filter(pk=key).update(event_seq=F("event_seq") + 1, **values):
                continue
            seq = AgentSession.objects.values_list("event_seq", flat=True).get(pk=key)
            told = data or {}
            if values.get("end_reason") is EndReason.WORKER_LOST and (successor := _restart(key)) is not None:
                told = {**told, "restarted_as": str(successor)}
            SessionEvent.objects.create(session_id=key, seq=seq, kind=kind, data=told)
            if kind == "ended":
                WebhookDelivery.objects.enqueue(key)
            tell_of_news_on_commit([key], using=using, states=True)
        changed.append(key)
    return changed


def _restart(key: uuid.UUID) -> uuid.UUID | None:
    """Queue the session that goes on for one whose worker is lost, if it is of a kind that does. Returns its id.

    That one is not started again a second time: whatever killed its workers would go through all of them.
    """
    lost = AgentSession.objects.get(pk=key)
    if not lost.restartable or lost.close_requested_at is not None:
        return None
    successor = AgentSession(
        agent=lost.agent,
        call_type=lost.call_type,
        call_id=lost.call_id,
        metadata=lost.metadata,
        status=SessionStatus.QUEUED,
        priority=PRIORITIES[-1],  # people are on the call
        started_by_id=lost.started_by_id,
        source="restart",
        restart_of_id=key,
    )
    try:
        with transaction.atomic(using=router.db_for_write(AgentSession)):
            successor.insert()
    except RunnerConfigurationError as error:
        # A lost session ends, whatever the engine says; the next poll finds what goes on for it.
        logger.error("Session %s goes on for %s, and is found by polling: %s", successor.pk, key, error)
        successor.insert(hand_over=False)
    return successor.pk
