"""What a request carries: a query that is bounded, and a body that is too, and JSON whatever the content type says.

Nothing of it is parsed before the asker may do what they ask for, wherever that can be told without it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pydantic
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, RawPostDataException, UnreadablePostError

from ..auth.permissions import Access, Action, authorize, rule_for
from ..conf.settings import get_settings
from ..utils import boundedjson
from ..utils.offloop import compute
from ..utils.text import well_formed
from .errors import APIError, Unprocessable
from .operations import runner_of, take_share

T = TypeVar("T", bound=pydantic.BaseModel)

MAX_QUERY_BYTES = 8 * 1024
MAX_VALUES = 12_000
"""Of a whole body. Metadata of 16 KB, the most that any route takes, can hold 11,000."""
MAX_PROBLEMS = 20
"""Of a body that are told."""
SMALL_BYTES = 16 * 1024
"""Up to here the event loop parses by itself, in 2 ms at most: a thread costs more than what real clients send."""


def too_large(limit: int) -> APIError:
    # What is left of the body is never read, so that the connection cannot be used again.
    return APIError(413, f"The request body is larger than {limit} bytes", headers={"Connection": "close"})


def check_query(query: bytes) -> None:
    """Refuse a query string that is too long, or none.

    Raises:
        APIError: 414, or 400 if it is not UTF-8.
    """
    if len(query) > MAX_QUERY_BYTES:
        raise APIError(414, f"The query string is longer than {MAX_QUERY_BYTES} bytes")
    try:
        query.decode()
    except UnicodeDecodeError:
        raise APIError(400, "The query string is not UTF-8") from None


def check_length(declared: str | None) -> None:
    """Refuse a body by its Content-Length, before any of it is read.

    Raises:
        APIError: 413.
    """
    limit = get_settings().MAX_BODY_BYTES
    if declared and declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise too_large(limit)


async def read_body(request: HttpRequest) -> bytes:
    """Return the body; it may not have been received yet.

    Raises:
        APIError: 413, or 400 if the body broke off.
    """
    limit = get_settings().MAX_BODY_BYTES
    receive: Callable[[], Awaitable[None]] | None = getattr(request, "receive_body", None)
    if receive is not None:
        await receive()
    try:
        if not hasattr(request, "_body"):
            # Not `request.body`: without a Content-Length that reads without a limit.
            request._body = request.read(limit + 1)
        body = request.body
    except RequestDataTooBig:
        raise too_large(limit) from None
    except (UnreadablePostError, RawPostDataException):
        raise unreadable() from None
    if len(body) > limit:
        raise too_large(limit)
    return body


def unreadable() -> APIError:
    return APIError(400, "The request body could not be read")


async def parse_body(request: HttpRequest, model: type[T], *, default: dict[str, Any] | None = None) -> T:
    """Return the body as ``model``. ``default`` stands for an empty body.

    Raises:
        APIError: 413, 400, or 422 that says which field is wrong and why.
    """
    body = await read_body(request)
    if len(body) <= SMALL_BYTES:
        return _parse(body, model, default)
    return await compute(_parse, body, model, default)


async def authorize_and_parse(
    request: HttpRequest,
    action: Action,
    model: type[T],
    *,
    default: dict[str, Any] | None = None,
    call_id: str | None = None,
    session_id: str | None = None,
    find_call_id: Callable[[], Awaitable[str | None]] | None = None,
    share: str | None = None,
) -> tuple[Access, T]:
    """`authorize` and `parse_body`, the permission first unless its callable of `ServeOptions` asks about the body.

    Then it is given what passed all bounds. A call that neither the path nor the session tells is that of the body.
    ``share`` is what is counted, as soon as they may.

    Raises:
        HttpError: as both do.
    """
    runner = runner_of(request)
    rule = rule_for(runner, action)
    about: dict[str, Any] = {"call_id": call_id, "session_id": session_id, "find_call_id": find_call_id}
    of_body = call_id is None and find_call_id is None
    if rule is None or not ("body" in rule.names or (of_body and "call_id" in rule.names)):
        access = await authorize(request, runner, action, **about)
        if share is not None:
            take_share(request, access, share)
        return access, await parse_body(request, model, default=default)
    body = await parse_body(request, model, default=default)
    if of_body:
        about["call_id"] = getattr(body, "call_id", None)
    access = await authorize(request, runner, action, body=body, **about)
    if share is not None:
        take_share(request, access, share)
    return access, body


def _parse(body: bytes, model: type[T], default: dict[str, Any] | None) -> T:
    try:
        data = default if default is not None and not body.strip() else boundedjson.loads(body, max_values=MAX_VALUES)
    except boundedjson.Malformed as error:
        raise Unprocessable("body", "", well_formed(str(error)), "json_invalid") from None
    if not isinstance(data, dict):
        raise Unprocessable("body", "", "must be a JSON object", "dict_type")
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        raise APIError(
            422,
            [
                {
                    "type": problem["type"],
                    "loc": ["body", *(well_formed(part) if isinstance(part, str) else part for part in problem["loc"])],
                    "msg": well_formed(problem["msg"]),
                }
                for problem in problems[:MAX_PROBLEMS]
            ],
        ) from None
