"""Registering operations, and what every one of them needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.http import HttpRequest
from ninja import NinjaAPI, Router

from ..auth.permissions import Access, who_asks
from ..quotas import spend
from ..registry import AgentRegistry, get_runner
from .schemas import Error, Problems

View = TypeVar("View", bound=Callable[..., Any])

_RUNNER = "_visionagents_runner"
_SECONDS = {"description": "Seconds after which asking again makes sense.", "schema": {"type": "integer"}}
_own: set[str] = set()
RETRY_AFTER = {"headers": {"Retry-After": _SECONDS}}
ERRORS: dict[int, Any] = {
    400: (Error, "The request cannot be read, or its Host is not allowed."),
    401: (Error, "Nobody is identified; says what is missing."),
    403: (Error, "They may not do this; says what is missing."),
    404: (Error, "No such session, or none that they may see."),
    413: (Error, "The body is too large."),
    429: (Error, "More than one's share; says of what, and when to ask again."),
    422: (Problems, "Malformed input: which field, and why. Nothing was done."),
    503: (Error, "Not now; says why."),
}


def operation(
    router: Router,
    method: str,
    path: str,
    *,
    answers: dict[int, tuple[Any, str]],
    errors: tuple[int, ...] = (),
    body: dict[str, Any] | None = None,
    texts: dict[str, str] | None = None,
    **options: Any,
) -> Callable[[View], View]:
    """Register a view under ``path`` with and without a trailing slash, and document its answers.

    ``answers`` is ``{status: (schema or None, description)}``; ``errors`` are keys of ERRORS that it gives besides;
    ``texts`` are the descriptions, by media type, of what a success may be besides JSON.
    """
    shares = (429,) if 401 in errors else ()  # whose credentials are looked at may have sent too many
    documented = {**{status: ERRORS[status] for status in (400, *shares, *errors)}, **answers}
    responses: dict[int, Any] = {status: {"description": text} for status, (_, text) in documented.items()}
    for status in {429, 503} & set(responses):
        responses[status] |= RETRY_AFTER
    if texts:
        schemas_of_text = {kind: {"schema": {"type": "string", "description": each}} for kind, each in texts.items()}
        responses[min(responses)]["content"] = schemas_of_text
    extra: dict[str, Any] = {"responses": responses}
    if body is not None:
        extra["requestBody"] = body
    schemas = {status: schema for status, (schema, _) in documented.items()}
    _own.add(path.strip("/"))

    def register(view: View) -> View:
        name = view.__name__
        router.api_operation(
            [method], path, response=schemas, operation_id=name, url_name=name, openapi_extra=extra, **options
        )(view)
        hidden: dict[str, Any] = {"response": schemas, "include_in_schema": False}
        router.api_operation([method], path + "/", url_name=f"{name}_slash", **hidden)(view)
        if method == "GET":
            for each in (path, path + "/"):
                router.api_operation(["HEAD"], each, url_name=f"{name}_head", **hidden)(view)
        return view

    return register


def own_routes() -> frozenset[str]:
    """Return the routes registered by `operation`, whose views wait for a body where they need one."""
    return frozenset(_own)


def json_body(schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def bind(api: NinjaAPI, runner: AgentRegistry) -> None:
    """Have every operation of ``api`` work on ``runner`` instead of the project's."""

    def decorate(run: Callable[..., Any]) -> Callable[..., Any]:
        def bound(request: HttpRequest, **parameters: Any) -> Any:
            setattr(request, _RUNNER, runner)
            return run(request, **parameters)

        return bound

    api.add_decorator(decorate, mode="view")


def runner_of(request: HttpRequest) -> AgentRegistry:
    """Return the runner that a request is about: the project's, where `bind` was not called."""
    return getattr(request, _RUNNER, None) or get_runner()


def take_share(request: HttpRequest, access: Access, what: str, *, call: str | None = None) -> None:
    """Count a request of somebody who may ask for it, by `quotas`.

    Raises:
        TooMany: it is one too many; the answer is 429.
    """
    who = who_asks(request, access)
    spend(what, identity=who.identity, address=who.address, call=call)
