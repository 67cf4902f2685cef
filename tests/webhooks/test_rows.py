"""The rows of deliveries: written with the end, claimed by one, settled by who claimed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from tests.webhooks.conftest import delivery, ended
from tests.webhooks.receiver import SECRET
from visionagents_runner.models import AgentSession, EndReason, WebhookDelivery, Worker
from visionagents_runner.store import session_rows, worker_rows
from visionagents_runner.utils.process import ProcessIdentity

pytestmark = pytest.mark.django_db

HOOK = {"URL": "https://hooks.example/agents", "SECRET": SECRET}


@pytest.fixture(autouse=True)
def two_endpoints(configure: Any) -> None:
    configure(HOOK, {**HOOK, "NAME": "billing"})


def overdue(**values: Any) -> None:
    WebhookDelivery.objects.update(claimed_until=Now() - timedelta(seconds=1), **values)


@pytest.mark.parametrize("reason", EndReason)
def test_every_end_tells_every_endpoint_once(reason: EndReason) -> None:
    session = ended(reason)
    rows = WebhookDelivery.objects.filter(session=session)
    assert sorted(row.endpoint for row in rows) == ["billing", "hooks.example"]
    assert {row.state for row in rows} == {"pending"}
    assert not session.finish(EndReason.REQUESTED)
    assert AgentSession.objects.finish(EndReason.WORKER_LOST) == []
    assert rows.count() == 2


def test_a_session_that_lives_tells_nobody() -> None:
    session = AgentSession(call_id="call")
    session.insert()
    session.mark_active(agent_id="agent")
    session.mark_closing(by="test")
    assert not WebhookDelivery.objects.exists()


def test_sessions_that_others_end_are_told_of_too() -> None:
    dead = Worker.objects.create(hostname="elsewhere", pid=1)
    Worker.objects.update(heartbeat_at=Now() - timedelta(days=1))
    lost, forced, queued = (AgentSession(call_id=name, worker=dead) for name in ("lost", "forced", "queued"))
    queued.status, queued.worker = "queued", None
    for session in (lost, forced, queued):
        session.insert()
    session_rows.request_close_sync([forced.pk], force=True)
    session_rows.request_close_sync([queued.pk])
    me = Worker.objects.create(hostname="here", pid=2)
    worker_rows._reap(me, ProcessIdentity("here", 2, "", "", ""), lambda: True, 0.0)
    for session in (lost, forced, queued):
        assert WebhookDelivery.objects.filter(session=session).count() == 2
    on_mine = AgentSession(call_id="mine", worker=me)
    on_mine.insert()
    worker_rows._stop(me)
    assert WebhookDelivery.objects.filter(session=on_mine).count() == 2


def test_an_end_that_is_taken_back_takes_its_deliveries_along() -> None:
    with transaction.atomic():
        ended()
        transaction.set_rollback(True)
    assert not WebhookDelivery.objects.exists()


def test_without_endpoints_nothing_is_written(configure: Any) -> None:
    configure()
    ended()
    assert not WebhookDelivery.objects.exists()


def test_an_entry_that_is_wrong_keeps_no_session_from_ending(configure: Any) -> None:
    configure(HOOK, "https://hooks.example", {**HOOK, "SECRET": "short"}, {**HOOK, "URL": "http://[::"})
    assert ended().end_reason == "finished"
    assert delivery().endpoint == "hooks.example"


def test_one_that_is_claimed_is_nobody_elses_until_the_claim_is_over() -> None:
    ended()
    [mine] = WebhookDelivery.objects.claim({"billing": 4})
    assert (mine.attempts, mine.endpoint) == (1, "billing")
    assert WebhookDelivery.objects.claim({"billing": 4}) == []
    assert WebhookDelivery.objects.filter(pk=mine.pk).replay() == 0
    overdue()
    [theirs] = WebhookDelivery.objects.claim({"billing": 4})
    assert (theirs.pk, theirs.attempts) == (mine.pk, 2)
    assert not mine.mark_delivered(200)
    assert not mine.mark_failed(status=500, error="late", seconds=None)
    assert delivery(pk=mine.pk).state == "pending"
    assert theirs.mark_delivered(204)
    row = delivery(pk=mine.pk)
    assert (row.state, row.last_status, row.next_attempt_at, row.claim) == ("delivered", 204, None, None)


def test_no_more_are_claimed_than_there_is_room_for_and_the_longest_due_first() -> None:
    for number in range(6):
        session = ended(call_id=str(number))
        later = Now() - timedelta(seconds=100 - number)
        WebhookDelivery.objects.filter(session=session).update(next_attempt_at=later)
    claimed = WebhookDelivery.objects.claim({"billing": 2, "hooks.example": 1})
    billing = sorted(row.session.call_id for row in claimed if row.endpoint == "billing")
    assert billing == ["0", "1"]
    assert len(claimed) == 3


def test_what_is_to_be_tried_later_is_not_due() -> None:
    ended()
    [mine] = WebhookDelivery.objects.claim({"billing": 1})
    assert mine.mark_failed(status=500, error="Answered 500\0" + "x" * 600, seconds=60)
    row = delivery(pk=mine.pk)
    assert (row.state, row.last_status, len(row.last_error)) == ("pending", 500, 500)
    assert WebhookDelivery.objects.claim({"billing": 1}) == []
    WebhookDelivery.objects.update(next_attempt_at=Now())
    assert [row.pk for row in WebhookDelivery.objects.claim({"billing": 1})] == [mine.pk]


def test_one_that_is_broken_off_is_due_at_once() -> None:
    ended()
    [mine] = WebhookDelivery.objects.claim({"billing": 1})
    assert mine.release()
    assert WebhookDelivery.objects.claim({"billing": 1})


def test_a_replay_begins_from_the_start_with_the_same_id() -> None:
    ended()
    [mine] = WebhookDelivery.objects.claim({"billing": 1})
    mine.mark_delivered(200)
    before = delivery(pk=mine.pk)
    assert WebhookDelivery.objects.filter(pk=mine.pk).replay() == 1
    row = delivery(pk=mine.pk)
    assert (row.state, row.attempts, row.delivered_at) == ("pending", 0, None)
    assert row.message_id == before.message_id


def test_there_is_one_row_for_a_session_and_an_endpoint() -> None:
    session = ended()
    with pytest.raises(IntegrityError), transaction.atomic():
        WebhookDelivery.objects.create(session=session, endpoint="billing")


def test_a_session_that_is_pruned_takes_its_deliveries_along() -> None:
    ended().delete()
    assert not WebhookDelivery.objects.exists()
