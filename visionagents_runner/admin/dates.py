"""The dates above the sessions' list, found without reading every row as Django's own hierarchy does."""

from __future__ import annotations

from copy import copy
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from django.utils import timezone

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList
    from django.db.models import QuerySet

Kind = Literal["year", "month", "day"]


class Periods:
    """Stands for a queryset where the ``date_hierarchy`` template tag asks it for dates.

    Django's answer to "which months are there" is a DISTINCT over the whole table. This one looks for the first row,
    goes to the end of its month, looks for the next: a step in the index for each month that there is.
    """

    def __init__(self, queryset: QuerySet[Any], field: str) -> None:
        self._queryset = queryset
        self._field = field

    def aggregate(self, **wanted: Any) -> dict[str, datetime | None]:
        return {"first": self._next(), "last": self._edge(self._queryset, f"-{self._field}")}

    def datetimes(self, field: str, kind: Kind) -> list[datetime]:
        found = []
        moment = self._next()
        while moment is not None:
            start = _start(moment, kind)
            found.append(start)
            moment = self._next(_after(start, kind))
        return found

    def _next(self, since: datetime | None = None) -> datetime | None:
        queryset = self._queryset if since is None else self._queryset.filter(**{f"{self._field}__gte": since})
        return self._edge(queryset, self._field)

    def _edge(self, queryset: QuerySet[Any], ordering: str) -> datetime | None:
        edge: datetime | None = queryset.order_by(ordering).values_list(self._field, flat=True)[:1].first()
        return edge


def with_periods(changelist: ChangeList) -> ChangeList:
    """Return a copy of ``changelist`` for the template tag."""
    other = copy(changelist)
    other.queryset = Periods(changelist.queryset, str(changelist.date_hierarchy))
    return other


def _start(moment: datetime, kind: Kind) -> datetime:
    """The beginning of the year, month or day in the current time zone."""
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    month = 1 if kind == "year" else local.month
    return _like(moment, datetime(local.year, month, local.day if kind == "day" else 1))  # noqa: DTZ001


def _after(start: datetime, kind: Kind) -> datetime:
    if kind == "day":
        following = (start.replace(tzinfo=None) + timedelta(days=1)).date()
    elif kind == "month" and start.month < 12:
        following = start.date().replace(month=start.month + 1)
    else:
        following = start.date().replace(year=start.year + 1, month=1)
    return _like(start, datetime(following.year, following.month, following.day))  # noqa: DTZ001


def _like(moment: datetime, naive: datetime) -> datetime:
    return timezone.make_aware(naive) if timezone.is_aware(moment) else naive
