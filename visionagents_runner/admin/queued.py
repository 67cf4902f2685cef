"""What the page of a session says of the queue: what it waits for, and which session goes on for which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import BooleanField, Case, Count, Q, Value, When
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ..models import AgentSession, SessionEvent, SessionStatus, Worker, WorkerState
from ..store.queue_stats import with_waits
from . import display
from .base import silent_worker
from .filters import parse_uuid

LONG = timedelta(minutes=1)
"""Whoever waits longer for a worker waits in vain, as it seems; the alert rules think so too."""
_MOST_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class Notice:
    title: SafeString | str
    lines: list[SafeString | str] = field(default_factory=list)
    bad: bool = False


def notices(session: AgentSession, now: datetime) -> list[Notice]:
    found = []
    if session.status == SessionStatus.QUEUED:
        found.append(_waits(session, now))
    if session.restart_of_id is not None and (lost := _sibling(pk=session.restart_of_id)) is not None:
        found.append(Notice(_("Goes on for a session whose worker was lost"), [_named(lost)]))
    if session.status == SessionStatus.LOST and (successor := _sibling(restart_of=session.pk)) is not None:
        found.append(Notice(_("Its worker was lost: another session goes on for it"), [_named(successor)]))
    return found


def in_short(session: AgentSession, now: datetime) -> str:
    """What a queued session waits for, in the room of a column and without a query."""
    if session.attempts:
        return _("held by a limit")
    if session.due_at is not None and session.due_at > now:
        return _("starts in %s") % display.units(session.due_at - now)
    return _("waits for a worker")


def link_to(key: Any) -> SafeString:
    """A link to the page of the session with that id, as its history has it."""
    url = reverse("admin:visionagents_runner_agentsession_change", args=[key])
    return format_html('<a href="{}" class="va-code">{}</a>', url, key)


def names_of(events: Iterable[SessionEvent], known: Worker | None) -> dict[str, str]:
    """Return the names, by id, of the workers of which these events tell. ``known`` takes no query."""
    claims = (event.data for event in events if event.kind == "claimed" and isinstance(event.data, dict))
    told = [key for data in claims if (key := parse_uuid(str(data.get("worker")))) is not None]
    names = {} if known is None else {str(known.pk): str(known)}
    if others := [key for key in told if str(key) not in names]:
        names |= {str(worker.pk): str(worker) for worker in Worker.objects.filter(pk__in=others)}
    return names


def free_places(worker: Worker) -> tuple[dict[str, int], dict[str, int | None]]:
    """Return, by agent, how many sessions a worker runs and how many more it has room for; None for no limit."""
    there = AgentSession.objects.occupying().filter(worker=worker).order_by()
    runs = dict(there.values_list("agent").annotate(Count("pk")))
    hosts: Mapping[str, int | None] = worker.agents if isinstance(worker.agents, dict) else {}
    free = {name: None if limit is None else max(0, limit - runs.get(name, 0)) for name, limit in hosts.items()}
    return runs, free


def _sibling(**which: Any) -> AgentSession | None:
    return AgentSession.objects.filter(**which).defer("error", "metadata", "metrics").first()


def _named(session: AgentSession) -> SafeString:
    return format_html("{} {}", link_to(session.pk), display.session_state(session))


def _waits(session: AgentSession, now: datetime) -> Notice:
    since: datetime | None = (
        with_waits(AgentSession.objects.filter(pk=session.pk)).values_list("waits_since", flat=True).first()
    )
    waited = now - since if since is not None and since < now else timedelta()
    rest = [_order(session, now), _until(session, now)]
    if session.attempts:
        title = _("Held by a limit for %s") % display.duration(waited)
        return Notice(title, [*_limit(session, now), *rest], bad=waited > LONG)
    due_at = session.due_at
    if due_at is not None and due_at > now:
        title = _("Starts in %s") % display.duration(due_at - now)
        return Notice(title, [format_html(_("Due {}."), display.moment(due_at)), *rest])
    who, hopeless = _who_could(session.agent)
    title = _("Waits for a worker, %s so far") % display.duration(waited)
    return Notice(title, [who, *rest], bad=hopeless or waited > LONG)


def _limit(session: AgentSession, now: datetime) -> list[str]:
    first = SessionEvent.objects.filter(session=session, kind="postponed").order_by("seq").first()
    reason = str(first.data.get("reason", "")) if first is not None and isinstance(first.data, dict) else ""
    tries = ngettext("Tried %d time.", "Tried %d times.", session.attempts) % session.attempts
    if session.due_at is not None and session.due_at > now:
        tries = f"{tries} {_('The next try is in %s.') % display.duration(session.due_at - now)}"
    return [f"{reason.rstrip('.')}." if reason else _("A limit over all workers is reached."), tries]


def _who_could(agent: str) -> tuple[str, bool]:
    """Return which workers could take a session of that agent, and whether there is no hope that one does."""
    silent = Case(When(silent_worker(), then=Value(True)), default=Value(False), output_field=BooleanField())
    hosts = Worker.objects.running().filter(agents__has_key=agent).annotate(is_silent=silent)
    heard = [worker for worker in hosts if not getattr(worker, "is_silent", False)]
    if not heard:
        return _("No worker that hosts the agent “%s” is running: start one.") % agent, True
    taking = [
        worker
        for worker in heard
        if worker.state == WorkerState.RUNNING
        and worker.drain_requested_at is None
        and not worker.loop_lag.get("overloaded")
    ]
    if not taking:
        text = ngettext(
            "%d worker hosts its agent, and drains or is overloaded.",
            "%d workers host its agent, and all of them drain or are overloaded.",
            len(heard),
        )
        return text % len(heard), True
    limits = {worker.pk: worker.agents[agent] for worker in taking}
    if None in limits.values():
        return _("A worker without a limit hosts its agent and takes sessions: it should be taken at once."), False
    there = AgentSession.objects.occupying().filter(worker__in=list(limits), agent=agent).order_by()
    runs = dict(there.values_list("worker").annotate(Count("pk")))
    free = sum(max(0, limit - runs.get(key, 0)) for key, limit in limits.items())
    numbers = {"free": display.number(free), "most": display.number(sum(limits.values()))}
    if not free:
        return _("No worker has room: all %(most)s places for its agent are taken.") % numbers, False
    return _("Of %(most)s places for its agent %(free)s are free: it should be taken at once.") % numbers, False


def _order(session: AgentSession, now: datetime) -> str:
    """Its priority and, if it is due, how many of its agent go before it."""
    priority = _("Priority %d.") % session.priority
    if session.due_at is None or session.due_at > now:
        return priority
    first = Q(priority__gt=session.priority) | Q(priority=session.priority, due_at__lt=session.due_at)
    due = AgentSession.objects.due().filter(first, agent=session.agent).exclude(pk=session.pk).order_by()
    count = due.values("pk")[:_MOST_COUNTED].count()
    shown = f"{display.number(count)}{'+' if count == _MOST_COUNTED else ''}"
    before = ngettext("%s session of its agent goes before it.", "%s sessions of its agent go before it.", count)
    return f"{priority} {before % shown if count else _('None of its agent that is due goes before it.')}"


def _until(session: AgentSession, now: datetime) -> SafeString | str:
    if session.expires_at is None:
        return _("It waits until somebody closes it.")
    if session.expires_at <= now:
        return _("Its time is over: the next worker that looks ends it.")
    left = _("in %s") % display.duration(session.expires_at - now)
    return format_html(_("If no worker takes it until {}, it ends."), display.moment(session.expires_at, extra=left))
