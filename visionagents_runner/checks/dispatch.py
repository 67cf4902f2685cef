"""System checks of what moves the queue."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004

from ..conf.settings import SETTING, get_settings
from ..dispatch.procrastinate.choice import APP, obstacle
from .base import TAG, AppConfigs


@register(TAG)
def check_dispatch_engine(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    try:
        engine = get_settings().DISPATCH_ENGINE
    except Exception:
        return []  # check_settings says so
    if engine not in ("auto", "procrastinate") or (found := obstacle()) is None:
        return []
    problem, hint = found
    if engine == "procrastinate":
        return [
            Error(
                f"{SETTING}['DISPATCH_ENGINE'] is 'procrastinate', but {problem}.",
                hint=hint,
                id="visionagents_runner.E017",
            )
        ]
    if not apps.is_installed(APP):
        return []
    return [
        Warning(
            f"Procrastinate does not bring dispatched sessions to workers, which find them by polling: {problem}.",
            hint=hint,
            id="visionagents_runner.W017",
        )
    ]
