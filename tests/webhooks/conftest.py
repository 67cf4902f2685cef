"""Receivers, and sessions that end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.webhooks.receiver import Receiver
from visionagents_runner.models import AgentSession, EndReason, WebhookDelivery


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def configure(settings: Any) -> Callable[..., None]:
    """Set WEBHOOKS: ``configure(entry, ...)``."""

    def configure(*entries: Any) -> None:
        settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "WEBHOOKS": list(entries)}

    return configure


def ended(reason: EndReason = EndReason.FINISHED, **values: Any) -> AgentSession:
    """Make a session that has ended."""
    session = AgentSession(**{"call_id": "call", "status": "starting", **values})
    session.insert()
    session.finish(reason, error="Traceback: secret" if reason.status == "failed" else "")
    session.refresh_from_db()
    return session


def delivery(**filters: Any) -> WebhookDelivery:
    return WebhookDelivery.objects.get(**filters)
