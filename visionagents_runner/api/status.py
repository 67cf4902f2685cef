"""``/health``, ``/ready`` and ``/metrics``: of this process, from memory, without a database.

Only what Prometheus reads holds numbers of the whole cluster, which come from there: it does without, when it must.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Router

from ..auth.permissions import Action, authorize
from ..registry import AgentRegistry
from ..sessions.session import LiveSession
from ..worker.current import current_worker
from ..worker.worker import AgentWorker
from .errors import NOT_READY, APIError, answer, json_response
from .operations import operation, runner_of
from .schemas import Error, Health, Metrics, Ready

router = Router(tags=["status"])

_OPENMETRICS = "application/openmetrics-text"
_MAX_RANGES = 32
_MAX_PARAMETERS = 8


@operation(router, "GET", "/health", answers={200: (Health, "The process lives.")}, summary="Liveness")
async def health(request: HttpRequest) -> HttpResponse:
    """Public. Answers while the process lives, whether it takes sessions or not."""
    worker = current_worker()
    return json_response(
        {
            "status": "healthy",
            "warmed_up": worker is not None and worker.warmed_up,
            "running": worker is not None and worker.running,
        }
    )


@operation(
    router,
    "GET",
    "/ready",
    answers={200: (Ready, "It takes new sessions."), 503: (Error, "It warms up, drains or has stopped.")},
    summary="Readiness",
)
async def ready(request: HttpRequest) -> HttpResponse:
    """Public. For load balancers: whether new sessions should come here."""
    worker = current_worker()
    if worker is None:
        raise APIError(503, NOT_READY, headers={"Retry-After": "5"})
    if (reason := worker.not_ready_reason()) is not None:
        raise APIError(503, NOT_READY, headers={"Retry-After": str(reason.retry_after)})
    return json_response({"status": "ready"})


@operation(
    router,
    "GET",
    "/metrics",
    answers={200: (Metrics, "JSON, or the Prometheus exposition to a client that prefers text.")},
    errors=(401, 403),
    texts={"text/plain": "Prometheus' text format.", _OPENMETRICS: "OpenMetrics."},
    summary="Metrics of this worker",
)
async def metrics(request: HttpRequest) -> HttpResponse:
    """JSON unless `Accept` prefers `text/plain` or `application/openmetrics-text`, as Prometheus does."""
    runner = runner_of(request)
    await authorize(request, runner, Action.METRICS)
    worker = current_worker()
    numbers = _measure(runner, worker)
    kind = preferred_type(request.headers.get("Accept", ""))
    if kind == "application/json":
        response = json_response(numbers)
    else:
        from .prometheus import OPENMETRICS, TEXT, expose

        openmetrics = kind == _OPENMETRICS
        body = await expose(numbers, worker, openmetrics=openmetrics)
        response = answer(body, OPENMETRICS if openmetrics else TEXT)
    response["Vary"] = "Accept"
    return response


def _measure(runner: AgentRegistry, worker: AgentWorker | None) -> dict[str, Any]:
    """Return `schemas.Metrics`."""
    agents = {}
    for name, launcher in runner.launchers.items():
        sessions: list[LiveSession] = list(launcher.sessions.values())
        agents[name] = {
            "active_sessions": len(sessions),
            "sessions_by_status": dict(Counter(str(session.status) for session in sessions)),
            "total_sessions_started": launcher.total_started,
            "max_concurrent_sessions": launcher.max_concurrent_sessions,
            "warmed_up": launcher.warmed_up,
        }
    return {
        "active_sessions": sum(agent["active_sessions"] for agent in agents.values()),
        "total_sessions_started": sum(agent["total_sessions_started"] for agent in agents.values()),
        "warmed_up": worker is not None and worker.warmed_up,
        "running": worker is not None and worker.running,
        "draining": worker is not None and (worker.draining or worker.cordoned),
        "agents": agents,
    }


def preferred_type(accept: str, others: tuple[str, ...] = ("text/plain", _OPENMETRICS)) -> str:
    """Return which of application/json and ``others`` an Accept header prefers; JSON if it is alike.

    What it names after the first 32 does not count.
    """
    offered = dict.fromkeys(("application/json", *others), -1.0)
    precision = dict.fromkeys(offered, -1)
    for item in accept.split(",", _MAX_RANGES)[:_MAX_RANGES]:
        kind, *parameters = (part.strip().lower() for part in item.split(";", _MAX_PARAMETERS))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        for candidate in offered:
            ranges = ("*/*", candidate.partition("/")[0] + "/*", candidate)
            if kind in ranges and ranges.index(kind) >= precision[candidate]:
                precision[candidate] = ranges.index(kind)
                offered[candidate] = quality
    best = max(offered, key=lambda candidate: offered[candidate])
    return best if offered[best] > 0 else "application/json"
