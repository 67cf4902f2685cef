"""The lean mount: the API straight on ASGI, without the host's middleware, request signals or a thread per request.

A read from memory costs the event loop, which carries the audio of every call, a tenth of what it costs through
Django's handler. It serves exactly the paths that ``include("visionagents_runner.urls")`` serves; the docs page and
everything else are Django's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import aclosing
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeAlias

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest, get_script_prefix
from django.http import HttpResponse, QueryDict, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix
from django.utils.http import parse_header_parameters

from ..api.bodies import check_length, check_query, too_large, unreadable
from ..api.errors import error_response, json_response
from ..api.factory import RunnerAPI, api_of
from ..conf.settings import foreign_middleware, get_settings
from ..utils.paths import encode_path
from .middleware import MATCH, APIMiddleware
from .prefixes import UUID_LENGTH, included_prefixes, is_ours

if TYPE_CHECKING:
    from ..registry import AgentRegistry
    from ..utils.paths import Match

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_WORTH_KEEPING_BYTES = 64 * 1024


def lean_api(runner: AgentRegistry) -> LeanAPI | None:
    """Return the lean mount of ``runner``, or None where the API is served through Django alone.

    That is where the setting says so, or leaves it to the middleware and there is some that is not Django's; and for
    ``ServeOptions(api=...)``, a NinjaAPI of the project's own that may rely on middleware.
    """
    if runner.options.api is not None:
        return None
    wanted = get_settings().LEAN_API
    if wanted == "auto":
        wanted = not foreign_middleware()
    return LeanAPI(runner) if wanted else None


class LeanAPI:
    """An ASGI application for the API's paths of a project's URLconf.

    Args:
        prefixes: Paths under which it answers, such as ``"/agents/"``; found in the URLconf if None.
    """

    def __init__(self, runner: AgentRegistry, *, prefixes: Iterable[str] | None = None) -> None:
        api = api_of(runner)
        if not isinstance(api, RunnerAPI):
            raise TypeError("The lean mount serves the default API; one given by ServeOptions(api=...) needs Django")
        self._api: RunnerAPI = api
        self._given = None if prefixes is None else tuple(prefixes)
        self._chain = APIMiddleware(get_settings().API_MIDDLEWARE, api) if get_settings().API_MIDDLEWARE else None
        self._app: ASGIApp = self._serve
        if runner.options.cors_allow_origins:
            self._app = _cors(self._serve, runner)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if MATCH not in scope and not self.matches(scope):
            await _send_response(send, self._not_found())
            return
        await self._app(scope, receive, send)

    def matches(self, scope: Scope) -> bool:
        """Whether this request is for the API. It leaves a note in the scope, so that nobody looks twice."""
        match = self._match(scope)
        if match is None:
            return False
        scope[MATCH] = match
        return True

    # Paths

    def _match(self, scope: Scope) -> Match | None:
        raw = scope.get("raw_path")
        if raw is None:
            raw = encode_path(scope["path"])
        raw = raw.partition(b"?")[0]
        script = settings.FORCE_SCRIPT_NAME or scope.get("root_path")
        if script:
            raw = raw.removeprefix(script.encode())
        for prefix, routes in self._mounts:
            if raw.startswith(prefix):
                match = self._api.matcher.match(raw[len(prefix) :])
                if match is not None and match.route in routes and _is_certain(match):
                    return None if _wants_redirect(scope) else match
        return None

    @cached_property
    def _mounts(self) -> list[tuple[bytes, frozenset[str]]]:
        """Encoded prefixes, each with the routes that Django would give to this API."""
        routes = frozenset(self._api.matcher.routes)
        if self._given is not None:
            return [(encode_path(prefix), routes) for prefix in self._given]
        found = {
            prefix: frozenset(route for route in routes if is_ours(prefix, route)) for prefix in included_prefixes()
        }
        return [(encode_path("/" + prefix), ours) for prefix, ours in found.items() if ours]

    # Answering

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        match: Match = scope[MATCH]
        request = LeanRequest(scope, None if scope["method"] in _BODILESS else receive)
        try:
            request.check()
            if self._chain is not None or match.route not in self._api.own_routes:
                await request.receive_body()  # others look at it without waiting for it
            if request.script_name:
                set_script_prefix(request.script_name)
            if self._chain is None:
                response: HttpResponseBase = await self._api.respond(request, match)
            else:
                response = await self._chain.respond(request, match)
        except Exception as error:
            response = error_response(request, error)
        if request.broken_off:
            return
        if request.leaves_much:
            response["Connection"] = "close"
        await _send_response(send, response, head=request.method == "HEAD")

    @staticmethod
    def _not_found() -> HttpResponse:
        return json_response({"detail": "Not Found"}, 404)


class LeanRequest(ASGIRequest):
    """Django's request, which makes its META, its headers and all that comes from them only when somebody looks.

    Its body is received when somebody asks for that too: until then `body` is empty.
    """

    _body: bytes

    def __init__(self, scope: Scope, receive: Receive | None = None) -> None:
        self.broken_off = False
        """Whether the client went away while it sent the body: there is nobody to answer."""
        self._receive = receive
        self.scope = scope
        self.method = scope["method"].upper()
        self.path = scope["path"]
        self.script_name = get_script_prefix(scope)
        self.path_info = self.path.removeprefix(self.script_name) if self.script_name else self.path
        self.resolver_match = None
        self._post_parse_error = False
        self._read_started = False
        self._body = b""

    def check(self) -> None:
        """Refuse what Django's handler and its common middleware would refuse, and what is too large by its own words.

        Raises:
            DisallowedHost: the Host is not in ALLOWED_HOSTS.
            APIError: 400, the query string is not UTF-8; 413; 414.
        """
        self.get_host()
        if self._receive is not None:
            check_length(self._header(b"content-length"))
        query = self.scope.get("query_string", b"")
        if query:
            check_query(query)

    async def receive_body(self) -> None:
        """Receive the body, unless that was done.

        Raises:
            APIError: 413, as soon as it is known to be too large; 400 if it broke off.
        """
        if self._receive is None:
            return

        receive, self._receive = self._receive, None
        limit = get_settings().MAX_BODY_BYTES
        pieces = bytearray()  # of many each may be a byte, and take forty times that if it were kept apart
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.broken_off = True
                raise unreadable()
            piece: bytes = message.get("body", b"")
            if len(pieces) + len(piece) > limit:
                raise too_large(limit)
            if not message.get("more_body", False):
                self._body = bytes(pieces + piece) if pieces else piece
                return
            pieces += piece

    @property
    def leaves_much(self) -> bool:
        """Whether more of the body may still come than is worth keeping the connection for."""
        if self._receive is None:
            return False
        declared = self._header(b"content-length")
        if declared is None:
            return self._header(b"transfer-encoding") is not None
        return not (declared.isascii() and declared.isdigit()) or int(declared[:9]) > _WORTH_KEEPING_BYTES

    def _header(self, name: bytes) -> str | None:
        return next((value.decode("latin1") for each, value in self.scope["headers"] if each == name), None)

    def _get_raw_host(self) -> str:
        if not settings.USE_X_FORWARDED_HOST:
            hosts = [value for name, value in self.scope["headers"] if name == b"host"]
            if len(hosts) == 1:
                return str(hosts[0], "latin1")
        return str(super()._get_raw_host())  # type: ignore[misc]

    @cached_property
    def META(self) -> dict[str, Any]:  # type: ignore[override]
        meta = ASGIRequest(self.scope, BytesIO()).META
        self._set_content_type_params(meta)  # type: ignore[attr-defined]
        return meta

    @cached_property
    def content_type(self) -> str:  # type: ignore[override]
        return parse_header_parameters(self.META.get("CONTENT_TYPE", ""))[0]

    @cached_property
    def content_params(self) -> dict[str, str]:  # type: ignore[override]
        return parse_header_parameters(self.META.get("CONTENT_TYPE", ""))[1]

    @cached_property
    def GET(self) -> QueryDict:  # type: ignore[override]
        return QueryDict(self.scope.get("query_string", b""))

    @cached_property
    def _stream(self) -> BytesIO:  # type: ignore[override]
        return BytesIO(self._body)


def _cors(app: ASGIApp, runner: AgentRegistry) -> ASGIApp:
    from starlette.middleware.cors import CORSMiddleware
    from starlette.responses import JSONResponse, Response

    class JSONCORSMiddleware(CORSMiddleware):
        def preflight_response(self, request_headers: Any) -> Response:
            response = super().preflight_response(request_headers)
            if response.status_code == 200:
                return response
            headers = {k: v for k, v in response.headers.items() if k not in {"content-length", "content-type"}}
            return JSONResponse({"detail": bytes(response.body).decode()}, response.status_code, headers)

    options = runner.options
    return JSONCORSMiddleware(
        app,
        allow_origins=list(options.cors_allow_origins),
        allow_methods=list(options.cors_allow_methods),
        allow_headers=list(options.cors_allow_headers),
        allow_credentials=options.cors_allow_credentials,
        expose_headers=["Retry-After"],
    )


async def _send_response(send: Send, response: HttpResponseBase, *, head: bool = False) -> None:
    headers = [(name.encode("ascii"), value.encode("latin1")) for name, value in response.items()]
    headers += [(b"Set-Cookie", cookie.OutputString().encode("ascii")) for cookie in response.cookies.values()]
    if not response.has_header("X-Content-Type-Options"):
        headers.append((b"X-Content-Type-Options", b"nosniff"))
    if isinstance(response, HttpResponse):
        body = response.content
        if not response.has_header("Content-Length"):
            headers.append((b"Content-Length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else body})
        return
    assert isinstance(response, StreamingHttpResponse)
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    async with aclosing(aiter(response)) as parts:  # type: ignore[type-var]
        async for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _is_certain(match: Match) -> bool:
    """Whether the project can have meant no page of its own: one beside the API may be called ``sessions/archive/``."""
    return match.route != "sessions/{session_id}" or len(match.parameters["session_id"]) == UUID_LENGTH


def _wants_redirect(scope: Scope) -> bool:
    """Whether Django's SecurityMiddleware would send this request to HTTPS."""
    return bool(settings.SECURE_SSL_REDIRECT) and not LeanRequest(scope).is_secure()
