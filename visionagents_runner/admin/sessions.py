"""The sessions' admin: what ran, runs or waits, who asked for it, and how it ended."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import BooleanField, Case, Value, When
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..models import KINDS_WITHOUT_WORDS, AgentSession, SessionEvent, Worker
from . import display
from .base import silent_worker
from .closing import ClosingAdmin
from .dates import with_periods
from .filters import AgentFilter, GroupFilter, WorkerFilter, search
from .history import details

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

    from ..models.session import AgentSessionQuerySet

MOST_EVENTS = 500


class SessionList(ChangeList):
    with_periods = with_periods

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> AgentSessionQuerySet:
        queryset: AgentSessionQuerySet = super().get_queryset(request, *args, **kwargs)  # type: ignore[assignment]
        # Tracebacks and JSON are long, and the list shows none of them.
        return queryset.defer("error", "metadata", "metrics").annotate(
            has_error=Case(When(error="", then=Value(False)), default=Value(True), output_field=BooleanField())
        )


@admin.register(AgentSession)
class AgentSessionAdmin(ClosingAdmin):
    list_display = ("state", "call", "agent", "who", "where", "age", "reason_mark")
    list_display_links = ("call",)
    list_filter = (
        GroupFilter,
        "status",
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
        "traceback",
        "metadata_block",
        "metrics_block",
    )

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(request, {"title": _("Agent sessions"), **(extra_context or {})})

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
        if obj is not None and (not obj.is_live or obj.error):
            fields = ("reason", "traceback") if obj.error else ("reason",)
            sections.insert(0, (gettext_lazy("End"), {"fields": fields}))
        sections.append((gettext_lazy("Metadata"), {"fields": ("metadata_block",), "classes": ("va-bare",)}))
        if request.user.has_perm("visionagents_runner.view_metrics"):
            sections.append((gettext_lazy("Metrics"), {"fields": ("metrics_block",), "classes": ("va-bare",)}))
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
            if obj.worker is not None and self.can_see(request, Worker):
                obj.worker_url = reverse("admin:visionagents_runner_worker_change", args=[obj.worker.pk])  # type: ignore[attr-defined]
            context |= {
                "title": str(obj),
                "subtitle": None,
                "state": display.session_state(obj),
                "call": display.call(obj, short=True),
                "closings": self.closings_for(request, obj),
                **self._history_of(request, obj),
            }
        return super().render_change_form(request, context, add, change, form_url, obj)

    def _history_of(self, request: HttpRequest, session: AgentSession) -> dict[str, Any]:
        events = SessionEvent.objects.filter(session=session).order_by("-seq")
        if not request.user.has_perm("visionagents_runner.view_transcript"):
            events = events.filter(kind__in=KINDS_WITHOUT_WORDS)
        newest = list(events[: MOST_EVENTS + 1])
        lines = [
            {
                "seq": event.seq,
                "kind": event.kind,
                "time": display.moment(event.at),
                "since": display.duration(event.at - before.at, precise=True) if before else "",
                "data": details(event),
            }
            for event, before in zip(newest, [*newest[1:], None], strict=True)
        ]
        return {"events": lines[:MOST_EVENTS][::-1], "events_cut": len(newest) > MOST_EVENTS}

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

    @admin.display(description=gettext_lazy("end reason"), ordering="end_reason")
    def reason_mark(self, session: AgentSession) -> SafeString | str:
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

    @admin.display(description=gettext_lazy("error"))
    def traceback(self, session: AgentSession) -> SafeString:
        return display.block(session.error)

    @admin.display(description=gettext_lazy("metadata"))
    def metadata_block(self, session: AgentSession) -> SafeString | str:
        return display.json_block(session.metadata) if session.metadata else _("None was given.")

    @admin.display(description=gettext_lazy("metrics"))
    def metrics_block(self, session: AgentSession) -> SafeString | str:
        if not session.metrics and not session.is_live:
            return _("None were recorded.")
        if not session.metrics:
            return _("None yet. The worker writes a snapshot here while the agent is on the call.")
        rows = format_html_join(
            "",
            '<tr><th scope="row"><code>{}</code></th><td>{}</td></tr>',
            ((key, display.number(value)) for key, value in session.metrics.items()),
        )
        return format_html(
            '<p class="va-quiet">{} {}</p><table class="va-metrics"><tbody>{}</tbody></table>',
            _("As of"),
            display.moment(session.metrics_at),
            rows,
        )

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
