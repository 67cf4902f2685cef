"""Installed apps, the server and its ASGI application, and the way to the API."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register  # noqa: A004
from django.core.management import get_commands, load_command_class
from django.utils.module_loading import import_string

from ..conf.settings import SETTING, foreign_middleware
from .base import TAG, AppConfigs, setting_as_written
from .settings import check_settings


@register(TAG)
def check_apps(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    if not apps.is_installed("channels"):
        messages.append(
            Warning(
                "'channels' is not in INSTALLED_APPS.",
                hint='Add "channels" to INSTALLED_APPS: messages between workers and live feeds pass through it.',
                id="visionagents_runner.W009",
            )
        )
    if not apps.is_installed("ninja"):
        messages.append(
            Warning(
                "'ninja' is not in INSTALLED_APPS: the API's docs page would load its assets from a CDN.",
                hint='Add "ninja" to INSTALLED_APPS: they are served from here then.',
                id="visionagents_runner.W010",
            )
        )
    return messages


@register(TAG, Tags.staticfiles)
def check_runserver(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    """Whether ``runserver`` is Daphne's where Daphne is installed: the first app that has the command provides it."""
    if not apps.is_installed("daphne"):
        return []

    provider = get_commands().get("runserver", "django.core")
    if provider == "daphne" or not isinstance(provider, str):
        return []

    daphnes = import_string("daphne.management.commands.runserver.Command")
    if isinstance(load_command_class(provider, "runserver"), daphnes):
        return []  # it builds on the next one in line, as WhiteNoise's does
    return [
        Error(
            f"'daphne' comes after {provider!r} in INSTALLED_APPS, so runserver is that app's: it is no ASGI server, "
            "and no agent runs in it.",
            hint='Make "daphne" the first of INSTALLED_APPS.',
            id="visionagents_runner.E003",
        )
    ]


@register(TAG)
def check_asgi(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    if getattr(settings, "ASGI_APPLICATION", None):
        return []
    only = ", only WSGI_APPLICATION is" if getattr(settings, "WSGI_APPLICATION", None) else ""
    return [
        Warning(
            f"ASGI_APPLICATION is not set{only}: runserver cannot host agents, and under WSGI every start is refused.",
            hint='Set ASGI_APPLICATION = "yourproject.asgi.application", with "application = get_asgi_application()" '
            "from visionagents_runner.asgi in that file, and serve it with serveagents, daphne or uvicorn.",
            id="visionagents_runner.W011",
        )
    ]


@register(TAG)
def check_lean_api(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    if setting_as_written("LEAN_API", "auto") != "auto":
        return []
    if any(message.id == "visionagents_runner.E004" for message in check_settings(app_configs)):
        return []
    foreign = foreign_middleware()
    if not foreign:
        return []
    return [
        Info(
            "The API is served through Django's whole middleware, because MIDDLEWARE has some that is not Django's "
            f"and might guard it: {', '.join(foreign)}.",
            hint=f"To spare the event loop that carries the audio, name those that the API needs in "
            f"{SETTING}['API_MIDDLEWARE'] and set LEAN_API to True; or set it to False, and this stays as it is.",
            id="visionagents_runner.I001",
        )
    ]
