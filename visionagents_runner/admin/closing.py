"""Closing sessions from the admin: two actions, one confirmation page that names what will happen to whom."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from ..models import AgentSession, SessionStatus, WorkerState
from ..models.session import AgentSessionQuerySet
from ..store import session_rows
from . import display
from .base import ReadOnlyAdmin
from .filters import parse_uuid

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

MOST_AT_ONCE = 500
_MOST_SKIPPED = 50


@dataclass(frozen=True, slots=True)
class Closing:
    """One of the two ways to close a session."""

    name: str
    force: bool
    permission: str
    label: _StrPromise
    title: _StrPromise
    explanation: _StrPromise
    log: str

    @property
    def url_name(self) -> str:
        return f"visionagents_runner_agentsession_{self.name}"


GRACEFUL = Closing(
    name="close",
    force=False,
    permission="close_agentsession",
    label=gettext_lazy("Close gracefully"),
    title=gettext_lazy("Close gracefully?"),
    explanation=gettext_lazy(
        "The agent leaves its call and gets time to finish: its launcher's close timeout. The people on the call stay, "
        "without the agent."
    ),
    log="Asked to close.",
)
FORCED = Closing(
    name="force_close",
    force=True,
    permission="force_close_agentsession",
    label=gettext_lazy("Force close"),
    title=gettext_lazy("Force close?"),
    explanation=gettext_lazy(
        "Force close does not wait for the agent to finish closing: what it has not written or said by then is lost. "
        "A session whose worker is silent ends at once. Close gracefully first where you can."
    ),
    log="Forced to close.",
)
ENDED_LOG = "Ended before it started."
_NOT_STARTED = gettext_lazy("No worker has taken it yet: it ends now, and no agent joins the call.")


def nothing_to_do(session: AgentSession, closing: Closing) -> str:
    """Why this session is left alone, or "" if closing it does something."""
    if not session.is_live:
        return _("ended already (%(reason)s)") % {"reason": session.get_end_reason_display()}
    if session.close_requested_at is not None and not closing.force:
        return _("is asked to close already")
    return ""


def outcome(session: AgentSession, closing: Closing) -> str:
    """What closing this live session does, in a few words."""
    if session.status == SessionStatus.QUEUED:
        return _("Ends now: no worker has taken it yet.")
    worker = session.worker
    if getattr(session, "worker_silent", False) or worker is None or worker.state == WorkerState.STOPPED:
        if closing.force:
            return _("Ends now: its worker is silent.")
        return _("Closes if its silent worker comes back; else it is declared lost.")
    if closing.force:
        return _("Its agent is abandoned.")
    if session.status == SessionStatus.STARTING:
        return _("Its start is cancelled.")
    return _("Its agent leaves the call.")


class ClosingAdmin(ReadOnlyAdmin[AgentSession]):
    """Adds the actions, and the page behind them, to the sessions' admin."""

    actions = ("close_gracefully", "force_close")
    close_confirmation_template = "admin/visionagents_runner/agentsession/close_confirmation.html"

    def has_close_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(f"visionagents_runner.{GRACEFUL.permission}")

    def has_force_close_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(f"visionagents_runner.{FORCED.permission}")

    @admin.action(permissions=["close"], description=GRACEFUL.label)
    def close_gracefully(self, request: HttpRequest, queryset: AgentSessionQuerySet) -> HttpResponse:
        return self._confirm(request, queryset, GRACEFUL)

    @admin.action(permissions=["force_close"], description=FORCED.label)
    def force_close(self, request: HttpRequest, queryset: AgentSessionQuerySet) -> HttpResponse:
        return self._confirm(request, queryset, FORCED)

    def get_urls(self) -> list[URLPattern]:
        return [
            path(f"{closing.name.replace('_', '-')}/", self._view(closing), name=closing.url_name)
            for closing in (GRACEFUL, FORCED)
        ] + super().get_urls()

    def response_action(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:  # type: ignore[override]
        try:
            return super().response_action(request, queryset)
        except ValidationError:  # an id that is no UUID
            self.message_user(request, _("One of the selected sessions does not exist."), messages.ERROR)
            return None

    def closings_for(self, request: HttpRequest, session: AgentSession) -> list[dict[str, Any]]:
        """The buttons that this user gets on the page of this session."""
        buttons = [
            {"url": self._url(request, closing), "label": closing.label, "force": closing.force}
            for closing in (GRACEFUL, FORCED)
            if self._permits(request, closing) and not nothing_to_do(session, closing)
        ]
        if session.status == SessionStatus.QUEUED:
            # Both ways do the same: nothing runs that could be forced.
            return [{**button, "label": _("Close"), "force": False} for button in buttons[:1]]
        return buttons

    def _permits(self, request: HttpRequest, closing: Closing) -> bool:
        return self.has_force_close_permission(request) if closing.force else self.has_close_permission(request)

    def _url(self, request: HttpRequest, closing: Closing) -> str:
        url = reverse(f"admin:{closing.url_name}", current_app=self.admin_site.name)
        return self._with_filters(request, url)

    def _with_filters(self, request: HttpRequest, url: str) -> str:
        filters = self.get_preserved_filters(request)
        return add_preserved_filters({"preserved_filters": filters, "opts": self.opts}, url)

    def _view(self, closing: Closing) -> Callable[..., HttpResponse]:
        def view(request: HttpRequest) -> HttpResponse:
            return self._close(request, closing)

        # The worker must see what was written when it is told, not when the request's transaction ends.
        return transaction.non_atomic_requests(self.admin_site.admin_view(view))

    def _close(self, request: HttpRequest, closing: Closing) -> HttpResponse:
        if not (self.has_view_permission(request) and self._permits(request, closing)):
            raise PermissionDenied
        origin = parse_uuid(request.POST.get("origin", ""))
        posted = request.POST.getlist(helpers.ACTION_CHECKBOX_NAME)[:MOST_AT_ONCE]
        keys = [key for key in map(parse_uuid, posted) if key is not None]
        if request.method != "POST" or not keys:
            return HttpResponseRedirect(self._back(request, origin))
        queryset: AgentSessionQuerySet = self.get_queryset(request).filter(pk__in=keys)  # type: ignore[assignment]
        if "confirmed" not in request.POST:
            return self._confirm(request, queryset, closing, origin)
        sessions = list(queryset)
        targets = [session for session in sessions if not nothing_to_do(session, closing)]
        keys = [session.pk for session in targets]
        waited = [session.pk for session in targets if session.status == SessionStatus.QUEUED]
        session_rows.request_close_sync(keys, by=request.user.get_username(), force=closing.force)
        # A worker may have taken one since: then that worker was asked.
        never_ran = AgentSession.objects.ended().filter(pk__in=waited, worker__isnull=True)
        ended = set(never_ran.order_by().values_list("pk", flat=True)) if waited else set()
        asked = [session for session in targets if session.pk not in ended]
        self._log(request, asked, closing.log)
        self._log(request, [session for session in targets if session.pk in ended], ENDED_LOG)
        self._tell(request, closing, done=len(asked), ended=len(ended), skipped=len(sessions) - len(targets))
        return HttpResponseRedirect(self._back(request, origin))

    def _confirm(
        self,
        request: HttpRequest,
        queryset: AgentSessionQuerySet,
        closing: Closing,
        origin: uuid.UUID | None = None,
    ) -> HttpResponse:
        # Only live ones: "select all" may mean the whole history. The oldest first, as they are the likely culprits.
        live = list(queryset.live().order_by("created_at", "pk")[: MOST_AT_ONCE + 1])
        ended = list(queryset.ended()[: _MOST_SKIPPED + 1])
        targets = [session for session in live[:MOST_AT_ONCE] if not nothing_to_do(session, closing)]
        skipped = [session for session in [*live[:MOST_AT_ONCE], *ended] if nothing_to_do(session, closing)]
        only_queued = bool(targets) and all(session.status == SessionStatus.QUEUED for session in targets)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Close before it starts?") if only_queued else closing.title,
            "subtitle": None,
            "opts": self.opts,
            "media": self.media,
            "closing": closing,
            "explanation": _NOT_STARTED if only_queued else closing.explanation,
            "label": _("Close") if only_queued else closing.label,
            "targets": [self._row(session, outcome(session, closing)) for session in targets],
            "skipped": [self._row(session, nothing_to_do(session, closing)) for session in skipped[:_MOST_SKIPPED]],
            "more_targets": len(live) > MOST_AT_ONCE,
            "more_skipped": len(skipped) > _MOST_SKIPPED,
            "most": MOST_AT_ONCE,
            "submit": self._submit_label(closing, len(targets)),
            "action_url": self._url(request, closing),
            "back_url": self._back(request, origin),
            "origin": origin,
            "checkbox": helpers.ACTION_CHECKBOX_NAME,
            "preserved_filters": self.get_preserved_filters(request),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, self.close_confirmation_template, context)

    def _row(self, session: AgentSession, what: str) -> dict[str, Any]:
        return {
            "pk": session.pk,
            "url": reverse("admin:visionagents_runner_agentsession_change", args=[session.pk]),
            "state": display.session_state(session),
            "call": display.call(session),
            "agent": session.agent,
            "started_by": display.starter(session),
            "worker": display.worker_name(session.worker, short=True) if session.worker else display.NOTHING,
            "created": display.ago(session.created_at, session.db_now),  # type: ignore[attr-defined]
            "what": what,
        }

    def _back(self, request: HttpRequest, origin: uuid.UUID | None) -> str:
        name, args = ("change", [origin]) if origin else ("changelist", [])
        url = reverse(f"admin:visionagents_runner_agentsession_{name}", args=args, current_app=self.admin_site.name)
        return self._with_filters(request, url)

    @staticmethod
    def _submit_label(closing: Closing, count: int) -> str:
        if closing.force:
            return ngettext("Force close %d session", "Force close %d sessions", count) % count
        return ngettext("Close %d session", "Close %d sessions", count) % count

    @staticmethod
    def _log(request: HttpRequest, sessions: list[AgentSession], message: str) -> None:
        if not sessions:
            return
        LogEntry.objects.log_actions(
            user_id=request.user.pk,  # type: ignore[arg-type]
            queryset=sessions,
            action_flag=CHANGE,
            change_message=message,
        )

    def _tell(self, request: HttpRequest, closing: Closing, *, done: int, ended: int, skipped: int) -> None:
        if ended:
            text = ngettext(
                "%d session that waited has ended, and will not start.",
                "%d sessions that waited have ended, and will not start.",
                ended,
            )
            self.message_user(request, text % ended, messages.SUCCESS)
        if done and closing.force:
            text = ngettext("%d session was forced to close.", "%d sessions were forced to close.", done) % done
            self.message_user(request, text, messages.SUCCESS)
        elif done:
            text = ngettext("%d session was asked to close.", "%d sessions were asked to close.", done) % done
            self.message_user(request, text, messages.SUCCESS)
        if skipped:
            text = ngettext(
                "%d session was left alone: it had ended or was closing already.",
                "%d sessions were left alone: they had ended or were closing already.",
                skipped,
            )
            self.message_user(request, text % skipped, messages.INFO)
