"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.backends.signals import connection_created


class VisionAgentsRunnerConfig(AppConfig):
    name = "visionagents_runner"
    label = "visionagents_runner"
    verbose_name = "Voice and video agents"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks, costchecks, engine, mysql, queue  # noqa: F401
        from .engine import checks as engine_checks  # noqa: F401
        from .feeds import checks as layer_checks  # noqa: F401
        from .quotas import checks as quota_checks  # noqa: F401
        from .signalling import checks as call_checks  # noqa: F401
        from .webhooks import checks as webhook_checks  # noqa: F401

        queue.set_messenger(_tell_of_queue)
        engine.install()
        connection_created.connect(mysql.use_utc, dispatch_uid="visionagents_runner.mysql")


def _tell_of_queue() -> None:
    from .feeds.link import QUEUE_GROUP, send_from_anywhere

    send_from_anywhere(QUEUE_GROUP, {"type": "queue.news"})
