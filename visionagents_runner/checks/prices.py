"""The system check of the setting ``PRICES``."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from ..conf.prices import find_problems
from ..conf.settings import SETTING
from .base import TAG, AppConfigs

_EXAMPLE = '{"currency": "EUR", "llm": {"gpt-4o-mini": {"input_tokens": "0.15e-6", "output_tokens": "0.6e-6"}}}'


@register(TAG)
def check_prices(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    raw = getattr(settings, SETTING, None)
    table = raw.get("PRICES", {}) if isinstance(raw, dict) else {}
    return [
        Error(
            f"{SETTING}['PRICES']{where} {problem}.",
            hint=f"Write {_EXAMPLE}. Until then no session has a cost.",
            id="visionagents_runner.E016",
        )
        for where, problem in find_problems(table)
    ]
