"""What stands above the sessions' list, and the list that refreshes itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.admin.conftest import LIST, page_of
from visionagents_runner.admin import overview
from visionagents_runner.models import AgentSession, EndReason, Worker

Make = Callable[..., AgentSession]
LIVE = {"X-Live": "0"}


def tiles(client: Client, **headers: str) -> dict[str, tuple[str, str]]:
    response = client.get(LIST, headers=headers)
    return {tile.name: (tile.value, tile.note) for tile in response.context_data["tiles"]}


def tabs(client: Client, query: str = "") -> dict[str, str]:
    return {tab.label: tab.count for tab in client.get(f"{LIST}{query}").context_data["tabs"]}


@pytest.mark.smoke
def test_the_tiles_tell_how_things_stand(root: Client, make: Make, silent_worker: Worker) -> None:
    joined = [make(f"joined-{number}") for number in range(3)]
    for number, session in enumerate(joined, start=1):
        seconds = timedelta(seconds=number)
        AgentSession.objects.filter(pk=session.pk).update(joined_at=F("created_at") + seconds)
    make("coming", "starting")
    make("going", "closing")
    make("waiting", "queued")
    make("broken", "failed", reason=EndReason.ERROR)
    gone = make("gone", "lost", reason=EndReason.WORKER_LOST)
    old = make("old", "failed", reason=EndReason.ERROR)
    AgentSession.objects.filter(pk=old.pk).update(ended_at=Now() - timedelta(hours=25))
    assert gone.ended_at is not None
    assert tiles(root) == {
        "live": ("6", ""),
        "queued": ("1", "oldest 0 s"),
        "starting": ("1", ""),
        "closing": ("1", ""),
        "failed": ("2", ""),
        "join": ("3.0 s", "p50 2.0 s"),
        "capacity": ("50 %", "5 of 10"),
    }


def test_without_a_worker_that_runs_there_is_no_capacity(root: Client, worker: Worker, silent_worker: Worker) -> None:
    worker.mark_stopped()
    assert tiles(root)["capacity"] == ("-", "no worker runs")
    Worker.objects.create(hostname="unlimited", pid=1)
    assert tiles(root)["capacity"] == ("0", "no limit")


def test_there_is_a_tab_for_each_state_that_sessions_are_in(root: Client, make: Make) -> None:
    make("one")
    make("two", "closing")
    make("three", "closed")
    assert tabs(root) == {"All": "3", "Active": "1", "Closing": "1", "Closed": "1", "Failed": "0"}
    assert tabs(root, "?status__exact=queued")["Queued"] == "0"
    text = root.get(f"{LIST}?status__exact=closing").content.decode()
    assert re.search(r'aria-current="page">Closing', text)
    assert "two" in text
    assert "No session is like that now" in root.get(f"{LIST}?status__exact=queued").content.decode()


def test_no_count_goes_further_than_its_limit(root: Client, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "MOST_COUNTED", 2)
    for number in range(4):
        make(f"live-{number}")
        make(f"over-{number}", "closed")
        make(f"broken-{number}", "failed", reason=EndReason.ERROR)
    with CaptureQueriesContext(connection) as captured:
        shown = tiles(root)
    counts = [query["sql"] for query in captured.captured_queries if "COUNT(" in query["sql"]]
    assert shown["live"][0] == shown["failed"][0] == "2+"
    assert set(tabs(root).values()) == {"2+"}
    assert counts
    assert all("LIMIT" in sql for sql in counts)


def test_the_list_refreshes_by_its_own_address_and_gets_only_what_changes(sign_in: Any, make: Make) -> None:
    client, session = sign_in(), make("watched")
    text = client.get(f"{LIST}?group=live", headers=LIVE).content.decode()
    assert str(session.pk) in text
    assert 'id="va-tabs"' in text
    assert "<html" not in text
    assert "changelist-filter" not in text
    response = client.get(LIST, headers=LIVE)
    assert "X-Live" in response["Vary"]
    assert "no-store" in response["Cache-Control"]
    assert Client().get(LIST, headers=LIVE).status_code == 302


def test_a_refresh_is_refused_like_the_page(make: Make, sign_in: Callable[..., Client]) -> None:
    session, client = make("private"), sign_in("close_agentsession", view=False)
    assert client.get(LIST, headers=LIVE).status_code == 403
    assert client.get(page_of(session), headers=LIVE).status_code == 403


def test_the_list_takes_as_many_queries_for_many_sessions_as_for_one(root: Client, make: Make) -> None:
    make("first")
    root.get(LIST, headers=LIVE)
    with CaptureQueriesContext(connection) as one:
        root.get(LIST, headers=LIVE)
    for number in range(10):
        make(f"call-{number}")
    with CaptureQueriesContext(connection) as many:
        root.get(LIST, headers=LIVE)
    assert len(one) == len(many)


def test_the_row_of_a_live_session_tells_its_last_event(root: Client, make: Make) -> None:
    make("one", "closing")
    text = root.get(LIST).content.decode()
    assert re.search(r'field-reason_mark"><time [^>]+>\d+ s</time><span [^>]+>close requested</span>', text)
