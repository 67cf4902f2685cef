"""The project's URLs, and some by which a worker is asked what only a test asks for."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections import Counter
from datetime import timedelta

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt


async def held(request: HttpRequest) -> JsonResponse:
    """Return how many tasks this process holds, after a collection, by what their names begin with."""
    gc.collect()
    names = Counter(task.get_name().rpartition("-")[0] or task.get_name() for task in asyncio.all_tasks())
    return JsonResponse({"tasks": sum(names.values()), "names": dict(names.most_common(20))})


async def clocks(request: HttpRequest) -> JsonResponse:
    """Return what time it is to this process."""
    return JsonResponse({"wall": time.time(), "boot": time.clock_gettime(time.CLOCK_BOOTTIME)})


def slow(request: HttpRequest) -> HttpResponse:
    """Hold a connection of the project's for ``seconds``."""
    from .agents import hold_a_connection

    hold_a_connection(float(request.GET["seconds"]))
    return HttpResponse()


@csrf_exempt
async def dispatch(request: HttpRequest) -> JsonResponse:
    """Queue a session, as a project's code does; its body is that of ``POST /sessions``, with intervals in seconds."""
    from visionagents_runner.models import AgentSession

    options = json.loads(request.body)
    for name in {"at", "expires_at"} & set(options):
        options[name] = timedelta(seconds=options[name])
    session = await AgentSession.objects.adispatch(**options)
    return JsonResponse({"session_id": str(session.pk)}, status=201)


urlpatterns = [
    path("held/", held),
    path("clocks/", clocks),
    path("slow/", slow),
    path("dispatch/", dispatch),
    path("", include("project.urls")),
]
