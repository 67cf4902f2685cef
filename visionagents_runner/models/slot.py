"""`Slot`: the row that two starts under one limit must take, one after the other."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import timedelta

from django.db import models
from django.db.models import F
from django.db.models.functions import Now

from .fields import ExactCharField
from .worker import seconds_ago

_BATCH = 500


class SlotQuerySet(models.QuerySet["Slot"]):
    def take(self, slots: Iterable[tuple[str, str]]) -> None:
        """Lock each ``(scope, key)`` until the transaction ends, creating rows that are missing.

        The lock is an UPDATE, not ``select_for_update``, which SQLite ignores. They are taken in one order everywhere,
        so that two transactions cannot wait for each other. Call it first in the transaction: only then is the count
        that follows as fresh as the lock under every isolation level.
        """
        for scope, key in sorted(set(slots)):
            if not self._touch(scope, key):
                self.bulk_create([Slot(scope=scope, key=key)], ignore_conflicts=True)
                self._touch(scope, key)

    def forget_old(self, age: timedelta) -> None:
        """Delete those of calls and users that nobody has taken for so long."""
        self.filter(taken_at__lt=seconds_ago(age.total_seconds()), scope__in=("call", "user"))._remove()

    def forget_worker(self, worker_id: uuid.UUID) -> None:
        """Delete those of a worker that is gone."""
        self.filter(scope="worker", key__startswith=f"{worker_id}:")._remove()

    def _remove(self) -> None:
        # A DELETE that looks for its rows locks those that it passes, on MariaDB and MySQL, in another order than who
        # takes one: so they are found first, and deleted by their keys.
        keys = list(self.values_list("pk", flat=True))
        for start in range(0, len(keys), _BATCH):
            self.filter(pk__in=keys[start : start + _BATCH]).delete()

    def _touch(self, scope: str, key: str) -> int:
        return self.filter(scope=scope, key=key).update(taken=F("taken") + 1, taken_at=Now())


class Slot(models.Model):
    """Serialises admissions under one limit; it counts nothing that matters, the sessions themselves are counted."""

    scope = models.CharField(max_length=32)
    key = ExactCharField(max_length=160)
    taken = models.PositiveBigIntegerField(default=0)
    taken_at = models.DateTimeField(db_default=Now())

    objects = SlotQuerySet.as_manager()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["scope", "key"], name="va_slot_unique"),)
        indexes = (models.Index(fields=["taken_at"], name="va_slot_taken_at"),)
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.scope} {self.key}"
