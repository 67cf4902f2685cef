"""The workers' admin: which processes host sessions, and which of them have gone silent."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import BooleanField, Case, Count, IntegerField, OuterRef, QuerySet, Subquery, Value, When
from django.db.models.functions import Coalesce, Now
from django.http import Http404
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..conf.settings import get_settings
from ..models import AgentSession, Worker, WorkerState
from . import display, live
from .audit import log_of
from .base import silent_worker
from .draining import DrainingAdmin
from .queued import free_places

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

MOST_SESSIONS = 200


@admin.register(Worker)
class WorkerAdmin(DrainingAdmin):
    live_page_template = "admin/visionagents_runner/worker/page_live.html"
    list_display = ("state_mark", "host", "heartbeat", "live_sessions", "loop_lag_shown", "age")
    list_display_links = ("host",)
    list_filter = ("state",)
    search_fields = ("hostname",)
    search_help_text = gettext_lazy("Part of a host's name.")
    ordering = ("-started_at",)
    fieldsets = (
        (gettext_lazy("Process"), {"fields": ("host", "worker_id", "boot_id", "pid_namespace", "process_started")}),
        (gettext_lazy("Software"), {"fields": ("runner", "version")}),
        (gettext_lazy("When"), {"fields": ("started", "stopped")}),
    )
    readonly_fields = (
        "host",
        "worker_id",
        "started",
        "stopped",
    )

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(request, {"title": _("Workers"), **(extra_context or {})})

    def get_queryset(self, request: HttpRequest) -> QuerySet[Worker]:
        # Live sessions have an index of their own; a join would group the whole history.
        live = AgentSession.objects.live().filter(worker=OuterRef("pk")).order_by().values("worker")
        return (
            super()
            .get_queryset(request)
            .annotate(
                db_now=Now(),
                silent=Case(When(silent_worker(), then=Value(True)), default=Value(False), output_field=BooleanField()),
                live_count=Coalesce(
                    Subquery(live.annotate(count=Count("pk")).values("count"), output_field=IntegerField()), 0
                ),
            )
        )

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if live.shown_until(request) is None:
            return super().change_view(request, object_id, form_url, extra_context)
        worker = self.get_object(request, unquote(object_id))
        if not self.has_view_permission(request, worker):
            raise PermissionDenied
        if worker is None:
            raise Http404
        return live.fragments(request, self.live_page_template, self._page_of(request, worker))

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Worker | None = None,
    ) -> HttpResponse:
        if obj is not None:
            context |= {"title": str(obj), "subtitle": None, **self._page_of(request, obj)}
        return super().render_change_form(request, context, add, change, form_url, obj)

    def _page_of(self, request: HttpRequest, worker: Worker) -> dict[str, Any]:
        return {
            "original": worker,
            "opts": self.opts,
            "state": self.state_mark(worker),
            "requests": self.requests_for(request, worker),
            "tiles": self._tiles(worker),
            "drain_note": _drain_note(worker),
            "watch_seconds": live.LIST_SECONDS,
            "is_live": worker.state != WorkerState.STOPPED,
            "audit": log_of(worker),
            **self._agents_of(request, worker),
            **(self._sessions_of(worker) if self.can_see(request, AgentSession) else {}),
        }

    def _tiles(self, worker: Worker) -> list[dict[str, Any]]:
        stopped = worker.state == WorkerState.STOPPED
        count: int = worker.live_count  # type: ignore[attr-defined]
        full = worker.capacity is not None and count >= worker.capacity
        limit = _("no limit") if worker.capacity is None else _("of %d") % worker.capacity
        until = worker.stopped_at or _now(worker)
        lag = {} if stopped else worker.loop_lag
        bad_lag = bool(lag.get("overloaded"))
        note = _("p50 %(p50).0f ms, longest %(max).0f ms") % {"p50": lag["p50_ms"], "max": lag["max_ms"]} if lag else ""
        return [
            {
                "name": "heartbeat",
                "label": _("heartbeat"),
                "value": _("%s ago") % display.units(_now(worker) - worker.heartbeat_at),
                "note": _("silent from %g s on") % get_settings().WORKER_TTL if not stopped else "",
                "bad": _is_silent(worker),
            },
            {"name": "sessions", "label": _("live sessions"), "value": str(count), "note": limit, "bad": full},
            {
                "name": "lag",
                "label": _("loop lag p99"),
                "value": _("%.0f ms") % lag["p99_ms"] if lag else display.NOTHING,
                "note": _("overloaded: no new sessions") if bad_lag else note,
                "bad": bad_lag,
            },
            {
                "name": "age",
                "label": _("ran") if stopped else _("runs for"),
                "value": display.duration(until - worker.started_at),
                "note": "",
            },
        ]

    def _agents_of(self, request: HttpRequest, worker: Worker) -> dict[str, Any]:
        """The agents that it hosts, each with its limit and the places that are free."""
        runs, free = free_places(worker)
        note = _takes_none(worker)
        listed = reverse("admin:visionagents_runner_agentsession_changelist")
        shown = self.can_see(request, AgentSession)
        return {
            "agents_note": note,
            "agents": [
                {
                    "name": name,
                    "url": f"{listed}?{urlencode({'worker': str(worker.pk), 'agent': name})}" if shown else "",
                    "limit": _("none") if worker.agents[name] is None else display.number(worker.agents[name]),
                    "runs": display.number(runs.get(name, 0)),
                    "free": display.NOTHING if note else _("no limit") if places is None else display.number(places),
                    "full": places == 0,
                }
                for name, places in sorted(free.items())
            ],
        }

    def _sessions_of(self, worker: Worker) -> dict[str, Any]:
        live = AgentSession.objects.live().filter(worker=worker).select_related("started_by")
        live = live.defer("error", "metadata", "metrics").order_by("created_at", "pk")
        return {
            "show_sessions": True,
            "all_sessions_url": f"{reverse('admin:visionagents_runner_agentsession_changelist')}?worker={worker.pk}",
            "sessions": [
                {
                    "url": reverse("admin:visionagents_runner_agentsession_change", args=[session.pk]),
                    "state": display.session_state(session),
                    "call": display.call(session),
                    "agent": session.agent,
                    "started_by": display.starter(session),
                    "age": display.age(session.created_at, _now(worker)),
                }
                for session in live[:MOST_SESSIONS]
            ],
        }

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_mark(self, worker: Worker) -> SafeString:
        mark = display.state(f"worker-{worker.state}", worker.get_state_display())
        if not _is_silent(worker):
            return mark
        title = _("No heartbeat for more than %(seconds)g s (WORKER_TTL)") % {"seconds": get_settings().WORKER_TTL}
        return format_html("{} {}", mark, display.badge(_("stale"), title))

    @admin.display(description=gettext_lazy("host and PID"), ordering="hostname")
    def host(self, worker: Worker) -> SafeString:
        return display.worker_name(worker)

    @admin.display(description=gettext_lazy("heartbeat"), ordering="heartbeat_at")
    def heartbeat(self, worker: Worker) -> SafeString:
        return display.ago(worker.heartbeat_at, _now(worker))

    @admin.display(description=gettext_lazy("live sessions"), ordering="live_count")
    def live_sessions(self, worker: Worker) -> str:
        count: int = worker.live_count  # type: ignore[attr-defined]
        if worker.capacity is None:
            return str(count)
        return _("%(count)d of %(capacity)d") % {"count": count, "capacity": worker.capacity}

    @admin.display(description=gettext_lazy("loop lag"))
    def loop_lag_shown(self, worker: Worker) -> SafeString:
        """How long the event loop, which carries the audio, kept things waiting in the minute before the heartbeat."""
        lag = worker.loop_lag
        if not lag or worker.state == WorkerState.STOPPED:
            return SafeString(display.NOTHING)
        text = _("%(p99).0f ms") % {"p99": lag["p99_ms"]}
        shown = display.with_note(text, _("longest %(max).0f ms") % {"max": lag["max_ms"]})
        if not lag["overloaded"]:
            return shown
        title = _("It takes no new sessions until its event loop keeps up (LOOP_LAG_LIMIT)")
        return format_html("{} {}", shown, display.badge(_("overloaded"), title))

    @admin.display(description=gettext_lazy("age"), ordering="started_at")
    def age(self, worker: Worker) -> SafeString:
        age = display.age(worker.started_at, _now(worker))
        if worker.stopped_at is None:
            return age
        since = display.units(_now(worker) - worker.stopped_at)
        return display.with_note(age, _("stopped %(duration)s ago") % {"duration": since})

    @admin.display(description=gettext_lazy("worker id"))
    def worker_id(self, worker: Worker) -> SafeString:
        return display.code(str(worker.pk))

    @admin.display(description=gettext_lazy("started"), ordering="started_at")
    def started(self, worker: Worker) -> SafeString:
        return display.moment(worker.started_at)

    @admin.display(description=gettext_lazy("stopped"), ordering="stopped_at")
    def stopped(self, worker: Worker) -> SafeString:
        return display.moment(worker.stopped_at)


def _drain_note(worker: Worker) -> str:
    """What became of the request to drain, if there is one."""
    if worker.drain_requested_at is None or worker.state == WorkerState.STOPPED:
        return ""
    asked = _("Asked to drain %s ago.") % display.units(_now(worker) - worker.drain_requested_at)
    if worker.state != WorkerState.DRAINING:
        return f"{asked} {_('The worker has not seen that yet.')}"
    count: int = worker.live_count  # type: ignore[attr-defined]
    if count:
        return f"{asked} {_('It takes no new sessions; those below go on until they end.')}"
    return f"{asked} {_('It runs no session: the process can be stopped.')}"


def _takes_none(worker: Worker) -> str:
    """Why the worker takes no new sessions, whatever its limits; "" if it does."""
    if worker.state == WorkerState.STOPPED:
        return _("It has stopped.")
    if _is_silent(worker):
        return _("It is silent: nobody knows whether it takes new sessions.")
    if worker.state == WorkerState.DRAINING or worker.drain_requested_at is not None:
        return _("It drains: it takes no new sessions.")
    return _("It is overloaded: it takes no new sessions until that is over.") if _overloaded(worker) else ""


def _overloaded(worker: Worker) -> bool:
    return bool(worker.loop_lag.get("overloaded"))


def _is_silent(worker: Worker) -> bool:
    return worker.state != WorkerState.STOPPED and bool(getattr(worker, "silent", False))


def _now(worker: Worker) -> datetime:
    now: datetime = worker.db_now  # type: ignore[attr-defined]
    return now
