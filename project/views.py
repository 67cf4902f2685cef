"""The project's one page."""

from __future__ import annotations

from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from visionagents_runner.models import AgentSession


def home(request: HttpRequest) -> HttpResponse:
    """Show the agents with their limits and how many are live, how to start one, and where the rest is.

    It tells no call ids: those are for people who may view sessions.
    """
    from visionagents_runner.runner import get_runner  # here: `manage.py check` loads every URLconf, and its views

    counts = AgentSession.objects.live().order_by().values_list("agent").annotate(Count("pk"))
    live: dict[str, int] = dict(counts)
    agents = [
        {"name": name, "limit": launcher.max_concurrent_sessions, "live": live.get(name, 0)}
        for name, launcher in get_runner().launchers.items()
    ]
    return render(request, "project/home.html", {"agents": agents, "address": request.build_absolute_uri("/")[:-1]})
