"""What only a deployment has to have."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register  # noqa: A004

from ..conf.settings import SETTING
from ..messaging.layer import layer_in_settings, reaches_others
from .base import TAG, AppConfigs, setting_as_written


@register(TAG, deploy=True)
def check_channel_layer(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    backend = layer_in_settings()
    if reaches_others(backend):
        return []
    what = "is in memory" if backend else "is not configured"
    return [
        Warning(
            f"The channel layer {what}: with more than one process, they hear of each other only at their next look "
            "into the database, and live feeds end at the process.",
            hint='Install "visionagents-runner[redis]" and set CHANNEL_LAYERS to '
            "channels_redis.core.RedisChannelLayer. With a single process, silence this check.",
            id="visionagents_runner.W006",
        )
    ]


@register(TAG, Tags.security, deploy=True)
def check_local_requests(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    allow = setting_as_written("ALLOW_LOCAL", None)
    if not (allow is True or (allow is None and settings.DEBUG)):
        return []
    why = f"{SETTING}['ALLOW_LOCAL'] is True" if allow else "DEBUG is True"
    return [
        Warning(
            f"{why}: programs of the server's own user on its machine may start and close sessions without signing in, "
            "and so may whoever has that user's token. A proxy is known by what it has open, but not every one can be.",
            hint=f"Set DEBUG = False and leave {SETTING}['ALLOW_LOCAL'] out, or set it to False.",
            id="visionagents_runner.W007",
        )
    ]
