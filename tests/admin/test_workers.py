from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.admin.conftest import WORKERS
from visionagents_runner.models import AgentSession, Worker

Make = Callable[..., AgentSession]


def rows(client: Client) -> dict[str, Worker]:
    response = client.get(WORKERS)
    assert response.status_code == 200
    return {worker.hostname: worker for worker in response.context["cl"].result_list}


def test_a_worker_is_stale_when_its_heartbeat_is_older_than_the_time_to_live(
    root: Client, worker: Worker, silent_worker: Worker
) -> None:
    assert {name: row.silent for name, row in rows(root).items()} == {
        worker.hostname: False,
        silent_worker.hostname: True,
    }
    text = root.get(WORKERS).content.decode()
    assert text.count('<span class="va-badge"') == 1
    assert "1 h 00 min ago" in text


def test_the_time_to_live_is_the_setting(root: Client, silent_worker: Worker, settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {"WORKER_TTL": 7200.0}
    assert rows(root)[silent_worker.hostname].silent is False


def test_a_stopped_worker_is_never_stale(root: Client, silent_worker: Worker) -> None:
    silent_worker.mark_stopped()
    assert rows(root)[silent_worker.hostname].silent is False
    assert "stopped" in root.get(WORKERS).content.decode()


def test_live_sessions_are_counted_and_ended_ones_are_not(root: Client, worker: Worker, make: Make) -> None:
    make("one")
    make("two", "closing")
    make("three", "closed")
    other = Worker.objects.create(hostname="idle", pid=1)
    assert rows(root)[worker.hostname].live_count == 2
    assert rows(root)[other.hostname].live_count == 0
    assert "2 of 10" in root.get(WORKERS).content.decode()


def test_the_list_takes_as_many_queries_for_many_workers_as_for_one(root: Client, worker: Worker) -> None:
    rows(root)
    with CaptureQueriesContext(connection) as one:
        rows(root)
    for number in range(10):
        Worker.objects.create(hostname=f"host-{number}", pid=number)
    with CaptureQueriesContext(connection) as many:
        rows(root)
    assert len(one) == len(many)


def test_the_page_lists_the_live_sessions(root: Client, worker: Worker, make: Make) -> None:
    live, over = make("<i>live</i>"), make("over", "closed")
    text = root.get(f"{WORKERS}{worker.pk}/change/").content.decode()
    assert str(live.pk) in text
    assert "&lt;i&gt;live&lt;/i&gt;" in text
    assert str(over.pk) not in text
    assert f"?worker={worker.pk}" in text


def test_the_page_lists_no_sessions_to_those_who_may_not_see_them(
    sign_in: Callable[..., Client], worker: Worker, make: Make
) -> None:
    session = make("private")
    client = sign_in("view_worker", view=False)
    text = client.get(f"{WORKERS}{worker.pk}/change/").content.decode()
    assert "web-1.example:4211" in text
    assert str(session.pk) not in text


def test_a_session_links_to_its_worker_only_for_those_who_may_see_it(
    sign_in: Callable[..., Client], worker: Worker, make: Make
) -> None:
    session = make()
    client = sign_in("view_agentsession", view=False)
    text = client.get(f"/admin/visionagents_runner/agentsession/{session.pk}/change/").content.decode()
    assert "web-1.example:4211" in text
    assert f"/worker/{worker.pk}/" not in text
