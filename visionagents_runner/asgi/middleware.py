"""The middleware that the lean mount runs around the API: API_MIDDLEWARE."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from asgiref.sync import ThreadSensitiveContext, iscoroutinefunction
from django.core.exceptions import ImproperlyConfigured, MiddlewareNotUsed
from django.core.handlers.base import BaseHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string

from ..api.errors import error_response

if TYPE_CHECKING:
    from ..api.factory import RunnerAPI
    from ..utils.paths import Match

MATCH = "visionagents_runner.match"
"""Key of a scope under which the mount leaves the route that it found."""


class APIMiddleware(BaseHandler):
    """The middleware of API_MIDDLEWARE, outermost first, around the views; adapted between sync and async as Django
    does it. Their ``process_view`` runs; ``process_exception`` does not, since views of the API raise nothing.
    """

    def __init__(self, paths: Sequence[str], api: RunnerAPI) -> None:
        super().__init__()
        self._api = api
        self._before_view: list[Callable[..., Awaitable[HttpResponseBase | None]]] = []
        self._threads = False
        handler: Any = self._view
        is_async = True
        for path in reversed(paths):
            handler, is_async = self._wrap(path, handler, is_async)
        self._handler: Callable[[HttpRequest], Awaitable[HttpResponseBase]] = self._adapt(True, handler, is_async)

    async def respond(self, request: HttpRequest, match: Match) -> HttpResponseBase:
        if not self._threads:
            return await self._handler(request)
        # Sync middleware of one request must not wait for that of another.
        async with ThreadSensitiveContext():
            return await self._handler(request)

    async def _view(self, request: Any) -> HttpResponseBase:
        match: Match = request.scope[MATCH]
        view = self._api.view_of(match)
        for process_view in self._before_view:
            response = await process_view(request, view, (), dict(match.parameters))
            if response is not None:
                return response
        return await self._api.respond(request, match)

    def _wrap(self, path: str, handler: Any, handler_is_async: bool) -> tuple[Any, bool]:
        try:
            factory = import_string(path)
        except ImportError as error:
            raise ImproperlyConfigured(f"API_MIDDLEWARE names {path}, which cannot be imported: {error}") from error
        can_sync = getattr(factory, "sync_capable", True)
        can_async = getattr(factory, "async_capable", False)
        if not can_sync and not can_async:
            raise ImproperlyConfigured(f"{path} must be capable of sync or of async")
        is_async = can_async and (handler_is_async or not can_sync)
        adapted = self._adapt(is_async, handler, handler_is_async)
        try:
            middleware = factory(adapted)
        except MiddlewareNotUsed:
            return handler, handler_is_async
        if middleware is None:
            raise ImproperlyConfigured(f"The middleware factory {path} returned None")
        if hasattr(middleware, "process_view"):
            self._before_view.insert(0, self._adapt(True, middleware.process_view))
        return _answering(middleware, is_async), is_async

    def _adapt(self, to_async: bool, method: Any, is_async: bool | None = None) -> Any:
        if is_async is None:
            is_async = iscoroutinefunction(method)
        if to_async != is_async:
            self._threads = True
        return self.adapt_method_mode(to_async, method, is_async)


def _answering(middleware: Any, is_async: bool) -> Any:
    """Have ``middleware`` answer what it raises, in JSON."""
    if is_async:

        async def answer_async(request: HttpRequest) -> HttpResponseBase:
            try:
                return await middleware(request)  # type: ignore[no-any-return]
            except Exception as error:
                return error_response(request, error)

        return answer_async

    def answer(request: HttpRequest) -> HttpResponseBase:
        try:
            return middleware(request)  # type: ignore[no-any-return]
        except Exception as error:
            return error_response(request, error)

    return answer
