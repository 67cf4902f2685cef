"""Filters of the sessions' list that do not read the whole table to find out what there is to choose from."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from django.contrib import admin
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from ..models import AgentSession, Worker, WorkerState
from ..models.session import AgentSessionQuerySet

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin
    from django.http import HttpRequest
    from django.utils.functional import _StrOrPromise

_RECENT_SESSIONS = 1000
_RECENT_WORKERS = 20


class StateFilter(admin.ChoicesFieldListFilter):
    """Chosen by the tabs above the list, so it needs no place beside it."""

    template = "admin/visionagents_runner/agentsession/no_filter.html"


class GroupFilter(admin.SimpleListFilter):
    title = _("live or ended")
    parameter_name = "group"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[AgentSession]) -> list[tuple[str, _StrOrPromise]]:
        return [("live", _("Live")), ("ended", _("Ended")), ("error", _("With an error"))]

    def queryset(self, request: HttpRequest, queryset: AgentSessionQuerySet) -> AgentSessionQuerySet:  # type: ignore[override]
        match self.value():
            case "live":
                return queryset.live()
            case "ended":
                return queryset.ended()
            case "error":
                return queryset.exclude(error="")
        return queryset


class AgentFilter(admin.SimpleListFilter):
    """The agents of the newest sessions; the one in the URL is always among them."""

    title = _("agent")
    parameter_name = "agent"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[AgentSession]) -> list[tuple[str, _StrOrPromise]]:
        recent = AgentSession.objects.order_by("-created_at", "-id").values_list("agent", flat=True)
        names = set(recent[:_RECENT_SESSIONS])
        if chosen := self._chosen():
            names.add(chosen)
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: AgentSessionQuerySet) -> AgentSessionQuerySet:  # type: ignore[override]
        chosen = self._chosen()
        return queryset.filter(agent=chosen) if chosen else queryset

    def _chosen(self) -> str:
        # PostgreSQL refuses NUL in a parameter with an error.
        return (self.value() or "").replace("\0", "")


class WorkerFilter(admin.SimpleListFilter):
    """Workers that run, the newest of the others, and the one in the URL."""

    title = _("worker")
    parameter_name = "worker"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[AgentSession]) -> list[tuple[str, _StrOrPromise]]:
        running = Worker.objects.running().order_by("-started_at")[:_RECENT_WORKERS]
        stopped = Worker.objects.filter(state=WorkerState.STOPPED).order_by("-started_at")[:_RECENT_WORKERS]
        choices = {str(worker.pk): self._name(worker) for worker in [*running, *stopped]}
        chosen = self._chosen()
        if chosen and str(chosen) not in choices:
            choices |= {str(worker.pk): self._name(worker) for worker in Worker.objects.filter(pk=chosen)}
        return [*choices.items(), ("none", _("None took it"))]

    def queryset(self, request: HttpRequest, queryset: AgentSessionQuerySet) -> AgentSessionQuerySet:  # type: ignore[override]
        if self.value() is None:
            return queryset
        if self.value() == "none":
            return queryset.filter(worker__isnull=True)
        chosen = self._chosen()
        return queryset.filter(worker=chosen) if chosen else queryset.none()

    def _chosen(self) -> uuid.UUID | None:
        return parse_uuid(self.value() or "")

    @staticmethod
    def _name(worker: Worker) -> str:
        return f"{worker} ({worker.get_state_display()})"


def parse_uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text.strip())
    except ValueError:
        return None


def search(queryset: AgentSessionQuerySet, term: str) -> AgentSessionQuerySet:
    """Sessions whose call matches all of ``term``, spaces included, or whose id it is.

    ``type/part of an id`` finds a call as the list writes it.
    """
    term = term.strip()
    if not term:
        return queryset
    if (key := parse_uuid(term)) is not None:  # a call's id often is one too
        return queryset.filter(Q(pk=key) | Q(call_id=term))
    found = Q(call_id__icontains=term) | Q(call_type__icontains=term)
    kind, slash, name = term.partition("/")
    if slash:
        found |= Q(call_type=kind, call_id__icontains=name)
    return queryset.filter(found)
