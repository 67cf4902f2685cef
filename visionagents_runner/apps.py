"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.backends.signals import connection_created

from .cli.loading import announce

announce()


class VisionAgentsRunnerConfig(AppConfig):
    name = "visionagents_runner"
    label = "visionagents_runner"
    verbose_name = "Voice and video agents"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # noqa: F401
        from .dispatch import procrastinate
        from .store import mysql
        from .worker.services import register_service

        procrastinate.install()
        register_service("visionagents_runner.websockets.feeds.publisher.FeedPublisher")
        register_service("visionagents_runner.websockets.calls.relay.Relay")
        # Last: whoever it starts is published and can be relayed.
        register_service("visionagents_runner.dispatch.service.make_claimer")
        connection_created.connect(mysql.use_utc, dispatch_uid="visionagents_runner.mysql")
