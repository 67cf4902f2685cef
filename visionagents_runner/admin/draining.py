"""Draining a worker from the admin, and taking that back: a page that asks first, and a line in the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..conf.settings import get_settings
from ..models import AgentSession, Worker, WorkerState
from . import display
from .base import ReadOnlyAdmin

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

PERMISSION = "visionagents_runner.drain_worker"
MOST_SESSIONS = 200


@dataclass(frozen=True, slots=True)
class Request:
    """What an operator asks of a worker."""

    name: str
    label: _StrPromise
    title: _StrPromise
    explanation: _StrPromise
    log: str
    done: _StrPromise

    @property
    def url_name(self) -> str:
        return f"visionagents_runner_worker_{self.name}"


DRAIN = Request(
    name="drain",
    label=gettext_lazy("Drain"),
    title=gettext_lazy("Drain this worker?"),
    explanation=gettext_lazy(
        "It takes no new sessions from then on, and answers 503 at /ready. Sessions that run there go on until they "
        "end. The process does not end: stop it when they are over, or let it take new sessions again."
    ),
    log="Asked to drain.",
    done=gettext_lazy("The worker was asked to drain."),
)
RESUME = Request(
    name="resume",
    label=gettext_lazy("Take new sessions again"),
    title=gettext_lazy("Let this worker take new sessions again?"),
    explanation=gettext_lazy("The request to drain is taken back. Sessions that run there do not notice."),
    log="The request to drain was taken back.",
    done=gettext_lazy("The worker may take new sessions again."),
)


def possible(worker: Worker) -> Request | None:
    """What can be asked of ``worker`` now; None if it has stopped, or drains because its process was told to end."""
    if worker.state == WorkerState.STOPPED:
        return None
    if worker.drain_requested_at is not None:
        return RESUME
    return DRAIN if worker.state == WorkerState.RUNNING else None


class DrainingAdmin(ReadOnlyAdmin[Worker]):
    drain_confirmation_template = "admin/visionagents_runner/worker/drain_confirmation.html"

    def has_drain_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(PERMISSION)

    def get_urls(self) -> list[URLPattern]:
        return [
            path(f"<uuid:pk>/{what.name}/", self.admin_site.admin_view(self._view(what)), name=what.url_name)
            for what in (DRAIN, RESUME)
        ] + super().get_urls()

    def requests_for(self, request: HttpRequest, worker: Worker) -> list[dict[str, Any]]:
        """The buttons that this user gets on the page of this worker."""
        what = possible(worker)
        if what is None or not self.has_drain_permission(request):
            return []
        url = reverse(f"admin:{what.url_name}", args=[worker.pk], current_app=self.admin_site.name)
        return [{"url": url, "label": what.label}]

    def _view(self, what: Request) -> Callable[..., HttpResponse]:
        def view(request: HttpRequest, pk: Any) -> HttpResponse:
            if not (self.has_view_permission(request) and self.has_drain_permission(request)):
                raise PermissionDenied
            worker = self.get_queryset(request).filter(pk=pk).first()
            if worker is None:
                raise Http404
            if request.method == "POST" and "confirmed" in request.POST:
                return self._ask(request, worker, what)
            return self._confirm(request, worker, what)

        return view

    def _ask(self, request: HttpRequest, worker: Worker, what: Request) -> HttpResponse:
        new = worker.request_drain() if what is DRAIN else worker.withdraw_drain()
        if new:
            LogEntry.objects.log_actions(
                user_id=request.user.pk,  # type: ignore[arg-type]
                queryset=[worker],
                action_flag=CHANGE,
                change_message=what.log,
            )
            self.message_user(request, what.done, messages.SUCCESS)
        else:
            self.message_user(request, _("Nothing changed: it was so already, or it has stopped."), messages.INFO)
        return HttpResponseRedirect(self._page(worker))

    def _page(self, worker: Worker) -> str:
        name = "admin:visionagents_runner_worker_change"
        return reverse(name, args=[worker.pk], current_app=self.admin_site.name)

    def _confirm(self, request: HttpRequest, worker: Worker, what: Request) -> HttpResponse:
        may_see = self.can_see(request, AgentSession)
        live = AgentSession.objects.live().filter(worker=worker)
        shown = live.select_related("started_by").defer("error", "metadata", "metrics").order_by("created_at", "pk")
        now = worker.db_now  # type: ignore[attr-defined]
        context = {
            **self.admin_site.each_context(request),
            "title": what.title,
            "subtitle": str(worker),
            "opts": self.opts,
            "media": self.media,
            "what": what,
            "original": worker,
            "possible": possible(worker) is what,
            "count": live.count(),
            "may_see": may_see,
            "most": MOST_SESSIONS,
            "seconds": get_settings().POLL_INTERVAL,
            "back_url": self._page(worker),
            "sessions": [
                {
                    "url": reverse("admin:visionagents_runner_agentsession_change", args=[session.pk]),
                    "state": display.session_state(session),
                    "call": display.call(session),
                    "agent": session.agent,
                    "started_by": display.starter(session),
                    "created": display.ago(session.created_at, now),
                    "what": _("Goes on until it ends.") if what is DRAIN else _("Goes on."),
                }
                for session in (shown[:MOST_SESSIONS] if may_see else [])
            ],
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, self.drain_confirmation_template, context)
