"""`WebhookDelivery`: one message to one endpoint: that a session has ended."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from ..conf.webhooks import MAX_NAME_LENGTH, endpoints
from ..utils.credentials import without_credentials
from ..utils.text import visible
from .fields import ExactCharField
from .session import AgentSession

CLAIM_SECONDS = 60
"""How long an attempt is its sender's alone. Far above what one may take: only a sender that died is overtaken."""

MAX_ERROR_LENGTH = 500


class DeliveryState(models.TextChoices):
    PENDING = "pending", _("pending")
    DELIVERED = "delivered", _("delivered")
    FAILED = "failed", _("failed")


class WebhookDeliveryQuerySet(models.QuerySet["WebhookDelivery"]):
    def enqueue(self, session_id: uuid.UUID) -> None:
        """Have every endpoint told that this session has ended. Call it in the transaction that ends it."""
        told = [self.model(session_id=session_id, endpoint=endpoint.name) for endpoint in endpoints()]
        if told:
            self.bulk_create(told)

    def pending(self) -> WebhookDeliveryQuerySet:
        return self.filter(state=DeliveryState.PENDING)

    def unclaimed(self) -> WebhookDeliveryQuerySet:
        """Those that nobody is sending."""
        return self.filter(Q(claimed_until__isnull=True) | Q(claimed_until__lt=Now()))

    def due(self, names: Collection[str]) -> WebhookDeliveryQuerySet:
        """Those for these endpoints that are to be sent now, and that nobody is sending."""
        return self.pending().unclaimed().filter(endpoint__in=names, next_attempt_at__lte=Now())

    def claim(self, room: Mapping[str, int]) -> list[WebhookDelivery]:
        """Take at most so many of those that are due for each endpoint, the longest due first.

        Each is taken by an UPDATE under the conditions of `due` again: of two that want one, exactly one gets it.
        """
        taken: dict[uuid.UUID, uuid.UUID] = {}
        for name, most in room.items():
            due = self.due([name])
            # More than are wanted, because others may take some at the same time.
            keys = due.order_by("next_attempt_at", "pk").values_list("pk", flat=True)[: 4 * most]
            mine: dict[uuid.UUID, uuid.UUID] = {}
            for key in keys:
                claim = uuid.uuid4()
                until = Now() + timedelta(seconds=CLAIM_SECONDS)
                if due.filter(pk=key).update(claim=claim, claimed_until=until, attempts=F("attempts") + 1):
                    mine[key] = claim
                if len(mine) == most:
                    break
            taken |= mine
        return list(self.filter(pk__in=taken.keys(), claim__in=taken.values())) if taken else []

    def replay(self) -> int:
        """Send these again from the start, with the same id, but for those that are being sent now."""
        return self.unclaimed().update(
            state=DeliveryState.PENDING,
            attempts=0,
            next_attempt_at=Now(),
            delivered_at=None,
            claim=None,
            claimed_until=None,
        )


class WebhookDelivery(models.Model):
    """Its end states are ``delivered`` and ``failed`` (given up). Who `claim`s one makes one attempt, and then calls
    one of the ``mark`` methods; they do nothing once another has taken it, or it was replayed."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    session = models.ForeignKey(AgentSession, on_delete=models.CASCADE, related_name="webhook_deliveries")
    endpoint = ExactCharField(max_length=MAX_NAME_LENGTH, help_text=_("Its name in the setting WEBHOOKS."))
    state = models.CharField(max_length=16, choices=DeliveryState.choices, default=DeliveryState.PENDING)
    attempts = models.PositiveIntegerField(default=0, help_text=_("Those under way included, since the last replay."))
    next_attempt_at = models.DateTimeField(null=True, blank=True, db_default=Now())
    last_status = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text=_("HTTP status of the last answer; empty if there was none.")
    )
    last_error = models.CharField(max_length=MAX_ERROR_LENGTH, blank=True)
    claim = models.UUIDField(null=True, blank=True, editable=False)
    claimed_until = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(db_default=Now())
    delivered_at = models.DateTimeField(null=True, blank=True)

    objects = WebhookDeliveryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = _("webhook deliveries")
        ordering = ("-created_at", "-id")
        default_permissions = ("view",)
        permissions = (("replay_webhookdelivery", "Can send webhooks again"),)
        indexes = (
            models.Index(
                fields=["endpoint", "next_attempt_at"], condition=Q(state="pending"), name="va_delivery_pending"
            ),
            models.Index(fields=["-created_at", "-id"], name="va_delivery_created"),
            models.Index(fields=["state", "-created_at"], name="va_delivery_state"),
        )
        constraints = (
            models.UniqueConstraint(fields=["session", "endpoint"], name="va_delivery_once"),
            models.CheckConstraint(
                name="va_delivery_known_state",
                condition=Q(state="pending", next_attempt_at__isnull=False, delivered_at__isnull=True)
                | Q(state="delivered", next_attempt_at__isnull=True, delivered_at__isnull=False)
                | Q(state="failed", next_attempt_at__isnull=True, delivered_at__isnull=True),
            ),
        )

    def __str__(self) -> str:
        return f"{self.endpoint} {self.message_id}"

    @property
    def message_id(self) -> str:
        """What receivers know it by: the same at every attempt and replay, so that they can leave out doubles."""
        return f"msg_{self.pk.hex}"

    def mark_delivered(self, status: int) -> bool:
        return self._settle(
            state=DeliveryState.DELIVERED,
            last_status=status,
            last_error="",
            next_attempt_at=None,
            delivered_at=Now(),
        )

    def mark_failed(self, *, status: int | None, error: str, seconds: float | None) -> bool:
        """The attempt failed: the next is in so many ``seconds``, or never, if None."""
        given_up = seconds is None
        return self._settle(
            state=DeliveryState.FAILED if given_up else DeliveryState.PENDING,
            last_status=status,
            last_error=_storable(error),
            next_attempt_at=None if seconds is None else Now() + timedelta(seconds=seconds),
        )

    def release(self) -> bool:
        """The attempt was broken off: whoever comes next makes it anew."""
        return self._settle()

    def _settle(self, **values: Any) -> bool:
        mine = WebhookDelivery.objects.filter(pk=self.pk, claim=self.claim)
        return bool(mine.update(claim=None, claimed_until=None, **values))


def _storable(text: str) -> str:
    return visible(without_credentials(text[: 4 * MAX_ERROR_LENGTH]))[:MAX_ERROR_LENGTH]
