"""The setting ``WEBHOOKS``, looked at before anything is sent: by a system check, and when a worker starts."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from ..conf.settings import SETTING
from ..conf.webhooks import EXAMPLE, find_problems, place_of
from .base import TAG, AppConfigs

_MAKE_ONE = "python -c \"import base64, secrets; print('whsec_' + base64.b64encode(secrets.token_bytes(32)).decode())\""


@register(TAG)
def check_webhooks(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    raw = getattr(settings, SETTING, None)
    entries = raw.get("WEBHOOKS", ()) if isinstance(raw, dict) else ()
    if not isinstance(entries, (list, tuple)):
        return []  # check_settings says so
    return [
        Error(
            f"{place_of(entries, position)}: {problem}.",
            hint=f"Write {EXAMPLE}. This makes a secret: {_MAKE_ONE}",
            id="visionagents_runner.E012",
        )
        for position, problem in find_problems(entries)
    ]
