"""Asking a worker to take no new sessions: who may, what it says before, and that the worker does it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.admin.models import LogEntry
from django.test import Client

from tests.admin.conftest import WORKERS
from tests.conftest import until
from visionagents_runner.models import AgentSession, Worker, WorkerState
from visionagents_runner.worker.current import current_worker

Make = Callable[..., AgentSession]


def page(worker: Worker, what: str = "change") -> str:
    return f"{WORKERS}{worker.pk}/{what}/"


def asked(worker: Worker) -> bool:
    return Worker.objects.filter(pk=worker.pk, drain_requested_at__isnull=False).exists()


def test_a_drain_asks_first_and_names_who_is_there(root: Client, worker: Worker, make: Make) -> None:
    live, over = make("live-one"), make("over-one", "closed")
    assert f'href="{page(worker, "drain")}"' in root.get(page(worker)).content.decode()
    for text in (root.get(page(worker, "drain")), root.post(page(worker, "drain"))):
        content = text.content.decode()
        assert str(live.pk) in content
        assert "Goes on until it ends." in content
        assert str(over.pk) not in content
    assert not asked(worker)


def test_a_confirmed_drain_is_asked_once_logged_and_shown(root: Client, worker: Worker) -> None:
    for _ in range(2):
        assert root.post(page(worker, "drain"), {"confirmed": "yes"}).url == page(worker)
    assert asked(worker)
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.change_message, entry.user.get_username()) == (
        str(worker.pk),
        "Asked to drain.",
        "root",
    )
    text = root.get(page(worker)).content.decode()
    assert "The worker has not seen that yet." in text
    assert "Asked to drain." in text
    assert page(worker, "resume") in text
    worker.mark_draining()
    assert "It runs no session: the process can be stopped." in root.get(page(worker)).content.decode()


def test_a_drain_can_be_taken_back(root: Client, worker: Worker) -> None:
    worker.request_drain()
    root.post(page(worker, "resume"), {"confirmed": "yes"})
    assert not asked(worker)
    assert LogEntry.objects.get().change_message == "The request to drain was taken back."


def test_a_worker_that_stopped_or_is_told_to_end_cannot_be_drained(root: Client, worker: Worker) -> None:
    worker.mark_draining()
    assert page(worker, "drain") not in root.get(page(worker)).content.decode()
    worker.mark_stopped()
    assert "There is nothing to change" in root.get(page(worker, "drain")).content.decode()
    root.post(page(worker, "drain"), {"confirmed": "yes"})
    assert not asked(worker)
    assert not LogEntry.objects.exists()


def test_draining_needs_a_permission_of_its_own(sign_in: Callable[..., Client], worker: Worker) -> None:
    client = sign_in("close_agentsession", "force_close_agentsession", "view_transcript")
    assert page(worker, "drain") not in client.get(page(worker)).content.decode()
    for what in ("drain", "resume"):
        assert client.get(page(worker, what)).status_code == 403
        assert client.post(page(worker, what), {"confirmed": "yes"}).status_code == 403
    assert not asked(worker)


def test_who_may_drain_but_see_no_sessions_is_told_how_many(
    sign_in: Callable[..., Client], worker: Worker, make: Make
) -> None:
    session = make("private")
    client = sign_in("drain_worker", "view_worker", view=False)
    text = client.get(page(worker, "drain")).content.decode()
    assert "Live sessions there: 1" in text
    assert str(session.pk) not in text
    client.post(page(worker, "drain"), {"confirmed": "yes"})
    assert asked(worker)


def test_a_worker_that_does_not_exist_is_not_found(root: Client) -> None:
    assert root.get(f"{WORKERS}{uuid.uuid4()}/drain/").status_code == 404


def test_the_page_of_a_worker_refreshes(root: Client, worker: Worker, make: Make) -> None:
    make("live-one")
    text = root.get(page(worker), headers={"X-Live": "0"}).content.decode()
    assert "live-one" in text
    assert "<html" not in text


async def test_the_worker_does_as_it_is_asked_within_a_poll(settings: Any, launch: Callable[..., Any]) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "POLL_INTERVAL": 0.05}
    launcher = await launch()
    session = await launcher.start_session("call")
    worker = current_worker()
    assert worker is not None
    row = await Worker.objects.aget(pk=worker.id)

    async def state() -> str:
        return str((await Worker.objects.aget(pk=worker.id)).state)

    await sync_to_async(row.request_drain)()
    await until(lambda: not worker.ready)
    reason = worker.not_ready_reason()
    assert reason is not None
    assert "draining" in str(reason)
    while await state() != WorkerState.DRAINING:
        pass
    assert not session.finished
    assert worker.running

    await sync_to_async(row.withdraw_drain)()
    await until(lambda: worker.ready)
    while await state() != WorkerState.RUNNING:
        pass
    assert not session.finished
