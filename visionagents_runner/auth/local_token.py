"""The token that makes a request a local one where this system does not tell who sent it.

It is one for all servers of a user on a machine, kept in a file that only they read: whoever can read it could as well
read the project's secrets. A program sends it as ``Authorization: Bearer``; a browser shows it once to the page
``local-access`` beside the API and has a cookie from then on.
"""

from __future__ import annotations

import hmac
import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from django.core import signing
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from ..exceptions import RunnerConfigurationError
from ..utils.page_headers import guard, page_policy
from ..utils.secret_key import read_or_make_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

COOKIE = "visionagents_local"
COOKIE_SECONDS = 30 * 24 * 3600
PAGE = "local-access"

_SALT = "visionagents_runner.local"
_LONGEST = 256


def token_file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "visionagents_runner" / "local_token"


def local_token() -> str | None:
    """Return the token, made at its first use; None where this user has no place to keep it."""
    try:
        return _read(token_file())
    except (OSError, RuntimeError, RunnerConfigurationError) as error:  # RuntimeError: nobody's home
        logger.debug("There is no token for local requests: %s", error)
        return None


@lru_cache(maxsize=8)
def _read(path: Path) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return read_or_make_secret(path)


def is_local_token(text: str) -> bool:
    token = local_token()
    return token is not None and len(text) <= _LONGEST and hmac.compare_digest(text.encode(), token.encode())


def is_local_cookie(value: str) -> bool:
    token = local_token()
    if token is None or len(value) > _LONGEST:
        return False
    try:
        signing.TimestampSigner(key=token, salt=_SALT).unsign(value, max_age=COOKIE_SECONDS)
    except signing.BadSignature:
        return False
    return True


def page_url(url: str, token: str, then: str = "") -> str:
    """Return the address that makes a browser known and goes on to the path ``then``.

    ``url`` is where the API is, with a slash at its end. What follows ``#`` is sent to nobody: it is in no log.
    """
    return f"{url}{PAGE}{'?next=' + quote(then, safe='') if then else ''}#{token}"


@csrf_exempt
@sensitive_post_parameters("token")
@require_http_methods(["GET", "HEAD", "POST"])
def local_access(request: HttpRequest, **of_the_mount: Any) -> HttpResponse:
    """Give a cookie to the browser of whoever shows the token; the page reveals nothing."""
    from ..registry import get_runner
    from .local_requests import local_counts

    then = request.GET.get("next", "")
    base = request.path.removesuffix(PAGE)
    if not then.startswith("/") or not url_has_allowed_host_and_scheme(then, allowed_hosts=None):
        then = base
    context: Mapping[str, Any] = {"counts": local_counts(get_runner()), "wrong": request.method == "POST"}
    if request.method == "POST" and context["counts"] and is_local_token(request.POST.get("token", "").strip()):
        response: HttpResponse = HttpResponseRedirect(then)
        response.set_cookie(
            COOKIE,
            signing.TimestampSigner(key=local_token(), salt=_SALT).sign("local"),
            max_age=COOKIE_SECONDS,
            path=base,
            secure=request.is_secure(),
            httponly=True,
            samesite="Strict",
        )
    else:
        status = 403 if request.method == "POST" else 200
        response = render(request, "visionagents_runner/local_access.html", context, status=status)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "no-referrer"
    guard(response, page_policy())
    return response


# LoginRequiredMiddleware would ask for what the token is there to spare.
local_access.login_required = False  # type: ignore[attr-defined]
