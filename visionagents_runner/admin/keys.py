"""The API keys' admin: made here and shown once, revoked here, and never changed or deleted."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.core.validators import RegexValidator
from django.db import IntegrityError
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import formats, timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from ..auth import keys
from ..models import AgentKey, Scope
from ..models.key import PREFIX_LENGTH, AgentKeyQuerySet, make_prefix
from . import display
from .base import ReadOnlyAdmin

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin
    from django.utils.functional import _StrOrPromise

    _ModelForm = forms.ModelForm[AgentKey]
else:
    _ModelForm = forms.ModelForm

MOST_AT_ONCE = 200
_LIFETIMES = (
    ("7", gettext_lazy("in 7 days")),
    ("30", gettext_lazy("in 30 days")),
    ("90", gettext_lazy("in 90 days")),
    ("365", gettext_lazy("in a year")),
    ("", gettext_lazy("never")),
)
_SENT_BEFORE = gettext_lazy(
    "This form was sent before, and made the key va_%(prefix)s, which is shown only once. If you did not copy it, "
    "revoke it, and open this page anew for another."
)


class StateFilter(admin.SimpleListFilter):
    title = gettext_lazy("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[AgentKey]) -> list[tuple[str, _StrOrPromise]]:
        return [("valid", _("Valid")), ("expired", _("Expired")), ("revoked", _("Revoked"))]

    def queryset(self, request: HttpRequest, queryset: AgentKeyQuerySet) -> AgentKeyQuerySet:  # type: ignore[override]
        match self.value():
            case "valid":
                return queryset.valid()
            case "expired":
                return queryset.filter(revoked_at__isnull=True, expires_at__lte=Now())
            case "revoked":
                return queryset.filter(revoked_at__isnull=False)
        return queryset


class AgentKeyForm(_ModelForm):
    """What a new key is for. ``user`` is who makes it, and hands out no more than they have."""

    user: Any

    # It goes with the page, so that sending the page again, as a reload does, makes no second key.
    new_prefix = forms.CharField(
        widget=forms.HiddenInput,
        initial=make_prefix,
        validators=[RegexValidator(rf"\A[0-9a-z]{{{PREFIX_LENGTH}}}\Z")],
    )
    scopes = forms.MultipleChoiceField(
        choices=(), widget=forms.CheckboxSelectMultiple, label=gettext_lazy("May"), help_text=""
    )
    lifetime = forms.ChoiceField(choices=_LIFETIMES, initial="90", required=False, label=gettext_lazy("Expires"))

    class Meta:
        model = AgentKey
        fields = ("name", "owner", "scopes")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        scopes = self.fields["scopes"]
        assert isinstance(scopes, forms.MultipleChoiceField)
        grantable = [scope for scope in Scope if self.user.has_perm(scope.permission)]
        scopes.choices = [(scope.value, f"{scope.value}: {scope.label}") for scope in grantable]
        if len(grantable) < len(Scope):
            scopes.help_text = _("You can hand out what you may do yourself.")

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if not name.isprintable():
            raise forms.ValidationError(_("A name has printable characters only."))
        return name

    def clean_owner(self) -> Any:
        owner = self.cleaned_data["owner"]
        if not getattr(owner, "is_active", True):
            raise forms.ValidationError(_("This user is not active: the key would be void."))
        return owner

    def clean_new_prefix(self) -> str:
        prefix: str = self.cleaned_data["new_prefix"]
        if AgentKey.objects.filter(prefix=prefix).exists():
            raise forms.ValidationError(_SENT_BEFORE % {"prefix": prefix})
        return prefix


@admin.register(AgentKey)
class AgentKeyAdmin(ReadOnlyAdmin[AgentKey]):
    form = AgentKeyForm
    list_display = ("state", "public_part", "name", "owner", "may", "last_used", "until")
    list_display_links = ("public_part",)
    list_filter = (StateFilter,)
    list_select_related = ("owner",)
    search_fields = ("name", "prefix")
    search_help_text = gettext_lazy("Part of a name, or the beginning of a key: va_ and its prefix.")
    ordering = ("-created_at", "-id")
    raw_id_fields = ("owner",)
    readonly_fields = ("state", "public_part", "may", "created", "expires", "last_used", "revoked")
    actions = ("revoke",)
    made_template = "admin/visionagents_runner/agentkey/made.html"
    revoke_confirmation_template = "admin/visionagents_runner/agentkey/revoke_confirmation.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("visionagents_runner.add_agentkey")

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("visionagents_runner.change_agentkey")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(request, {"title": _("API keys"), **(extra_context or {})})

    def get_queryset(self, request: HttpRequest) -> AgentKeyQuerySet:
        queryset: AgentKeyQuerySet = super().get_queryset(request)  # type: ignore[assignment]
        return queryset.select_related("owner").annotate(db_now=Now())

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AgentKey], search_term: str
    ) -> tuple[QuerySet[AgentKey], bool]:
        if search_term.startswith("va_"):
            return queryset.filter(prefix__startswith=search_term.split("_")[1]), False
        return super().get_search_results(request, queryset, search_term)

    # Making one

    def get_fieldsets(self, request: HttpRequest, obj: AgentKey | None = None) -> Any:
        if obj is None:
            owner = ("owner",) if _chooses_owner(request) else ()
            return [(None, {"fields": ("name", *owner, "scopes", "lifetime", "new_prefix")})]
        fields = ("public_part", "name", "owner", "may", "created", "expires", "last_used", "revoked")
        return [(None, {"fields": fields})]

    def add_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().add_view(request, *args, **kwargs)
        except IntegrityError:  # sent twice at once, by a double click
            text = _SENT_BEFORE % {"prefix": request.POST.get("new_prefix", "")}
            self.message_user(request, text, messages.WARNING)
            return HttpResponseRedirect(self._back(request))

    def get_form(
        self, request: HttpRequest, obj: AgentKey | None = None, change: bool = False, **kwargs: Any
    ) -> type[forms.ModelForm[AgentKey]]:
        form = super().get_form(request, obj, change=change, **kwargs)
        return type(form.__name__, (form,), {"user": request.user})

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"owner": request.user.pk, **super().get_changeform_initial_data(request)}

    def save_model(self, request: HttpRequest, obj: AgentKey, form: Any, change: bool) -> None:
        data = form.cleaned_data
        row, plain = keys.issue_key(
            name=data["name"],
            owner=data.get("owner", request.user),
            scopes=data["scopes"],
            expires_in=timedelta(days=int(data["lifetime"])) if data["lifetime"] else None,
            by=request.user.get_username(),
            prefix=data["new_prefix"],
        )
        obj.__dict__.update(row.__dict__)
        obj.plain = plain  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: AgentKey, post_url_continue: str | None = None) -> HttpResponse:
        """Show the key, in the answer itself: it is kept nowhere from which it could be shown again."""
        context = {
            **self._page(request, _("API key made")),
            "key": obj.plain,  # type: ignore[attr-defined]
            "original": obj,
            "may": self.may(obj),
            "expires": self.expires(obj),
            "back_url": self._back(request),
        }
        return TemplateResponse(request, self.made_template, context)

    # Revoking

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self._revoke)
        return [path("revoke/", view, name="visionagents_runner_agentkey_revoke"), *super().get_urls()]

    @admin.action(permissions=["revoke"], description=gettext_lazy("Revoke"))
    def revoke(self, request: HttpRequest, queryset: AgentKeyQuerySet) -> HttpResponse:
        return self._confirm(request, queryset)

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: AgentKey | None = None,
    ) -> HttpResponse:
        if obj is None:
            context |= {"title": _("Make an API key")}
        else:
            may_revoke = self.has_revoke_permission(request) and obj.revoked_at is None
            context |= {
                "title": str(obj),
                "subtitle": None,
                "state": self.state(obj),
                "revoke_url": self._url("revoke") if may_revoke else "",
            }
        return super().render_change_form(request, context, add, change, form_url, obj)

    def _revoke(self, request: HttpRequest) -> HttpResponse:
        if not (self.has_view_permission(request) and self.has_revoke_permission(request)):
            raise PermissionDenied
        chosen = [int(key) for key in request.POST.getlist(helpers.ACTION_CHECKBOX_NAME) if key.isdecimal()]
        if request.method != "POST" or not chosen:
            return HttpResponseRedirect(self._url("changelist"))
        queryset = self.get_queryset(request).filter(pk__in=[key for key in chosen if key < 2**63][:MOST_AT_ONCE])
        if "confirmed" not in request.POST:
            return self._confirm(request, queryset)
        by = request.user.get_username()
        done = [key for key in queryset if keys.revoke_key(key, by=by)]
        self._log(request, done)
        if done:
            text = ngettext("%d API key was revoked.", "%d API keys were revoked.", len(done)) % len(done)
            self.message_user(request, text, messages.SUCCESS)
        return HttpResponseRedirect(self._url("changelist"))

    def _confirm(self, request: HttpRequest, queryset: AgentKeyQuerySet) -> HttpResponse:
        targets = list(queryset.filter(revoked_at__isnull=True)[:MOST_AT_ONCE])
        rows = [
            {
                "pk": key.pk,
                "state": self.state(key),
                "public_part": self.public_part(key),
                "name": key.name,
                "owner": key.owner.get_username() if key.owner else display.NOTHING,
                "may": self.may(key),
                "last_used": self.last_used(key),
            }
            for key in targets
        ]
        count = len(rows)
        context = {
            **self._page(request, _("Revoke?")),
            "rows": rows,
            "seconds": f"{keys.CACHE_SECONDS:g}",
            "submit": ngettext("Revoke %d API key", "Revoke %d API keys", count) % count,
            "action_url": self._url("revoke"),
            "back_url": self._url("changelist"),
            "checkbox": helpers.ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, self.revoke_confirmation_template, context)

    def _page(self, request: HttpRequest, title: str) -> dict[str, Any]:
        request.current_app = self.admin_site.name
        each = self.admin_site.each_context(request)
        return {**each, "title": title, "subtitle": None, "opts": self.opts, "media": self.media}

    def _back(self, request: HttpRequest) -> str:
        return self._url("changelist") if self.has_view_permission(request) else reverse("admin:index")

    def _url(self, name: str) -> str:
        return reverse(f"admin:visionagents_runner_agentkey_{name}", current_app=self.admin_site.name)

    @staticmethod
    def _log(request: HttpRequest, revoked: Iterable[AgentKey]) -> None:
        LogEntry.objects.log_actions(
            user_id=request.user.pk,  # type: ignore[arg-type]
            queryset=list(revoked),
            action_flag=CHANGE,
            change_message="Revoked.",
        )

    # Columns and fields

    @admin.display(description=gettext_lazy("state"))
    def state(self, key: AgentKey) -> SafeString:
        if key.revoked_at is not None:
            return display.state("closed", _("revoked"))
        if key.expires_at is not None and key.expires_at <= _now(key):
            return display.state("closed", _("expired"))
        if not key.owner_counts:
            return display.state("unreachable", _("owner inactive"))
        return display.state("active", _("valid"))

    @admin.display(description=gettext_lazy("key"), ordering="prefix")
    def public_part(self, key: AgentKey) -> SafeString:
        return format_html('<code class="va-nowrap">va_{}</code>', key.prefix)

    @admin.display(description=gettext_lazy("may"))
    def may(self, key: AgentKey) -> str:
        return ", ".join(map(str, key.scopes))

    @admin.display(description=gettext_lazy("expires"), ordering="expires_at")
    def until(self, key: AgentKey) -> SafeString | str:
        """The day, for the narrow column of the list."""
        if key.expires_at is None:
            return _("never")
        day = formats.date_format(timezone.localtime(key.expires_at), "SHORT_DATE_FORMAT")
        return format_html('<span class="va-nowrap" title="{}">{}</span>', display.exact(key.expires_at), day)

    @admin.display(description=gettext_lazy("expires"))
    def expires(self, key: AgentKey) -> SafeString | str:
        return _("never") if key.expires_at is None else display.moment(key.expires_at)

    @admin.display(description=gettext_lazy("last used"), ordering="last_used_at")
    def last_used(self, key: AgentKey) -> SafeString | str:
        return _("never") if key.last_used_at is None else display.ago(key.last_used_at, _now(key))

    @admin.display(description=gettext_lazy("made"))
    def created(self, key: AgentKey) -> SafeString:
        return display.moment(key.created_at, extra=_("by %s") % key.created_by if key.created_by else "")

    @admin.display(description=gettext_lazy("revoked"))
    def revoked(self, key: AgentKey) -> SafeString:
        return display.moment(key.revoked_at, extra=_("by %s") % key.revoked_by if key.revoked_by else "")


def _chooses_owner(request: HttpRequest) -> bool:
    """Whether they may make a key for somebody else, and so see what that one started."""
    return bool(getattr(request.user, "is_superuser", False))


def _now(key: AgentKey) -> datetime:
    now: datetime = key.db_now  # type: ignore[attr-defined]
    return now
