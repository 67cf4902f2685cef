"""The REST API and the call page for ``path("agents/", include("visionagents_runner.urls"))``, under any prefix and
namespace.

Loading it imports neither the runner nor the API: system checks load every URLconf, and ``manage.py migrate`` runs
them. What a path names is decided by its raw form (see `utils.paths`); the patterns here only say which paths are ours.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, URLPattern, URLResolver, path, register_converter
from django.urls.converters import StringConverter
from django.urls.resolvers import RegexPattern

from . import views
from .auth import local_token
from .conf.settings import get_settings
from .exceptions import RunnerConfigurationError

app_name = "visionagents_runner"


class _AnythingConverter(StringConverter):
    """The rest of a path, newlines included: whether they may be there is not for the URLconf to say."""

    regex = r"(?s:.+)"


register_converter(_AnythingConverter, "visionagents_rest")


def _view(prefix: str) -> Any:
    async def view(request: HttpRequest, rest: str = "", **of_the_mount: Any) -> HttpResponse:
        from .api.mount import serve

        return await serve(request, prefix + rest)

    # The API checks Origin itself where a cookie counts; it must neither redirect to a login page nor run in a
    # transaction, which async views cannot.
    view.csrf_exempt = True  # type: ignore[attr-defined]
    view.login_required = False  # type: ignore[attr-defined]
    view._non_atomic_requests = set(settings.DATABASES)  # type: ignore[attr-defined]
    return view


class CustomAPIResolver(URLResolver):
    """The urls of ``ServeOptions(api=...)``, where the runner has that.

    It imports the runner when a request asks for a path that nothing else answered, and not before: not for system
    checks, nor for `reverse` in a process that runs no agents.
    """

    def __init__(self) -> None:
        super().__init__(RegexPattern(r"^"), [])

    @property
    def url_patterns(self) -> list[URLPattern | URLResolver]:
        try:
            return _custom_patterns() if _runner_is_loaded() else []
        except RunnerConfigurationError:
            return []

    def resolve(self, path: str) -> Any:
        try:
            patterns = _custom_patterns()
        except RunnerConfigurationError:
            patterns = []
        for pattern in patterns:
            try:
                if (found := pattern.resolve(path)) is not None:
                    return found
            except Resolver404:
                continue
        raise Resolver404({"tried": [], "path": path})


def _custom_patterns() -> list[URLPattern | URLResolver]:
    from .registry import get_runner

    api = get_runner().options.api
    return [] if api is None else _patterns_of(api)


@lru_cache(maxsize=8)
def _patterns_of(api: Any) -> list[URLPattern | URLResolver]:
    return [path("", api.urls)]


def _runner_is_loaded() -> bool:
    return get_settings().RUNNER.rpartition(".")[0] in sys.modules


_names = ("sessions", "health", "ready", "metrics", "docs", "openapi.json")

urlpatterns: list[URLPattern | URLResolver] = [
    *(path(name, _view(name), name=name.replace(".", "-")) for name in _names),
    *(path(f"{name}/", _view(f"{name}/")) for name in _names if name != "openapi.json"),
    path("sessions/<visionagents_rest:rest>", _view("sessions/"), name="session"),
    path("calls/<visionagents_rest:rest>", _view("calls/"), name="calls"),
    path("call/", views.new_call, name="new-call"),
    path("call/<str:call_type>/<str:call_id>/", views.call, name="call"),
    path("call/<visionagents_rest:rest>", views.call),
    path(local_token.PAGE, local_token.local_access, name="local-access"),
    CustomAPIResolver(),
]
