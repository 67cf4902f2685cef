"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class VisionAgentsRunnerConfig(AppConfig):
    name = "visionagents_runner"
    label = "visionagents_runner"
    verbose_name = "Voice and video agents"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks, costchecks  # noqa: F401
        from .signalling import checks as call_checks  # noqa: F401
        from .webhooks import checks as webhook_checks  # noqa: F401
