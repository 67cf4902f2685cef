"""The project's one page."""

from __future__ import annotations

from typing import Any

from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from visionagents_runner.models import AgentSession
from visionagents_runner.utils.page_headers import guard, page_policy

SESSIONS_SHOWN = 5


def home(request: HttpRequest) -> HttpResponse:
    """Show the agents with their limits and how many are live, how to talk to one, and where the rest is.

    It tells no call ids but those of sessions that the visitor started. Of somebody who is signed in, the database
    knows which these are, on any of their devices; others on this machine have no name there, so their browser keeps
    the ids, and the page's script asks the API about each.
    """
    from visionagents_runner import demo
    from visionagents_runner.registry import get_runner  # here: `manage.py check` loads every URLconf, and its views

    counts = AgentSession.objects.live().order_by().values_list("agent").annotate(Count("pk"))
    live: dict[str, int] = dict(counts)
    agents = [
        {
            "name": name,
            "line": launcher.description,
            "limit": launcher.max_concurrent_sessions,
            "live": live.get(name, 0),
        }
        for name, launcher in get_runner().launchers.items()
    ]
    context = {
        "agents": agents,
        "address": request.build_absolute_uri("/")[:-1],
        "sessions": _sessions_of(request.user),
        "voice_hint": getattr(demo, "voice_hint", str)(),
    }
    response = render(request, "project/home.html", context)
    guard(response, page_policy())
    return response


def _sessions_of(user: Any) -> list[AgentSession]:
    if not user.is_authenticated:
        return []
    fields = ("id", "call_id", "call_type", "agent", "status", "end_reason", "created_at", "ended_at")
    return list(AgentSession.objects.filter(started_by=user).only(*fields).order_by("-created_at")[:SESSIONS_SHOWN])
