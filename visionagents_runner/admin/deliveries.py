"""The webhooks' admin: who was told that a session had ended, who was not and why, and telling them again."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from ..conf.webhooks import endpoints
from ..models import AgentSession, DeliveryState, WebhookDelivery
from ..models.delivery import WebhookDeliveryQuerySet
from . import display
from .base import ReadOnlyAdmin
from .filters import parse_uuid

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin
    from django.utils.functional import _StrOrPromise

MOST_AT_ONCE = 500
_SHORT = 40
_LOOK = {DeliveryState.PENDING: "queued", DeliveryState.DELIVERED: "active", DeliveryState.FAILED: "failed"}


class EndpointFilter(admin.SimpleListFilter):
    """The endpoints of the setting, and the one in the URL: nothing has to be read to find them out."""

    title = gettext_lazy("endpoint")
    parameter_name = "endpoint"

    def lookups(
        self, request: HttpRequest, model_admin: ModelAdmin[WebhookDelivery]
    ) -> list[tuple[str, _StrOrPromise]]:
        names = {endpoint.name for endpoint in endpoints()}
        if chosen := self._chosen():
            names.add(chosen)
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[WebhookDelivery]) -> QuerySet[WebhookDelivery]:
        chosen = self._chosen()
        return queryset.filter(endpoint=chosen) if chosen else queryset

    def _chosen(self) -> str:
        return (self.value() or "").replace("\0", "")


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(ReadOnlyAdmin[WebhookDelivery]):
    list_display = ("mark", "endpoint", "call", "attempts", "next_attempt", "last_answer", "age")
    list_display_links = ("mark",)
    list_filter = ("state", EndpointFilter)
    search_fields = ("session__id",)
    search_help_text = gettext_lazy("The whole id of a session, or of a message as its receiver got it (msg_...).")
    ordering = ("-created_at", "-id")
    fields = ("endpoint", "call", "message", "attempts", "next_attempt", "last_answer_full", "created", "delivered")
    readonly_fields = fields
    actions = ("replay",)
    replay_confirmation_template = "admin/visionagents_runner/webhookdelivery/replay_confirmation.html"

    def has_replay_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("visionagents_runner.replay_webhookdelivery")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {"title": _("Webhook deliveries"), "has_endpoints": bool(endpoints()), **(extra_context or {})}
        return super().changelist_view(request, context)

    def get_queryset(self, request: HttpRequest) -> WebhookDeliveryQuerySet:
        queryset: WebhookDeliveryQuerySet = super().get_queryset(request)  # type: ignore[assignment]
        columns = ("session__call_type", "session__call_id")
        own = [field.name for field in self.opts.concrete_fields]
        return queryset.select_related("session").only(*own, *columns).annotate(db_now=Now())

    def get_list_display(self, request: HttpRequest) -> Any:
        # Without a page of the session to go to, its call is plain text.
        linked = self.can_see(request, AgentSession)
        return ["call_link" if name == "call" and linked else name for name in self.list_display]

    def get_fields(self, request: HttpRequest, obj: WebhookDelivery | None = None) -> Any:
        linked = self.can_see(request, AgentSession)
        return ["call_link" if name == "call" and linked else name for name in self.fields]

    def get_readonly_fields(self, request: HttpRequest, obj: WebhookDelivery | None = None) -> Any:
        return self.get_fields(request, obj)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[WebhookDelivery], search_term: str
    ) -> tuple[QuerySet[WebhookDelivery], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        key = parse_uuid(term.removeprefix("msg_"))
        if key is None:
            return queryset.none(), False
        return queryset.filter(Q(pk=key) if term.startswith("msg_") else Q(session=key)), False

    # Sending again

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self._replay)
        return [path("replay/", view, name="visionagents_runner_webhookdelivery_replay"), *super().get_urls()]

    @admin.action(permissions=["replay"], description=gettext_lazy("Send again"))
    def replay(self, request: HttpRequest, queryset: WebhookDeliveryQuerySet) -> HttpResponse:
        return self._confirm(request, queryset)

    def response_action(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:  # type: ignore[override]
        try:
            return super().response_action(request, queryset)
        except ValidationError:  # an id that is no UUID
            self.message_user(request, _("One of the selected deliveries does not exist."), messages.ERROR)
            return None

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: WebhookDelivery | None = None,
    ) -> HttpResponse:
        if obj is not None:
            context |= {
                "title": str(obj),
                "subtitle": None,
                "state": self.mark(obj),
                "replay_url": self._url(request, "replay") if self.has_replay_permission(request) else "",
            }
        return super().render_change_form(request, context, add, change, form_url, obj)

    def _replay(self, request: HttpRequest) -> HttpResponse:
        if not (self.has_view_permission(request) and self.has_replay_permission(request)):
            raise PermissionDenied
        posted = request.POST.getlist(helpers.ACTION_CHECKBOX_NAME)[:MOST_AT_ONCE]
        keys = [key for key in map(parse_uuid, posted) if key is not None]
        if request.method != "POST" or not keys:
            return HttpResponseRedirect(self._url(request, "changelist"))
        queryset = self.get_queryset(request).filter(pk__in=keys)
        if "confirmed" not in request.POST:
            return self._confirm(request, queryset)
        chosen = list(queryset)
        done = [delivery for delivery in chosen if WebhookDelivery.objects.filter(pk=delivery.pk).replay()]
        if done:
            LogEntry.objects.log_actions(
                user_id=request.user.pk,  # type: ignore[arg-type]
                queryset=done,
                action_flag=CHANGE,
                change_message="Sent again.",
            )
            text = ngettext("%d webhook is sent again.", "%d webhooks are sent again.", len(done)) % len(done)
            self.message_user(request, text, messages.SUCCESS)
        if left := len(chosen) - len(done):
            text = ngettext(
                "%d was left alone: it is being sent now.", "%d were left alone: they are being sent now.", left
            )
            self.message_user(request, text % left, messages.INFO)
        return HttpResponseRedirect(self._url(request, "changelist"))

    def _confirm(self, request: HttpRequest, queryset: QuerySet[WebhookDelivery]) -> HttpResponse:
        targets = list(queryset[: MOST_AT_ONCE + 1])
        rows = [
            {
                "pk": delivery.pk,
                "state": self.mark(delivery),
                "endpoint": delivery.endpoint,
                "call": self.call(delivery),
                "last_answer": _answer(delivery),
                "age": self.age(delivery),
            }
            for delivery in targets[:MOST_AT_ONCE]
        ]
        count = len(rows)
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": _("Send again?"),
            "subtitle": None,
            "opts": self.opts,
            "media": self.media,
            "rows": rows,
            "more": len(targets) > MOST_AT_ONCE,
            "most": MOST_AT_ONCE,
            "submit": ngettext("Send %d webhook again", "Send %d webhooks again", count) % count,
            "action_url": self._url(request, "replay"),
            "back_url": self._url(request, "changelist"),
            "checkbox": helpers.ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, self.replay_confirmation_template, context)

    def _url(self, request: HttpRequest, name: str) -> str:
        url = reverse(f"admin:visionagents_runner_webhookdelivery_{name}", current_app=self.admin_site.name)
        filters = self.get_preserved_filters(request)
        return add_preserved_filters({"preserved_filters": filters, "opts": self.opts}, url)

    # Columns and fields

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def mark(self, delivery: WebhookDelivery) -> SafeString:
        return display.state(_LOOK[DeliveryState(delivery.state)], delivery.get_state_display())

    @admin.display(description=gettext_lazy("session"))
    def call(self, delivery: WebhookDelivery) -> SafeString:
        return display.call(delivery.session, short=True)

    @admin.display(description=gettext_lazy("session"))
    def call_link(self, delivery: WebhookDelivery) -> SafeString:
        url = reverse("admin:visionagents_runner_agentsession_change", args=[delivery.session_id])
        return format_html('<a href="{}">{}</a>', url, self.call(delivery))

    @admin.display(description=gettext_lazy("next attempt"), ordering="next_attempt_at")
    def next_attempt(self, delivery: WebhookDelivery) -> SafeString | str:
        if delivery.next_attempt_at is None:
            return display.NOTHING
        if delivery.endpoint not in {endpoint.name for endpoint in endpoints()}:
            return display.badge(_("never"), _("No endpoint of this name is in the setting WEBHOOKS of this process."))
        now = _now(delivery)
        if delivery.claimed_until is not None and delivery.claimed_until >= now:
            return _("being sent")
        if delivery.next_attempt_at <= now:
            return _("due")
        wait = display.units(delivery.next_attempt_at - now, most=2)
        return format_html(
            '<span class="va-nowrap" title="{}">{}</span>', display.exact(delivery.next_attempt_at), _("in %s") % wait
        )

    @admin.display(description=gettext_lazy("last answer"))
    def last_answer(self, delivery: WebhookDelivery) -> SafeString:
        """Its beginning, for the narrow column of the list."""
        text = _answer(delivery)
        return format_html('<span title="{}">{}</span>', text, Truncator(text).chars(_SHORT))

    @admin.display(description=gettext_lazy("last answer"))
    def last_answer_full(self, delivery: WebhookDelivery) -> str:
        return _answer(delivery)

    @admin.display(description=gettext_lazy("age"), ordering="created_at")
    def age(self, delivery: WebhookDelivery) -> SafeString:
        return display.age(delivery.created_at, _now(delivery))

    @admin.display(description=gettext_lazy("message id"))
    def message(self, delivery: WebhookDelivery) -> SafeString:
        return display.code(delivery.message_id)

    @admin.display(description=gettext_lazy("created"))
    def created(self, delivery: WebhookDelivery) -> SafeString:
        return display.moment(delivery.created_at)

    @admin.display(description=gettext_lazy("delivered"))
    def delivered(self, delivery: WebhookDelivery) -> SafeString:
        return display.moment(delivery.delivered_at)


def _answer(delivery: WebhookDelivery) -> str:
    if delivery.last_error:
        return delivery.last_error
    return display.NOTHING if delivery.last_status is None else str(delivery.last_status)


def _now(delivery: WebhookDelivery) -> datetime:
    now: datetime = delivery.db_now  # type: ignore[attr-defined]
    return now
