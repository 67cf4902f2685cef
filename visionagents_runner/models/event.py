"""`SessionEvent`: one line of a session's history."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from .session import AgentSession


class SessionEvent(models.Model):
    """``seq`` counts from 1 without gaps within a session; ``data`` is JSON whose keys depend on ``kind``."""

    session = models.ForeignKey(AgentSession, on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveIntegerField()
    kind = models.CharField(max_length=64)
    at = models.DateTimeField(db_default=Now())
    data = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ("session_id", "seq")
        constraints = (models.UniqueConstraint(fields=["session", "seq"], name="va_event_session_seq"),)
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.seq} {self.kind}"
