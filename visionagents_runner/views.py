"""The page on which people talk to the agents of a call.

It is a shell that reveals nothing: whoever opens it learns neither whether there is such a call nor who is on it. All
permission is at the WebSocket (`websockets.calls.access`).
"""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import quote, urlencode

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import NoReverseMatch, Resolver404, resolve, reverse
from django.views.decorators.http import require_safe

from .exceptions import InvalidInput
from .utils.page_headers import guard, page_policy
from .utils.paths import Matcher, encode_path, raw_suffix, scope_of
from .utils.validation import clean_call_part

TEMPLATE = "visionagents_runner/call.html"

_PAGE = "call/"
_MAX_AGENT_LENGTH = 100


@require_safe
def call(request: HttpRequest, rest: str = "", **named: Any) -> HttpResponse:
    """Show the page of a call, ``call/<call_type>/<call_id>/``; each of the two is one percent-encoded segment."""
    if {"call_type", "call_id"} <= named.keys():
        # The pattern that `reverse` knows. It takes ids without a slash, and always ends in one.
        rest = f"{named['call_type']}/{named['call_id']}/"
    call_type, call_id = _call_of(request, rest)
    base = _encoded(request.path[: len(request.path) - len(_PAGE + rest)])
    context = {
        "call_type": call_type,
        "call_id": call_id,
        "ws_path": f"{base}ws/calls/{_segment(call_type)}/{_segment(call_id)}/",
        "api_base": base,
        "voice_hint": _voice_hint(),
    }
    return _guarded(render(request, TEMPLATE, context))


@require_safe
def new_call(request: HttpRequest, **of_the_mount: Any) -> HttpResponse:
    """Make up a call and go to its page. ``?agent=coach`` goes along: the page offers to start that one."""
    base = _encoded(request.path[: len(request.path) - len(_PAGE)])
    agent = request.GET.get("agent", "")[:_MAX_AGENT_LENGTH]
    query = "?" + urlencode({"agent": agent}) if agent else ""
    return _guarded(HttpResponseRedirect(page_path(base, "default", secrets.token_hex(6)) + query))


# LoginRequiredMiddleware would send guests with an invitation away.
call.login_required = False  # type: ignore[attr-defined]
new_call.login_required = False  # type: ignore[attr-defined]


def page_path(base: str, call_type: str, call_id: str) -> str:
    """Return the path of a call's page; ``base`` is where the API is included, percent-encoded."""
    return f"{base}{_PAGE}{_segment(call_type)}/{_segment(call_id)}/"


def find_base(request: HttpRequest, path: str) -> str | None:
    """Return where the call page is mounted, percent-encoded; None if it is nowhere.

    ``path`` is what follows the mount in the path of ``request``, a request to the API. The page is looked for beside
    it first: a project may include the API twice.
    """
    info = request.path_info[: len(request.path_info) - len(path)]
    try:
        if resolve(info + _PAGE).func is new_call:
            return _encoded(request.path[: len(request.path) - len(path)])
    except Resolver404:
        pass
    try:
        return reverse("visionagents_runner:new-call").removesuffix(_PAGE)
    except NoReverseMatch:
        return None


def _guarded(response: HttpResponse) -> HttpResponse:
    guard(response, page_policy(), microphone=True)
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def _call_of(request: HttpRequest, rest: str) -> tuple[str, str]:
    """Return type and id of the call that the path names, from its raw form: ids may hold any character.

    Raises:
        Http404: it names none.
    """
    matcher = Matcher(["{call_type}/{call_id}"])
    scope = scope_of(request)
    raw = None if scope is None else raw_suffix(scope, rest)
    match = matcher.match_decoded(rest) if raw is None else matcher.match(raw)
    if match is None:
        raise Http404("There is no such page")
    try:
        return tuple(clean_call_part(name, match.parameters[name]) for name in ("call_type", "call_id"))  # type: ignore[return-value]
    except InvalidInput as error:
        raise Http404(str(error)) from None


def _voice_hint() -> str:
    from .demo import voice_hint  # late: urls, which every command loads, load this module

    return voice_hint()


def _segment(text: str) -> str:
    return quote(text, safe="")


def _encoded(path: str) -> str:
    return encode_path(path).decode()
