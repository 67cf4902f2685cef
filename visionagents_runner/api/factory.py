"""The NinjaAPI of a runner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from copy import deepcopy
from functools import cached_property, partial
from typing import Any, cast

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema

from .. import __version__
from ..registry import AgentRegistry
from ..telemetry.correlation import clean_request_id, correlate, uncorrelate
from ..utils.paths import Match, Matcher, scope_of
from .calls import router as calls_router
from .docs import LocalSwagger, Schema, openapi_schema
from .errors import error_response, json_response, register_error_handlers
from .history import router as history_router
from .invitations import router as invitations_router
from .operations import bind, own_routes
from .schemas import NAME
from .sessions import router as sessions_router
from .speak import router as speak_router
from .status import router as status_router

View = Callable[..., Awaitable[HttpResponse]]

REQUEST_ID = "X-Request-ID"

_DESCRIPTION = """Starts, shows and closes voice and video agents.

`/sessions` are the routes of the documented Runner, `/calls` those of vision-agents 0.6.9, whose clients work
unchanged. Errors are always `{"detail": ...}`. Ids in a path are one percent-encoded segment. Times are UTC.
"""
_SECURITY = {
    "session": "The cookie of a user who is signed in to Django. Requests that change something need an Origin header "
    "that is this server's, or one that the server lists.",
    "key": "An API key, `va_<prefix>_<secret>`, made in the admin or by `manage.py createagentkey`.",
}
_IDS = {
    "call_id": (NAME, "The call: any text without control characters. In a path it is one percent-encoded segment."),
    "session_id": ({}, "The session's id, a UUID."),
}


def api_of(runner: AgentRegistry) -> NinjaAPI:
    """Return the one API of ``runner``: its own, if ``ServeOptions(api=...)`` names one, else the default."""
    if runner.options.api is not None:
        return runner.options.api
    return runner.own(create_api)


def create_api(runner: AgentRegistry) -> RunnerAPI:
    """Return a new default API, bound to ``runner``."""
    return RunnerAPI(runner)


class RunnerAPI(NinjaAPI):
    def __init__(self, runner: AgentRegistry) -> None:
        super().__init__(
            title="Voice and video agents",
            version=__version__,
            description=_DESCRIPTION,
            urls_namespace="visionagents_runner_api",
            docs=LocalSwagger(),
        )
        self.schema = Schema(self)
        self._agents = list(runner.launchers)
        self.add_router("", sessions_router)
        self.add_router("", invitations_router)
        self.add_router("", history_router)
        self.add_router("", speak_router)
        self.add_router("", calls_router)
        self.add_router("", status_router)
        register_error_handlers(self)
        bind(self, runner)

    def _get_urls(self) -> list[Any]:
        # For projects that mount `runner.api.urls` themselves.
        patterns: list[Any] = super()._get_urls()
        for pattern in patterns:
            if pattern.name == "openapi-json":
                pattern.callback = partial(openapi_schema, schema=self.schema)
            mark(pattern.callback)
        return patterns

    def get_openapi_schema(
        self, *, path_prefix: str | None = None, path_params: dict[str, Any] | None = None
    ) -> OpenAPISchema:
        schema = super().get_openapi_schema(path_prefix=path_prefix, path_params=path_params)
        schema["components"]["securitySchemes"] = {
            "session": {
                "type": "apiKey",
                "in": "cookie",
                "name": settings.SESSION_COOKIE_NAME,
                "description": _SECURITY["session"],
            },
            "key": {"type": "http", "scheme": "bearer", "description": _SECURITY["key"]},
        }
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation["parameters"] = [_documented(parameter) for parameter in operation["parameters"]]
                if "requestBody" in operation:
                    operation["requestBody"] = self._with_agents(operation["requestBody"])
                if 401 in operation["responses"]:
                    # The empty one: a local request, or a server whose own rule lets it in.
                    operation["security"] = [{"key": []}, {"session": []}, {}]
        return schema

    def _with_agents(self, body: dict[str, Any]) -> dict[str, Any]:
        body = deepcopy(body)  # the original is every API's
        properties = body["content"]["application/json"]["schema"]["properties"]
        if "agent" in properties:
            description = properties["agent"]["description"]
            properties["agent"] = {"enum": [*self._agents, None], "default": None, "description": description}
        return body

    @cached_property
    def _views(self) -> dict[str, View]:
        """The view of each route, by the route."""
        views: dict[str, View] = {}
        patterns: list[Any] = self.urls[0]
        for pattern in patterns:
            route = str(pattern.pattern).replace("<", "{").replace(">", "}")
            if pattern.name not in {"openapi-json", "openapi-view", "api-root"}:
                views[route.strip("/")] = pattern.callback
        return views

    @cached_property
    def matcher(self) -> Matcher:
        return Matcher(self._views)

    @cached_property
    def own_routes(self) -> frozenset[str]:
        return own_routes()

    def view_of(self, match: Match) -> View:
        return self._views[match.route]

    async def respond(self, request: HttpRequest, match: Match) -> HttpResponse:
        """Return the answer; whatever happens, there is one."""
        request_id = clean_request_id(_given_request_id(request))
        token = correlate(request_id=request_id)
        try:
            response = await self._views[match.route](request, **match.parameters)
        except Exception as error:
            response = error_response(request, error)
        finally:
            uncorrelate(token)
        if response.status_code == 405:
            allowed = ", ".join(sorted(set(response["Allow"].split(", "))))
            response = json_response({"detail": f"{request.method} is not allowed here"}, 405, {"Allow": allowed})
        response[REQUEST_ID] = request_id
        return response


def _given_request_id(request: HttpRequest) -> str | None:
    scope = scope_of(request)
    if scope is None:
        return request.headers.get(REQUEST_ID)
    # From the scope: a request of the lean mount makes its headers only when somebody looks.
    for name, value in cast("Iterable[tuple[bytes, bytes]]", scope["headers"]):
        if name == b"x-request-id":
            return value.decode("latin1")
    return None


def _documented(parameter: dict[str, Any]) -> dict[str, Any]:
    """Say what ids may hold, and that a filter is left out rather than null."""
    schema = parameter["schema"]
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        schema = {**kinds[0], **{key: value for key, value in schema.items() if key != "anyOf"}}
    if parameter["name"] in _IDS:
        more, text = _IDS[parameter["name"]]
        return {**parameter, "schema": {**schema, **more}, "description": text}
    return {**parameter, "schema": schema}


def mark(view: Any) -> None:
    """Keep the host's middleware from treating a view of the API as a page."""
    view.csrf_exempt = True  # the Origin is checked where a cookie counts
    view.login_required = False  # LoginRequiredMiddleware would redirect
    # ATOMIC_REQUESTS would make async views fail, on any of the databases.
    view._non_atomic_requests = set(settings.DATABASES)
