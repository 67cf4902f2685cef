"""`Worker`: one process that hosts sessions."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import ExpressionWrapper, Q, Value
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from .session import AgentSession


class WorkerState(models.TextChoices):
    RUNNING = "running", _("running")
    DRAINING = "draining", _("draining")
    STOPPED = "stopped", _("stopped")


def seconds_ago(seconds: float) -> ExpressionWrapper[Any]:
    """Return the moment ``seconds`` ago by the database's clock, for comparisons with heartbeats."""
    return ExpressionWrapper(Now() - timedelta(seconds=seconds), output_field=models.DateTimeField())


def in_seconds(seconds: float) -> ExpressionWrapper[Any]:
    """Return the moment ``seconds`` from now by the database's clock."""
    return ExpressionWrapper(Now() + timedelta(seconds=seconds), output_field=models.DateTimeField())


class WorkerQuerySet(models.QuerySet["Worker"]):
    def running(self) -> WorkerQuerySet:
        """Workers that have not said goodbye; a dead one is among them until it is reaped."""
        return self.exclude(state=WorkerState.STOPPED)

    def silent(self, seconds: float) -> WorkerQuerySet:
        """Running workers whose last heartbeat is older than ``seconds``."""
        return self.running().filter(heartbeat_at__lt=seconds_ago(seconds))

    def taking(self, agent: str, within: float) -> WorkerQuerySet:
        """Workers that host ``agent``, take new sessions, and gave a sign of life ``within`` seconds."""
        fresh = self.filter(state=WorkerState.RUNNING, heartbeat_at__gte=seconds_ago(within))
        return fresh.filter(drain_requested_at__isnull=True, agents__has_key=agent)

    def beat(self, pk: uuid.UUID, **values: Any) -> bool:
        """Record a heartbeat by the database's clock; False if the worker's row is gone or was stopped by others.

        ``values`` are further fields to set with it.
        """
        return bool(self.running().filter(pk=pk).update(heartbeat_at=Now(), **values))


class Worker(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    state = models.CharField(max_length=16, choices=WorkerState.choices, default=WorkerState.RUNNING)
    hostname = models.CharField(max_length=255)
    pid = models.PositiveIntegerField("PID")
    boot_id = models.CharField(max_length=64, blank=True, help_text=_("Identifies one boot of the machine."))
    pid_namespace = models.CharField(max_length=64, blank=True)
    process_started = models.CharField(
        max_length=64,
        blank=True,
        help_text=_("Start time of the process in ticks since boot: with the PID it names one process for certain."),
    )
    runner = models.CharField(max_length=255, blank=True, help_text=_("Dotted path of the runner."))
    version = models.CharField(max_length=64, blank=True)
    capacity = models.PositiveIntegerField(null=True, blank=True, help_text=_("Sum of its limits; empty: unlimited."))
    agents = models.JSONField(
        default=dict,
        db_default=Value({}, models.JSONField()),
        blank=True,
        help_text=_("The agents that it hosts, each with its limit of sessions; null: unlimited."),
    )
    loop_lag = models.JSONField(
        default=dict,
        db_default=Value({}, models.JSONField()),
        blank=True,
        help_text=_("How long its event loop kept things waiting in the minute before the last heartbeat."),
    )
    """`looplag.LagSummary`; empty before the first heartbeat."""
    started_at = models.DateTimeField(db_default=Now())
    heartbeat_at = models.DateTimeField(db_default=Now())
    stopped_at = models.DateTimeField(null=True, blank=True)
    drain_requested_at = models.DateTimeField(
        null=True, blank=True, help_text=_("An operator wants it to take no new sessions; empty: nobody does.")
    )

    sessions: models.Manager[AgentSession]

    leaving = False
    """Not a field: whether its own process has said goodbye for it. A heartbeat that is late must not undo that."""

    objects = WorkerQuerySet.as_manager()

    class Meta:
        ordering = ("-started_at",)
        permissions = (("drain_worker", "Can drain workers"),)
        indexes = (
            models.Index(fields=["state", "heartbeat_at"], name="va_worker_state_heartbeat"),
            models.Index(fields=["boot_id", "state"], name="va_worker_boot_state"),
        )
        constraints = (
            models.CheckConstraint(
                name="va_worker_stopped_has_time",
                condition=Q(state="stopped", stopped_at__isnull=False)
                | (~Q(state="stopped") & Q(stopped_at__isnull=True)),
            ),
        )

    def __str__(self) -> str:
        return f"{self.hostname}:{self.pid}"

    def mark_draining(self) -> bool:
        """Take no new sessions from now on; False if it was stopped already."""
        return self._set_state(WorkerState.DRAINING)

    def mark_running(self) -> bool:
        """Take new sessions again; False if it was stopped already."""
        return self._set_state(WorkerState.RUNNING)

    def request_drain(self) -> bool:
        """Ask its process to take no new sessions, until `withdraw_drain`. False if that is known, or it has stopped.

        Its process sees that within POLL_INTERVAL and marks itself draining.
        """
        unasked = Worker.objects.running().filter(pk=self.pk, drain_requested_at__isnull=True)
        return bool(unasked.update(drain_requested_at=Now()))

    def withdraw_drain(self) -> bool:
        """Let its process take new sessions again; False if nobody had asked it to drain, or it has stopped."""
        asked = Worker.objects.running().filter(pk=self.pk, drain_requested_at__isnull=False)
        return bool(asked.update(drain_requested_at=None))

    def mark_stopped(self, *, silent_for: float | None = None) -> bool:
        """Say goodbye; False if it was stopped already, or, with ``silent_for``, was heard of in so many seconds."""
        them = Worker.objects.running() if silent_for is None else Worker.objects.silent(silent_for)
        return bool(them.filter(pk=self.pk).update(state=WorkerState.STOPPED, stopped_at=Now()))

    def revive(self, *, draining: bool = False) -> None:
        """It was declared dead while it was only slow: it runs on, under its old name and with no sessions."""
        state = WorkerState.DRAINING if draining else WorkerState.RUNNING
        Worker.objects.filter(pk=self.pk).update(state=state, stopped_at=None, heartbeat_at=Now())

    def _set_state(self, state: WorkerState, **values: Any) -> bool:
        return bool(Worker.objects.running().filter(pk=self.pk).update(state=state, **values))
