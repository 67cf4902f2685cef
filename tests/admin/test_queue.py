"""What the admin tells of sessions that wait for a worker, and of those that were started again."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib import messages
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.admin.conftest import LIST, WORKERS, page_of
from tests.admin.test_overview import LIVE, tiles
from visionagents_runner.models import AgentSession, EndReason, SessionEvent, Worker

Make = Callable[..., AgentSession]
CLOSE = f"{LIST}close/"


def plain(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def notice(client: Client, session: AgentSession) -> str:
    """What stands above the life of a session."""
    text = client.get(page_of(session)).content.decode()
    found = re.search(r'<div id="va-notices" data-va-live>(.*?)<ol', text, re.DOTALL)
    assert found
    return plain(found[1])


def events(client: Client, session: AgentSession) -> list[tuple[str, str]]:
    text = client.get(page_of(session)).content.decode()
    rows = re.findall(r'<span class="va-kind">(\w+)</span>.*?<td>(.*?)</td>\s*</tr>', text, re.DOTALL)
    return [(kind, plain(cell)) for kind, cell in rows]


def change(session: AgentSession, **values: Any) -> AgentSession:
    AgentSession.objects.filter(pk=session.pk).update(**values)
    session.refresh_from_db()
    return session


def due(session: AgentSession, seconds: float) -> AgentSession:
    return change(session, due_at=Now() - timedelta(seconds=seconds))


@pytest.fixture
def hosting(worker: Worker) -> Worker:
    """A worker with two places for the agent that sessions here are of."""
    Worker.objects.filter(pk=worker.pk).update(agents={"default": 2, "coach": None})
    worker.refresh_from_db()
    return worker


@pytest.fixture
def restarted(make: Make, silent_worker: Worker) -> tuple[AgentSession, AgentSession]:
    """A session whose worker was lost, and the one that goes on for it."""
    lost = make("clinic", "lost", reason=EndReason.WORKER_LOST, restartable=True, worker=silent_worker)
    return lost, AgentSession.objects.get(restart_of=lost)


def test_a_session_that_is_not_due_says_when_it_starts(root: Client, make: Make) -> None:
    session = make("later", "queued", priority=7)
    shown = notice(root, due(session, -7230))
    assert shown.startswith("Starts in 2 h 00 min")
    assert "Due " in shown
    assert "Priority 7. It waits until somebody closes it." in shown


def test_a_session_that_is_due_says_that_no_worker_has_room(root: Client, make: Make, hosting: Worker) -> None:
    session = due(make("waiting", "queued"), 190)
    assert "Of 2 places for its agent 2 are free" in notice(root, session)
    make("one")
    make("two")
    due(make("before", "queued", priority=1), 1)
    shown = notice(root, session)
    assert shown.startswith("Waits for a worker, 3 min 1")
    assert "No worker has room: all 2 places for its agent are taken." in shown
    assert "1 session of its agent goes before it." in shown


def test_it_says_that_no_worker_hosts_the_agent_or_that_none_takes_sessions(
    root: Client, make: Make, hosting: Worker
) -> None:
    nobody = make("lesson", "queued", agent="tutor")
    assert "No worker that hosts the agent “tutor” is running: start one." in notice(root, nobody)
    session = make("waiting", "queued")
    hosting.request_drain()
    assert "1 worker hosts its agent, and drains or is overloaded." in notice(root, session)
    hosting.withdraw_drain()
    Worker.objects.update(heartbeat_at=Now() - timedelta(hours=1))
    assert "No worker that hosts the agent “default” is running" in notice(root, session)


def test_a_worker_without_a_limit_should_take_it_at_once(root: Client, make: Make, hosting: Worker) -> None:
    assert "A worker without a limit hosts its agent" in notice(root, make("lesson", "queued", agent="coach"))


def test_a_session_that_a_limit_holds_says_which_and_when_it_is_tried_again(root: Client, make: Make) -> None:
    session = make("held", "queued")
    assert AgentSession.objects.postpone(session.pk, 3000, why="Reached maximum number of sessions")
    SessionEvent.objects.filter(session=session, kind="postponed").update(at=Now() - timedelta(minutes=5))
    session = change(session, attempts=3, expires_at=Now() + timedelta(hours=1))
    shown = notice(root, session)
    assert shown.startswith("Held by a limit for 5 min")
    assert "Reached maximum number of sessions. Tried 3 times. The next try is in 49 min" in shown
    assert re.search(r"If no worker takes it until .* in 59 min \d\d s , it ends.", shown)
    assert events(root, session)[-1] == (
        "postponed",
        "a limit is reached, it is tried again later: Reached maximum number of sessions",
    )


def test_the_notice_goes_with_the_wait_at_a_refresh(root: Client, make: Make, worker: Worker) -> None:
    session = make("waiting", "queued")
    headers = {"X-Live": str(session.event_seq)}
    assert "Waits for a worker" in root.get(page_of(session), headers=headers).content.decode()
    AgentSession.objects.claim(session.pk, worker.pk)
    text = root.get(page_of(session), headers=headers).content.decode()
    assert 'id="va-notices"' in text
    assert "Waits for a worker" not in text


def test_the_life_of_a_session_tells_when_a_worker_took_it(root: Client, make: Make, worker: Worker) -> None:
    session = make("waiting", "queued")
    assert re.search(r"taken by a worker</span>\s*<span [^>]+><span [^>]+>not yet", page(root, session))
    AgentSession.objects.claim(session.pk, worker.pk)
    assert re.search(r"taken by a worker</span>\s*<span [^>]+><time", page(root, session))
    assert events(root, session)[-1] == ("claimed", f"taken by {worker}")
    AgentSession.objects.unclaim(session.pk, worker.pk)
    assert re.search(r"taken by a worker</span>\s*<span [^>]+><span [^>]+>not yet", page(root, session))
    assert events(root, session)[-1] == ("requeued", "its worker gave it back before its agent was built")
    assert events(root, session)[-2] == ("claimed", f"taken by {worker}")
    assert "taken by a worker" not in page(root, make("direct"))


def page(client: Client, session: AgentSession) -> str:
    return client.get(page_of(session)).content.decode()


def test_a_lost_session_and_the_one_that_goes_on_link_to_each_other(
    root: Client, restarted: tuple[AgentSession, AgentSession]
) -> None:
    lost, successor = restarted
    assert notice(root, lost) == f"Its worker was lost: another session goes on for it {successor.pk} queued"
    assert f"Goes on for a session whose worker was lost {lost.pk} lost" in notice(root, successor)
    assert f'href="{page_of(successor)}"' in page(root, lost)
    assert f'href="{page_of(lost)}"' in page(root, successor)
    assert events(root, lost)[-1] == ("ended", f"reason worker lost goes on as {successor.pk}")
    assert events(root, successor)[0] == ("requested", f"source restart goes on for {lost.pk}")
    audit = re.search(r'id="va-audit-lines".*?</div>', page(root, successor), re.DOTALL)
    assert audit
    assert "by itself Started again, because its worker was lost." in plain(audit[0])


def test_a_session_that_will_be_started_again_says_so_while_it_runs(root: Client, make: Make) -> None:
    assert "once, if its worker is lost" in page(root, make("careful", restartable=True))
    assert "once, if its worker is lost" not in page(root, make("plain"))


def test_the_tile_tells_how_long_the_oldest_has_waited(root: Client, make: Make) -> None:
    assert tiles(root)["queued"] == ("0", "")
    due(make("later", "queued"), -3600)
    assert tiles(root)["queued"] == ("1", "none is due")
    held = make("held", "queued")
    AgentSession.objects.postpone(held.pk, 3600, why="full")
    SessionEvent.objects.filter(kind="postponed").update(at=Now() - timedelta(minutes=7))
    assert tiles(root)["queued"] == ("2", "held by a limit, 7 min")
    due(make("waiting", "queued"), 150)
    assert tiles(root)["queued"] == ("3", "oldest 2 min")
    assert 'va-tile-bad" id="va-tile-queued"' in root.get(LIST).content.decode()


def test_the_list_tells_what_each_waits_for_without_a_query_for_each(root: Client, make: Make) -> None:
    due(make("later", "queued"), -7300)
    root.get(LIST, headers=LIVE)
    with CaptureQueriesContext(connection) as one:
        root.get(LIST, headers=LIVE)
    for number in range(5):
        due(make(f"waiting-{number}", "queued"), 5)
        AgentSession.objects.postpone(make(f"held-{number}", "queued").pk, 60, why="full")
    with CaptureQueriesContext(connection) as many:
        text = root.get(f"{LIST}?status__exact=queued", headers=LIVE).content.decode()
    assert text.count("waits for a worker") == text.count("held by a limit<") == 5
    assert "starts in 2 h" in text
    assert len(many) <= len(one)


def test_closing_a_queued_session_says_that_it_ends_and_does_not_start(root: Client, make: Make) -> None:
    session = make("waiting", "queued")
    buttons = re.search(r'<ul class="va-closings".*?</ul>', page(root, session), re.DOTALL)
    assert buttons
    assert plain(buttons[0]) == "Close"
    asked = root.post(CLOSE, {"_selected_action": [str(session.pk)], "origin": str(session.pk)}).content.decode()
    assert "Close before it starts?" in asked
    assert "no agent joins the call" in asked
    assert "gets time to finish" not in asked
    done = root.post(CLOSE, {"_selected_action": [str(session.pk), str(make("live").pk)], "confirmed": "yes"})
    assert [str(message) for message in messages.get_messages(done.wsgi_request)] == [
        "1 session that waited has ended, and will not start.",
        "1 session was asked to close.",
    ]
    assert LogEntry.objects.get(object_id=str(session.pk)).change_message == "Ended before it started."
    session.refresh_from_db()
    assert (session.status, session.end_reason) == ("closed", "requested")
    assert events(root, session)[-1] == ("ended", "reason requested by root")


def test_the_page_of_a_worker_shows_its_agents_and_their_free_places(root: Client, make: Make, hosting: Worker) -> None:
    make("one")

    def agents() -> str:
        text = root.get(f"{WORKERS}{hosting.pk}/change/").content.decode()
        found = re.search(r'<div id="va-agents" data-va-live>(.*?)</div>\s*</section>', text, re.DOTALL)
        assert found
        return plain(found[1])

    assert agents() == "Agent Limit Runs Free coach none 0 no limit default 2 1 1"
    hosting.request_drain()
    assert agents() == "Agent Limit Runs Free coach none 0 - default 2 1 - It drains: it takes no new sessions."
    Worker.objects.update(agents={})
    assert agents() == "It has not told which agents it hosts: its version is older."
