"""Reading a request's body: bounded, and JSON whatever the content type says."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import pydantic
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, RawPostDataException, UnreadablePostError

from ..conf import get_settings
from .errors import APIError, Unprocessable, printable

T = TypeVar("T", bound=pydantic.BaseModel)

MAX_DEPTH = 32
"""Levels of nesting: what MariaDB stores in a JSON column, less one for the column itself."""


def too_large(limit: int) -> APIError:
    # What is left of the body is never read, so that the connection cannot be used again.
    return APIError(413, f"The request body is larger than {limit} bytes", headers={"Connection": "close"})


def check_length(declared: str | None) -> None:
    """Refuse a body by its Content-Length, before any of it is read.

    Raises:
        APIError: 413.
    """
    limit = get_settings().MAX_BODY_BYTES
    if declared and declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise too_large(limit)


def read_body(request: HttpRequest) -> bytes:
    """Return the body.

    Raises:
        APIError: 413, or 400 if the body broke off.
    """
    limit = get_settings().MAX_BODY_BYTES
    try:
        if not hasattr(request, "_body"):
            # Not `request.body`: without a Content-Length that reads without a limit.
            request._body = request.read(limit + 1)
        body = request.body
    except RequestDataTooBig:
        raise too_large(limit) from None
    except (UnreadablePostError, RawPostDataException):
        raise APIError(400, "The request body could not be read") from None
    if len(body) > limit:
        raise too_large(limit)
    return body


def parse_body(request: HttpRequest, model: type[T], *, default: dict[str, Any] | None = None) -> T:
    """Return the body as ``model``. ``default`` stands for an empty body.

    Raises:
        APIError: 413, 400, or 422 that says which field is wrong and why.
    """
    body = read_body(request)
    data = default if default is not None and not body.strip() else _load(body)
    if not isinstance(data, dict):
        raise Unprocessable("body", "", "must be a JSON object", "dict_type")
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        raise APIError(
            422,
            [
                {
                    "type": problem["type"],
                    "loc": ["body", *(printable(part) if isinstance(part, str) else part for part in problem["loc"])],
                    "msg": printable(problem["msg"]),
                }
                for problem in error.errors(include_url=False, include_input=False, include_context=False)
            ],
        ) from None


def _load(body: bytes) -> Any:
    try:
        data = json.loads(body, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise Unprocessable("body", "", "is nested too deeply", "json_invalid") from None
    except ValueError as error:
        raise Unprocessable("body", "", f"is not valid JSON: {printable(str(error))}", "json_invalid") from None
    if _deeper_than(data, MAX_DEPTH):
        raise Unprocessable("body", "", f"is nested more than {MAX_DEPTH} levels deep", "json_invalid")
    return data


class _Malformed(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Malformed(f"{twice[:100]!r} is given twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise _Malformed(f"{name} is not allowed")


def _deeper_than(data: Any, limit: int) -> bool:
    level = [data]
    for _ in range(limit + 1):
        level = [
            child
            for parent in level
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return False
    return True
