"""Above the sessions' list: how things stand now, and a tab for each state.

Nothing here reads a table from end to end. Live sessions have a small index of their own; counts of the others stop at
`MOST_COUNTED`; times are of the newest `_JOINS` sessions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from math import ceil

from django.utils.translation import gettext as _

from ..models import AgentSession, SessionStatus, Worker
from ..models.session import ENDED
from ..models.worker import seconds_ago
from ..store.queue_stats import LIMIT, WORKER, queues
from . import display
from .base import silent_worker
from .queued import LONG

MOST_COUNTED = 1000

_DAY = 86400.0
_LONGEST_DAYS = 7
_JOINS = 500
_LIVE_STATES = tuple(status for status in SessionStatus if status not in ENDED)
_FAILED = (SessionStatus.FAILED, SessionStatus.LOST)


@dataclass(frozen=True, slots=True)
class Tile:
    name: str
    label: str
    value: str
    note: str = ""
    query: str = ""
    """Of the list that shows what was counted; "" if none does."""
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Tab:
    label: str
    count: str
    query: str
    chosen: bool
    status: str = ""


def live_states() -> Counter[str]:
    """How many live sessions are in each state, of at most `MOST_COUNTED` + 1."""
    return Counter(AgentSession.objects.live().order_by().values_list("status", flat=True)[: MOST_COUNTED + 1])


def tiles(live: Counter[str]) -> list[Tile]:
    failed = _failed_in_a_day()
    return [
        Tile("live", _("live now"), _capped(live.total()), query="?group=live"),
        _queue(live),
        Tile("starting", _("starting"), _capped(live["starting"]), query="?status__exact=starting"),
        Tile("closing", _("closing"), _capped(live["closing"]), _unreachable(live), query="?status__exact=closing"),
        Tile("failed", _("failed in 24 h"), _capped(failed), query="?status__exact=failed", bad=failed > 0),
        _join_time(),
        _capacity(live),
    ]


def tabs(live: Counter[str], chosen: str | None, *, filtered: bool) -> list[Tab]:
    """A tab for each state that there is, and for the chosen one. Their counts are of everything, filters or not."""
    every = Tab(_("All"), _capped(_count(AgentSession.objects.all())), "?", chosen=chosen is None and not filtered)
    counts = {status.value: live[status] for status in _LIVE_STATES}
    counts |= {status.value: _count(AgentSession.objects.filter(status=status)) for status in ENDED}
    return [
        every,
        *(
            Tab(
                SessionStatus(status).label.capitalize(),
                _capped(count),
                f"?status__exact={status}",
                chosen == status,
                status,
            )
            for status, count in counts.items()
            if count or status == chosen or status in {"active", "closed", "failed"}
        ),
    ]


def _queue(live: Counter[str]) -> Tile:
    label, query = _("queued"), "?status__exact=queued"
    if not live["queued"]:
        return Tile("queued", label, _capped(0), query=query)
    waiting: dict[str, timedelta] = {}
    for (_agent, waits_for), queue in queues().items():
        waiting[waits_for] = max(queue.oldest, waiting.get(waits_for, timedelta()))
    if WORKER in waiting:
        note, long = _("oldest %s") % display.units(waiting[WORKER]), waiting[WORKER] > LONG
    elif LIMIT in waiting:
        note, long = _("held by a limit, %s") % display.units(waiting[LIMIT]), waiting[LIMIT] > LONG
    else:
        note, long = _("none is due"), False
    return Tile("queued", label, _capped(live["queued"]), note, query, bad=long)


def _unreachable(live: Counter[str]) -> str:
    return _("%s unreachable") % live["unreachable"] if live["unreachable"] else ""


def _failed_in_a_day() -> int:
    """Those that failed or were lost in the last 24 hours. The index is by when they were asked for."""
    failed = AgentSession.objects.filter(status__in=_FAILED, ended_at__gte=seconds_ago(_DAY))
    return _count(failed.filter(created_at__gte=seconds_ago(_DAY * (1 + _LONGEST_DAYS))))


def _join_time() -> Tile:
    """From the request to the agent on the call."""
    recent = AgentSession.objects.filter(created_at__gte=seconds_ago(_DAY), joined_at__isnull=False)
    times = recent.order_by("-created_at", "-id").values_list("created_at", "joined_at")[:_JOINS]
    taken = sorted(joined - created for created, joined in times if joined is not None)
    if not taken:
        return Tile("join", _("join time p95"), display.NOTHING, _("none joined in 24 h"))
    slow = taken[ceil(0.95 * len(taken)) - 1]
    middle = taken[ceil(0.5 * len(taken)) - 1]
    return Tile(
        "join",
        _("join time p95"),
        display.duration(slow, precise=True),
        _("p50 %s") % display.duration(middle, precise=True),
    )


def _capacity(live: Counter[str]) -> Tile:
    capacities = list(Worker.objects.running().exclude(silent_worker()).values_list("capacity", flat=True))
    used = live.total() - live["queued"]
    label = _("capacity used")
    if not capacities:
        return Tile("capacity", label, display.NOTHING, _("no worker runs"), bad=True)
    limits = [capacity for capacity in capacities if capacity is not None]
    if len(limits) < len(capacities):
        return Tile("capacity", label, _capped(used), _("no limit"))
    most = sum(limits)
    share = round(100 * used / most) if most else 100
    return Tile(
        "capacity",
        label,
        _("%d %%") % share,
        _("%(used)s of %(most)s") % {"used": _capped(used), "most": display.number(most)},
        bad=share >= 90,
    )


def _count(queryset: object) -> int:
    # `status` stands in the index, so the rows themselves are not read.
    found = queryset.order_by().values("status")[: MOST_COUNTED + 1]  # type: ignore[attr-defined]
    return int(found.count())


def _capped(count: int) -> str:
    return f"{display.number(MOST_COUNTED)}+" if count > MOST_COUNTED else display.number(count)
