"""Every error of the API is JSON ``{"detail": ...}``; no traceback ever leaves through it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

from django.core.exceptions import (
    DisallowedHost,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
    TooManyFieldsSent,
)
from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from ..exceptions import (
    AgentNotFound,
    CallHidden,
    InvalidInput,
    MaxConcurrentSessionsExceeded,
    MaxSessionsPerCallExceeded,
    NotReady,
    RunnerConfigurationError,
    SessionLimitExceeded,
    StartDrained,
    StartFailed,
    StartTimeout,
    TooMany,
)
from ..store.errors import DATABASE_ERRORS
from ..utils.page_headers import NO_PAGE
from ..utils.text import well_formed

P = ParamSpec("P")

logger = logging.getLogger(__name__)

RETRY_AFTER_LIMIT_SECONDS = 5
RETRY_AFTER_TIMEOUT_SECONDS = 10

_MISCONFIGURED = "The runner of this server is not configured rightly; the server's log says what is missing"
_NO_DATABASE = "The database does not answer"
NOT_READY = "Server is not ready to accept requests"

encode_json: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":")).encode


def written(make: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> bytes:
    """Return what ``make`` returns, as JSON: for a thread, where there is much to write."""
    return encode_json(make(*args, **kwargs)).encode()


class APIError(HttpError):
    """An answer other than success; ``extra`` are further keys beside ``detail``."""

    def __init__(
        self, status_code: int, detail: Any, *, headers: Mapping[str, str] | None = None, **extra: Any
    ) -> None:
        super().__init__(status_code, detail if isinstance(detail, str) else encode_json(detail))
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = extra


class Unprocessable(APIError):
    """422: one value from outside is malformed; ``where`` is path, query or body."""

    def __init__(self, where: str, field: str, message: str, kind: str = "value_error") -> None:
        location = [where, field] if field else [where]
        super().__init__(422, [{"type": kind, "loc": location, "msg": message}])


_HEADERS = {
    # An answer is somebody's own, and no page: nothing keeps it, and a browser that is led to it loads nothing.
    "Cache-Control": "no-store",
    "Content-Security-Policy": NO_PAGE,
    "Cross-Origin-Resource-Policy": "same-origin",
}


def json_response(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> HttpResponse:
    body = encode_json(data).encode()
    return answer(body, "application/json", status=status, headers=headers)


def answer(
    body: bytes | str, content_type: str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> HttpResponse:
    """Return an answer of the API that is no page."""
    return HttpResponse(body, content_type, status, headers={**_HEADERS, **(headers or {})})


def session_not_found(session_id: str) -> APIError:
    return APIError(404, f"Session with id '{well_formed(session_id)}' not found")


def start_error(error: Exception) -> APIError:
    """Return the answer to a start that failed with ``error``."""
    match error:
        case InvalidInput():
            return Unprocessable("body", error.field, error.message)
        case AgentNotFound():
            return Unprocessable("body", "agent", well_formed(str(error)))
        case CallHidden():
            return APIError(403, str(error))
        case MaxConcurrentSessionsExceeded():
            return _too_many("Reached maximum number of concurrent sessions")
        case MaxSessionsPerCallExceeded():
            return _too_many("Reached maximum number of sessions for this call")
        case SessionLimitExceeded():
            return _too_many(str(error))
        case NotReady():
            return APIError(503, str(error), headers={"Retry-After": str(error.retry_after)})
        case StartTimeout():
            headers = {"Retry-After": str(RETRY_AFTER_TIMEOUT_SECONDS)}
            return APIError(503, "The agent took too long to start", headers=headers, session_id=error.session_id)
        case StartDrained():
            headers = {"Retry-After": str(RETRY_AFTER_LIMIT_SECONDS)}
            return APIError(503, str(error), headers=headers, session_id=error.session_id)
        case StartFailed() if error.closed:
            return APIError(409, str(error), session_id=error.session_id)
        case StartFailed():
            return APIError(500, "Failed to start agent", session_id=error.session_id)
        case RunnerConfigurationError():
            logger.error("%s", error)
            return APIError(503, _MISCONFIGURED, headers={"Retry-After": "60"})
        case _ if isinstance(error, DATABASE_ERRORS):
            logger.error("Starting an agent failed: the database does not answer", exc_info=error)
            return APIError(503, _NO_DATABASE, headers={"Retry-After": str(RETRY_AFTER_LIMIT_SECONDS)})
        case _:
            logger.error("Starting an agent failed", exc_info=error)
            return APIError(500, "Failed to start agent")


def register_error_handlers(api: NinjaAPI) -> None:
    """Give ``api`` the error answers of this package, for a NinjaAPI of your own that takes in its routers."""
    api.add_exception_handler(Exception, error_response)
    # ninja looks the class of an error up along its bases; these have handlers of ninja's own that come first.
    for kind in (Http404, HttpError, ValidationError):
        api.add_exception_handler(kind, error_response)


def error_response(request: HttpRequest, error: Any) -> HttpResponse:
    """Return the answer to an exception; what is no answer is a 500, and logged."""
    match error:
        case APIError():
            return json_response({"detail": error.detail, **error.extra}, error.status_code, error.headers)
        case HttpError():
            # What to present instead; the other ways in have no name in HTTP.
            headers = {"WWW-Authenticate": "Bearer"} if error.status_code == 401 else {}
            return json_response({"detail": well_formed(str(error))}, error.status_code, headers)
        case ValidationError():
            return json_response({"detail": [_readable(problem) for problem in error.errors]}, 422)
        case TooMany():
            return json_response({"detail": str(error)}, 429, {"Retry-After": str(error.retry_after)})
        case InvalidInput():
            return error_response(request, Unprocessable("path", error.field, error.message))
        case Http404():
            return json_response({"detail": "Not Found"}, 404)
        case PermissionDenied():
            return json_response({"detail": well_formed(str(error)) or "Permission denied"}, 403)
        case RequestDataTooBig():
            return json_response({"detail": "The request body is too large"}, 413)
        case DisallowedHost():
            logger.warning("%s", error)
            return json_response({"detail": "The Host header names none of this server's ALLOWED_HOSTS"}, 400)
        case TooManyFieldsSent():
            return json_response({"detail": "The query string has too many parameters"}, 400)
        case SuspiciousOperation():
            logger.warning("%s", error)
            return json_response({"detail": "Bad request"}, 400)
        case RunnerConfigurationError():
            logger.error("%s", error)
            return json_response({"detail": _MISCONFIGURED}, 503, {"Retry-After": "60"})
    logger.error("%s %r failed", request.method, request.path, exc_info=error)
    if isinstance(error, DATABASE_ERRORS):
        return json_response({"detail": _NO_DATABASE}, 503, {"Retry-After": str(RETRY_AFTER_LIMIT_SECONDS)})
    return json_response({"detail": "Internal Server Error"}, 500)


def _too_many(detail: str) -> APIError:
    return APIError(429, detail, headers={"Retry-After": str(RETRY_AFTER_LIMIT_SECONDS)})


def _readable(problem: Mapping[str, Any]) -> dict[str, Any]:
    """Cut a pydantic error down to what is safe to send back: never the input, which may be huge or no valid text."""
    location = [well_formed(part) if isinstance(part, str) else part for part in problem["loc"]]
    # ninja puts the name of the view's parameter between the source and the field.
    if len(location) > 2 and location[0] == "query":
        location = [location[0], *location[2:]]
    return {"type": problem["type"], "loc": location, "msg": well_formed(problem["msg"])}
