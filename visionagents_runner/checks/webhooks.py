"""The setting ``WEBHOOKS``, looked at before anything is sent: by a system check, and when a worker starts."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from ..conf.settings import SETTING, get_settings
from ..conf.webhooks import find_problems, name_of
from ..exceptions import RunnerConfigurationError
from .settings import TAG, AppConfigs

_EXAMPLE = '{"URL": "https://hooks.example/agents", "SECRET": os.environ["WEBHOOK_SECRET"]}'
_MAKE_ONE = "python -c \"import base64, secrets; print('whsec_' + base64.b64encode(secrets.token_bytes(32)).decode())\""


@register(TAG)
def check_webhooks(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    raw = getattr(settings, SETTING, None)
    entries = raw.get("WEBHOOKS", ()) if isinstance(raw, dict) else ()
    if not isinstance(entries, (list, tuple)):
        return []  # check_settings says so
    return [
        Error(
            f"{_where(entries, position)}: {problem}.",
            hint=f"Write {_EXAMPLE}. This makes a secret: {_MAKE_ONE}",
            id="visionagents_runner.E012",
        )
        for position, problem in find_problems(entries)
    ]


def refuse_unsound_endpoints() -> None:
    """Have a worker find out at its start that an endpoint would be told nothing.

    Raises:
        RunnerConfigurationError: which entry is wrong, and why.
    """
    entries = get_settings().WEBHOOKS
    if not isinstance(entries, tuple):
        raise RunnerConfigurationError(f"{SETTING}['WEBHOOKS'] must be a list of dicts, as in [{_EXAMPLE}]")
    for position, problem in find_problems(entries):
        raise RunnerConfigurationError(f"{_where(entries, position)}: {problem}")


def _where(entries: Any, position: int) -> str:
    name = name_of(entries[position])
    return f"{SETTING}['WEBHOOKS'][{position}]" + (f" ({name})" if name else "")
