"""An older version prunes the history beside a newer one, without knowing what that one keeps with it."""

from __future__ import annotations

import pytest
from django.db import connection

from tests.migrations.test_rolling import APP, names, old_models
from tests.worker.test_reaping import session_on, silent_worker
from visionagents_runner.models import AgentSession, EndReason


@pytest.mark.django_db
@pytest.mark.parametrize("version", [name for name in names() if name < "0007"])
def test_a_lost_session_that_another_one_goes_on_for_can_be_deleted(version: str) -> None:
    lost = session_on(silent_worker(0), restartable=True)
    AgentSession.objects.filter(pk=lost.pk).finish(EndReason.WORKER_LOST)
    successor = AgentSession.objects.get(restart_of=lost)
    old_models(version).get_model(APP, "SessionEvent").objects.filter(session_id=lost.pk).delete()
    old_models(version).get_model(APP, "AgentSession").objects.filter(pk=lost.pk).delete()
    connection.check_constraints()
    successor.refresh_from_db()
    assert successor.restart_of_id == lost.pk
