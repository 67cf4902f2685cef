"""`Chore`: what one of all workers does for all of them, once in a while, and what it leaves for the others."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import BooleanField, Case, Value, When
from django.db.models.functions import Now

from .worker import in_seconds


class ChoreQuerySet(models.QuerySet["Chore"]):
    def take(self, name: str, every: float) -> bool:
        """Whether the caller is to do it now: one is, of all that ask within ``every`` seconds after it.

        Nothing is held: who takes it and dies leaves it to the one who asks first after those seconds.
        """
        # Most ask too early, and a look is cheaper than an UPDATE that changes nothing.
        is_due = self.filter(name=name).values_list(_is(due_at__lte=Now())).first()
        if is_due is None:
            return self.get_or_create(name=name, defaults={"due_at": in_seconds(every)})[1]
        return is_due[0] and bool(self.filter(name=name, due_at__lte=Now()).update(due_at=in_seconds(every)))

    def keep(self, name: str, value: Any, *, next_in: float, valid: float) -> None:
        """Leave ``value`` for the others, who may use it for ``valid`` seconds; the next one is in ``next_in``."""
        self.filter(name=name).update(value=value, due_at=in_seconds(next_in), valid_until=in_seconds(valid))

    def kept(self, name: str) -> Any:
        """Return what was left; None if nothing was, or too long ago."""
        return self.filter(name=name, valid_until__gt=Now()).values_list("value", flat=True).first()


class Chore(models.Model):
    name = models.CharField(max_length=32, primary_key=True)
    due_at = models.DateTimeField()
    value = models.JSONField(null=True, blank=True)
    valid_until = models.DateTimeField(null=True, blank=True)

    objects = ChoreQuerySet.as_manager()

    class Meta:
        db_table = "visionagents_runner_turn"  # its first name, by which older versions go on to find it
        default_permissions = ()

    def __str__(self) -> str:
        return self.name


def _is(**condition: Any) -> Case:
    return Case(When(**condition, then=Value(True)), default=Value(False), output_field=BooleanField())
