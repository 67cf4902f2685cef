"""System checks of the call page and its WebSocket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004
from django.core.exceptions import ImproperlyConfigured
from django.template import TemplateDoesNotExist
from django.template.loader import get_template

from ..auth.tokens import MAX_TOKEN_SECONDS
from ..conf.settings import SETTING
from ..views import TEMPLATE
from .base import TAG, AppConfigs

_SCHEMES = ("stun:", "stuns:", "turn:", "turns:")
_EXAMPLE = '[{"urls": "turn:turn.example:3478", "username": "...", "credential": "..."}]'


@register(TAG)
def check_ice_servers(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    servers = _setting("ICE_SERVERS")
    if not isinstance(servers, (list, tuple)):
        return []  # check_settings says so
    return [
        Error(
            f"{SETTING}['ICE_SERVERS'] has {_hidden(server)}: {problem}.",
            hint=f"Write {SETTING} = {{'ICE_SERVERS': {_EXAMPLE}}}, as browsers take it.",
            id="visionagents_runner.E007",
        )
        for server in servers
        if (problem := _problem_of(server))
    ]


def _problem_of(server: Any) -> str:
    if not isinstance(server, Mapping):
        return "each entry must be a dict"
    if unknown := sorted(map(str, set(server) - {"urls", "username", "credential"})):
        return f"it has the unknown key {unknown[0]!r}"
    given = server.get("urls")
    urls = [given] if isinstance(given, str) else given
    if not isinstance(urls, (list, tuple)) or not urls or not all(isinstance(url, str) for url in urls):
        return '"urls" must be a URL, or a list of them'
    if wrong := next((url for url in urls if not url.startswith(_SCHEMES)), None):
        return f"{wrong!r} does not begin with {', '.join(_SCHEMES)}"
    if any(not isinstance(server.get(key, ""), str) for key in ("username", "credential")):
        return "username and credential must be strings"
    if any(url.startswith("turn") for url in urls) and not (server.get("username") and server.get("credential")):
        return "browsers use a TURN server with a username and a credential only"
    return ""


def _hidden(server: Any) -> str:
    """Return an entry as text without its secret."""
    return repr({**server, "credential": "..."} if isinstance(server, Mapping) and "credential" in server else server)


@register(TAG)
def check_join_tokens(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    seconds = _setting("JOIN_TOKEN_SECONDS")
    if not isinstance(seconds, int) or isinstance(seconds, bool) or 1 <= seconds <= MAX_TOKEN_SECONDS:
        return []  # what is no number, check_settings tells
    return [
        Error(
            f"{SETTING}['JOIN_TOKEN_SECONDS'] is {seconds}: no invitation could be made.",
            hint=f"An invitation counts from 1 to {MAX_TOKEN_SECONDS} seconds; the default is 3600.",
            id="visionagents_runner.E008",
        )
    ]


@register(TAG)
def check_call_page(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    return list(_missing_parts())


def _missing_parts() -> Iterator[CheckMessage]:
    if not apps.is_installed("django.contrib.staticfiles"):
        yield Warning(
            "'django.contrib.staticfiles' is not in INSTALLED_APPS: the call page has neither scripts nor styles, "
            "unless something else serves them.",
            hint='Add "django.contrib.staticfiles" to INSTALLED_APPS, and set STATIC_URL.',
            id="visionagents_runner.W014",
        )
    elif not settings.STATIC_URL:
        yield Warning(
            "STATIC_URL is not set: the call page cannot name its scripts and styles.",
            hint='Set STATIC_URL = "static/".',
            id="visionagents_runner.W014",
        )
    try:
        get_template(TEMPLATE)
    except (TemplateDoesNotExist, ImproperlyConfigured):
        yield Warning(
            f"No template engine finds {TEMPLATE}: the call page is an error.",
            hint='Set "APP_DIRS": True in a DjangoTemplates entry of TEMPLATES.',
            id="visionagents_runner.W015",
        )


def _setting(key: str) -> Any:
    """The value as written, wrong ones included; None if it is not there."""
    raw = getattr(settings, SETTING, None)
    return raw.get(key) if isinstance(raw, Mapping) else None
