"""The sessions' admin: what ran, runs or waits, who asked for it, and how it ended."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import BooleanField, Case, OuterRef, Subquery, Value, When
from django.db.models.functions import Now
from django.http import Http404
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..models import AgentSession, SessionEvent, SessionStatus, Worker
from . import display, live, overview
from .base import silent_worker
from .closing import ClosingAdmin
from .dates import with_periods
from .filters import AgentFilter, GroupFilter, StateFilter, WorkerFilter, search
from .queued import in_short
from .session_page import Story

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

    from ..models.session import AgentSessionQuerySet


class SessionList(ChangeList):
    with_periods = with_periods

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> AgentSessionQuerySet:
        queryset: AgentSessionQuerySet = super().get_queryset(request, *args, **kwargs)  # type: ignore[assignment]
        last = SessionEvent.objects.filter(session=OuterRef("pk"), seq=OuterRef("event_seq"))
        # Tracebacks and JSON are long, and the list shows none of them.
        return queryset.defer("error", "metadata", "metrics").annotate(
            has_error=Case(When(error="", then=Value(False)), default=Value(True), output_field=BooleanField()),
            last_at=Subquery(last.values("at")[:1]),
            last_kind=Subquery(last.values("kind")[:1]),
        )


@admin.register(AgentSession)
class AgentSessionAdmin(ClosingAdmin):
    live_list_template = "admin/visionagents_runner/agentsession/list_live.html"
    live_page_template = "admin/visionagents_runner/agentsession/page_live.html"
    list_display = ("state", "call", "agent", "who", "where", "age", "reason_mark")
    list_display_links = ("call",)
    list_filter = (
        GroupFilter,
        ("status", StateFilter),
        "end_reason",
        AgentFilter,
        WorkerFilter,
        ("created_at", admin.DateFieldListFilter),
    )
    list_select_related = ("worker", "started_by")
    search_fields = ("call_id", "call_type", "id")
    search_help_text = gettext_lazy("Part of a call's id or type, call_type/call_id, or the whole id of a session.")
    date_hierarchy = "created_at"
    ordering = ("-created_at", "-id")
    readonly_fields = (
        "call_id_full",
        "call_type_full",
        "agent_name",
        "agent_instance",
        "session_id",
        "who",
        "where_page",
        "created",
        "started",
        "joined",
        "close_requested",
        "ended",
        "duration",
        "reason",
        "restart",
        "due",
        "expires",
    )

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {"title": _("Agent sessions"), "watch_seconds": live.LIST_SECONDS, **(extra_context or {})}
        response = super().changelist_view(request, context)
        if not isinstance(response, TemplateResponse) or response.context_data is None:
            return response  # a redirect: parameters that mean nothing
        shown = response.context_data.get("cl")
        if shown is None:
            return response  # the confirmation page of an action
        states = overview.live_states()
        status = request.GET.get("status__exact")
        response.context_data |= {
            "tiles": overview.tiles(states),
            "tabs": overview.tabs(states, status, filtered=bool(shown.query or shown.has_active_filters)),
        }
        if live.shown_until(request) is not None:
            return live.fragments(request, self.live_list_template, response.context_data)
        return response

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        after = live.shown_until(request)
        if after is None:
            return super().change_view(request, object_id, form_url, extra_context)
        session = self.get_object(request, unquote(object_id))
        if not self.has_view_permission(request, session):
            raise PermissionDenied
        if session is None:
            raise Http404
        return live.fragments(request, self.live_page_template, self._page_of(request, session, after))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[SessionList]:
        return SessionList

    def get_queryset(self, request: HttpRequest) -> AgentSessionQuerySet:
        queryset: AgentSessionQuerySet = super().get_queryset(request)  # type: ignore[assignment]
        return queryset.select_related("worker", "started_by").annotate(
            db_now=Now(),
            worker_silent=Case(
                When(silent_worker("worker__"), then=Value(True)), default=Value(False), output_field=BooleanField()
            ),
        )

    def get_search_results(
        self,
        request: HttpRequest,
        queryset: AgentSessionQuerySet,  # type: ignore[override]
        search_term: str,
    ) -> tuple[AgentSessionQuerySet, bool]:
        return search(queryset, search_term), False

    def get_fieldsets(self, request: HttpRequest, obj: AgentSession | None = None) -> Any:
        sections: list[tuple[Any, dict[str, Any]]] = [
            (
                gettext_lazy("What"),
                {"fields": ("call_id_full", "call_type_full", "agent_name", "agent_instance", "session_id")},
            ),
            (gettext_lazy("Who and where"), {"fields": ("who", "where_page")}),
            (
                gettext_lazy("When"),
                {"fields": ("created", "started", "joined", "close_requested", "ended", "duration")},
            ),
        ]
        if obj is not None and obj.restartable and obj.is_live:
            sections[1][1]["fields"] = (*sections[1][1]["fields"], "restart")
        if obj is not None and not obj.is_live:
            sections[-1][1]["fields"] = (*sections[-1][1]["fields"], "reason")
        if obj is not None and obj.due_at is not None:
            sections.append((gettext_lazy("Queue"), {"fields": ("due", "expires", "priority", "attempts")}))
        return sections

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: AgentSession | None = None,
    ) -> HttpResponse:
        if obj is not None:
            context |= {"title": str(obj), "subtitle": None, **self._page_of(request, obj)}
        return super().render_change_form(request, context, add, change, form_url, obj)

    def _page_of(self, request: HttpRequest, session: AgentSession, after: int | None = None) -> dict[str, Any]:
        if session.worker is not None and self.can_see(request, Worker):
            session.worker_url = reverse("admin:visionagents_runner_worker_change", args=[session.worker.pk])  # type: ignore[attr-defined]
        story = Story(
            session,
            _now(session),
            words=request.user.has_perm("visionagents_runner.view_transcript"),
            numbers=request.user.has_perm("visionagents_runner.view_metrics"),
            errors=request.user.has_perm("visionagents_runner.view_error"),
        )
        return {
            "original": session,
            "opts": self.opts,
            "state": display.session_state(session),
            "call": display.call(session, short=True),
            "starter": display.starter(session),
            "as_of": display.clock(_now(session)),
            "closings": self.closings_for(request, session),
            "watch_seconds": live.PAGE_SECONDS,
            "worker_shown": self.where_page(session),
            "worker_facts": self._worker_facts(session),
            "metadata": display.json_block(session.metadata) if session.metadata else "",
            **story.context(after),
        }

    def _worker_facts(self, session: AgentSession) -> list[str]:
        """How the process does that runs it; nothing once the session has ended."""
        worker = session.worker
        if worker is None or not session.is_live:
            return []
        facts = [_("heartbeat %s ago") % display.units(_now(session) - worker.heartbeat_at)]
        if worker.loop_lag:
            facts.append(_("loop lag p99 %(p99).0f ms") % {"p99": worker.loop_lag.get("p99_ms", 0)})
            if worker.loop_lag.get("overloaded"):
                facts.append(_("overloaded"))
        return facts

    # Columns

    @admin.display(description=gettext_lazy("state"), ordering="status")
    def state(self, session: AgentSession) -> SafeString:
        return display.session_state(session)

    @admin.display(description=gettext_lazy("call"), ordering="call_id")
    def call(self, session: AgentSession) -> SafeString:
        return display.call(session, short=True)

    @admin.display(description=gettext_lazy("started by"))
    def who(self, session: AgentSession) -> SafeString:
        return display.starter(session)

    @admin.display(description=gettext_lazy("worker"))
    def where(self, session: AgentSession) -> SafeString:
        return self._worker(session, short=True)

    @admin.display(description=gettext_lazy("age"), ordering="created_at")
    def age(self, session: AgentSession) -> SafeString:
        age = display.age(session.created_at, _now(session))
        if session.is_live:
            return age
        ran = _("ran %(duration)s") % {"duration": display.units(_lifetime(session))}
        return display.with_note(age, ran)

    @admin.display(description=gettext_lazy("last event, end"), ordering="end_reason")
    def reason_mark(self, session: AgentSession) -> SafeString | str:
        if session.status == SessionStatus.QUEUED:
            return SafeString(in_short(session, _now(session)))
        if session.is_live:
            at, kind = getattr(session, "last_at", None), getattr(session, "last_kind", None)
            if at is None:
                return display.NOTHING
            return display.with_note(display.age(at, _now(session)), str(kind).replace("_", " "))
        if not getattr(session, "has_error", False):
            return self.reason(session)
        mark = format_html('<span class="va-error-mark va-below">{}</span>', _("has error"))
        return format_html("{}{}", self.reason(session), mark)

    # The page of one session

    @admin.display(description=gettext_lazy("call id"))
    def call_id_full(self, session: AgentSession) -> SafeString:
        return display.verbatim(session.call_id)

    @admin.display(description=gettext_lazy("call type"))
    def call_type_full(self, session: AgentSession) -> SafeString:
        return display.verbatim(session.call_type)

    @admin.display(description=gettext_lazy("agent"))
    def agent_name(self, session: AgentSession) -> str:
        return session.agent

    @admin.display(description=gettext_lazy("session id"))
    def session_id(self, session: AgentSession) -> SafeString:
        return display.code(str(session.pk))

    @admin.display(description=gettext_lazy("agent id"))
    def agent_instance(self, session: AgentSession) -> SafeString:
        return display.code(session.agent_id)

    @admin.display(description=gettext_lazy("worker"))
    def where_page(self, session: AgentSession) -> SafeString:
        url = getattr(session, "worker_url", "")
        return format_html('<a href="{}">{}</a>', url, self._worker(session)) if url else self._worker(session)

    @admin.display(description=gettext_lazy("created"))
    def created(self, session: AgentSession) -> SafeString:
        return display.moment(session.created_at, extra=display.duration(_now(session) - session.created_at) + " ago")

    @admin.display(description=gettext_lazy("started"))
    def started(self, session: AgentSession) -> SafeString:
        return _since_created(session, session.started_at)

    @admin.display(description=gettext_lazy("joined"))
    def joined(self, session: AgentSession) -> SafeString:
        return _since_created(session, session.joined_at)

    @admin.display(description=gettext_lazy("close requested"))
    def close_requested(self, session: AgentSession) -> SafeString:
        return _since_created(session, session.close_requested_at)

    @admin.display(description=gettext_lazy("ended"))
    def ended(self, session: AgentSession) -> SafeString:
        return _since_created(session, session.ended_at)

    @admin.display(description=gettext_lazy("duration"))
    def duration(self, session: AgentSession) -> str:
        return display.duration(_lifetime(session))

    @admin.display(description=gettext_lazy("end reason"))
    def reason(self, session: AgentSession) -> str:
        return session.get_end_reason_display() or display.NOTHING

    @admin.display(description=gettext_lazy("restart"))
    def restart(self, session: AgentSession) -> str:
        return _("once, if its worker is lost")

    @admin.display(description=gettext_lazy("due"))
    def due(self, session: AgentSession) -> SafeString:
        return display.moment(session.due_at)

    @admin.display(description=gettext_lazy("expires"))
    def expires(self, session: AgentSession) -> SafeString:
        return display.moment(session.expires_at)

    @staticmethod
    def _worker(session: AgentSession, *, short: bool = False) -> SafeString:
        if session.worker is None:
            return SafeString(display.NOTHING)
        name = display.worker_name(session.worker, short=short)
        if session.is_live and getattr(session, "worker_silent", False):
            return format_html("{} {}", name, display.badge(_("stale"), _("Its heartbeat is overdue.")))
        return name


def _now(session: AgentSession) -> datetime:
    now: datetime = session.db_now  # type: ignore[attr-defined]
    return now


def _lifetime(session: AgentSession) -> timedelta:
    return (session.ended_at or _now(session)) - session.created_at


def _since_created(session: AgentSession, value: datetime | None) -> SafeString:
    extra = f"+{display.duration(value - session.created_at, precise=True)}" if value else ""
    return display.moment(value, extra=extra)
