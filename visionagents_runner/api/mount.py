"""The views of ``include("visionagents_runner.urls")``: the API under the host's middleware."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any
from weakref import WeakSet

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import NoReverseMatch, URLResolver, reverse
from django.urls.resolvers import RegexPattern
from ninja import NinjaAPI

from ..registry import get_runner
from ..utils.paths import Match, raw_suffix, scope_of
from .bodies import check_length, check_query
from .docs import DOCS, OPENAPI, LocalSwagger, openapi_schema
from .errors import error_response, json_response
from .factory import RunnerAPI, api_of


async def serve(request: HttpRequest, path: str) -> HttpResponse:
    """Answer a request for ``path``, which is decoded and without the prefix of the mount."""
    try:
        api = api_of(get_runner())
        if not isinstance(api, RunnerAPI):
            return await serve_custom(request, api, path)
        request.get_host()  # refuses what is not in ALLOWED_HOSTS, whether the host has CommonMiddleware or not
        check_length(request.META.get("CONTENT_LENGTH"))
        check_query(request.META.get("QUERY_STRING", "").encode("utf-8", "surrogateescape"))
        if path == OPENAPI:
            return await openapi_schema(request, api.schema)
        if path.rstrip("/") == DOCS:
            return LocalSwagger().render_page(request, api)
        match = find_match(request, api, path)
        if match is None:
            return json_response({"detail": "Not Found"}, 404)
        return await api.respond(request, match)
    except Http404:
        raise
    except Exception as error:
        return error_response(request, error)


def find_match(request: HttpRequest, api: RunnerAPI, path: str) -> Match | None:
    scope = scope_of(request)
    raw = None if scope is None else raw_suffix(scope, path)
    return api.matcher.match_decoded(path) if raw is None else api.matcher.match(raw)


async def serve_custom(request: HttpRequest, api: NinjaAPI, path: str) -> HttpResponse:
    """Answer with the project's own NinjaAPI, which replaces ours whole.

    Raises:
        Http404: it has no such path.
    """
    _make_reversible(request, api)
    view, args, kwargs = custom_resolver(api).resolve(path)
    answer: Callable[..., Any] = view if iscoroutinefunction(view) else sync_to_async(view)
    response: HttpResponse = await answer(request, *args, **kwargs)
    return response


def _make_reversible(request: HttpRequest, api: NinjaAPI) -> None:
    """Name the namespaces that ``api`` is in, which its docs page and schema need, if its author did not."""
    if api in _reversible:
        return
    _reversible.add(api)
    try:
        reverse(f"{api.urls_namespace}:api-root")
    except NoReverseMatch:
        around = request.resolver_match.namespaces if request.resolver_match is not None else []
        api.urls_namespace = ":".join([*around, api.urls_namespace.rpartition(":")[2]])


_reversible: WeakSet[NinjaAPI] = WeakSet()


@lru_cache(maxsize=8)
def custom_resolver(api: NinjaAPI) -> URLResolver:
    return URLResolver(RegexPattern(r"^"), api.urls[0])
