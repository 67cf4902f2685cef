"""The project's URLs, and some by which a worker is asked what only a test asks for."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter

from django.http import HttpRequest, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt


async def held(request: HttpRequest) -> JsonResponse:
    """Return how many tasks this process holds, after a collection, by what their names begin with."""
    gc.collect()
    names = Counter(task.get_name().rpartition("-")[0] or task.get_name() for task in asyncio.all_tasks())
    return JsonResponse({"tasks": sum(names.values()), "names": dict(names.most_common(20))})


@csrf_exempt
async def dispatch(request: HttpRequest) -> JsonResponse:
    """Queue a session, as a project's code does; its body is that of ``POST /sessions``."""
    from visionagents_runner.models import AgentSession

    session = await AgentSession.objects.adispatch(**json.loads(request.body))
    return JsonResponse({"session_id": str(session.pk)}, status=201)


urlpatterns = [
    path("held/", held),
    path("dispatch/", dispatch),
    path("", include("project.urls")),
]
