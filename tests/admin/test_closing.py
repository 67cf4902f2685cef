from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import get_user_model
from django.test import Client

from tests.admin.conftest import LIST, page_of
from visionagents_runner.admin import closing
from visionagents_runner.messaging import notifications
from visionagents_runner.models import AgentSession, EndReason, SessionEvent, SessionStatus, Worker

Make = Callable[..., AgentSession]
CLOSE, FORCE = f"{LIST}close/", f"{LIST}force-close/"


def choose(client: Client, action: str, *sessions: AgentSession, query: str = "", across: bool = False) -> Any:
    """Run an action of the list, as its form does."""
    data = {"action": action, "index": "0", "_selected_action": [str(session.pk) for session in sessions]}
    return client.post(f"{LIST}{query}", {**data, "select_across": "1" if across else "0"})


def confirm(client: Client, url: str, *sessions: AgentSession, **data: str) -> Any:
    keys = [str(session.pk) for session in sessions]
    return client.post(url, {"_selected_action": keys, "confirmed": "yes", **data})


def told(response: Any) -> list[str]:
    return [str(message) for message in messages.get_messages(response.wsgi_request)]


@pytest.fixture
def requests(transactional_db: None) -> Iterator[list[tuple[list[uuid.UUID], str, bool]]]:
    """What the worker of this process is told, once it is committed."""
    heard: list[tuple[list[uuid.UUID], str, bool]] = []
    remove = notifications.on_close_request(lambda keys, by, force: heard.append((list(keys), by, force)))
    yield heard
    remove()


@pytest.mark.parametrize("action", ["close_gracefully", "force_close"])
def test_an_action_asks_first_and_names_who_is_hit_and_who_is_not(root: Client, make: Make, action: str) -> None:
    live, over = make("live-one"), make("over-one", "closed", reason=EndReason.IDLE)
    response = choose(root, action, live, over)
    assert response.status_code == 200
    assert [row["pk"] for row in response.context["targets"]] == [live.pk]
    assert [(row["pk"], row["what"]) for row in response.context["skipped"]] == [(over.pk, "ended already (idle)")]
    text = response.content.decode()
    assert "live-one" in text
    assert "over-one" in text
    assert f'value="{live.pk}"' in text
    assert f'value="{over.pk}"' not in text
    live.refresh_from_db()
    assert live.close_requested_at is None


def test_the_confirmed_close_is_requested_logged_and_told(
    root: Client, make: Make, requests: list[tuple[list[uuid.UUID], str, bool]]
) -> None:
    first, second, over = make("first"), make("second"), make("over", "closed")
    response = confirm(root, CLOSE, first, second, over)
    assert response.status_code == 302
    assert response.url == LIST
    assert told(response) == [
        "2 sessions were asked to close.",
        "1 session was left alone: it had ended or was closing already.",
    ]
    for session in (first, second):
        session.refresh_from_db()
        assert session.status == SessionStatus.CLOSING
        assert not session.force_close
        assert SessionEvent.objects.get(session=session, kind="close_requested").data["by"] == "root"
    [(keys, by, force)] = requests
    assert (set(keys), by, force) == ({first.pk, second.pk}, "root", False)
    entries = LogEntry.objects.all()
    assert {entry.object_id for entry in entries} == {str(first.pk), str(second.pk)}
    assert {(entry.user.get_username(), entry.action_flag, entry.change_message) for entry in entries} == {
        ("root", CHANGE, "Asked to close.")
    }
    assert "Asked to close." in root.get(f"{LIST}{first.pk}/history/").content.decode()


def test_a_forced_close_reaches_a_session_that_is_closing_already(
    root: Client, make: Make, requests: list[tuple[list[uuid.UUID], str, bool]]
) -> None:
    session = make("stuck", "closing")
    assert choose(root, "close_gracefully", session).context["targets"] == []
    assert [row["what"] for row in choose(root, "force_close", session).context["targets"]] == [
        "Its agent is abandoned."
    ]
    response = confirm(root, FORCE, session)
    assert told(response) == ["1 session was forced to close."]
    session.refresh_from_db()
    assert session.force_close
    assert requests == [([session.pk], "root", True)]
    assert LogEntry.objects.get().change_message == "Forced to close."


def test_queued_and_unreachable_sessions_can_be_closed(root: Client, make: Make, silent_worker: Worker) -> None:
    queued = make("queued", "queued")
    unreachable = make("unreachable", "unreachable", worker=silent_worker)
    what = {row["pk"]: row["what"] for row in choose(root, "close_gracefully", queued, unreachable).context["targets"]}
    assert what[queued.pk] == "Ends now: no worker has taken it yet."
    assert "silent" in what[unreachable.pk]
    confirm(root, CLOSE, queued, unreachable)
    queued.refresh_from_db()
    unreachable.refresh_from_db()
    assert (queued.status, queued.end_reason) == (SessionStatus.CLOSED, EndReason.REQUESTED)
    assert unreachable.status == SessionStatus.UNREACHABLE
    assert unreachable.close_requested_at is not None
    [row] = choose(root, "force_close", unreachable).context["targets"]
    assert row["what"] == "Ends now: its worker is silent."
    confirm(root, FORCE, unreachable)
    unreachable.refresh_from_db()
    assert (unreachable.status, unreachable.end_reason) == (SessionStatus.CLOSED, EndReason.REQUESTED)


@pytest.mark.parametrize(
    ("permission", "allowed", "refused"),
    [
        ("close_agentsession", ("close_gracefully", CLOSE), ("force_close", FORCE)),
        ("force_close_agentsession", ("force_close", FORCE), ("close_gracefully", CLOSE)),
    ],
)
def test_each_action_needs_its_own_permission(
    sign_in: Callable[..., Client],
    make: Make,
    permission: str,
    allowed: tuple[str, str],
    refused: tuple[str, str],
) -> None:
    session = make()
    client = sign_in(permission)
    text = client.get(LIST).content.decode()
    assert f'value="{allowed[0]}"' in text
    assert f'value="{refused[0]}"' not in text
    page = client.get(page_of(session)).content.decode()
    assert f'action="{allowed[1]}"' in page
    assert f'action="{refused[1]}"' not in page
    assert choose(client, refused[0], session).status_code == 302
    assert client.post(refused[1], {"_selected_action": [str(session.pk)]}).status_code == 403
    assert confirm(client, refused[1], session).status_code == 403
    session.refresh_from_db()
    assert session.status == SessionStatus.ACTIVE
    assert confirm(client, allowed[1], session).status_code == 302
    session.refresh_from_db()
    assert session.status == SessionStatus.CLOSING


def test_who_may_only_view_gets_no_action_and_no_button(sign_in: Callable[..., Client], make: Make) -> None:
    session = make()
    client = sign_in()
    assert 'name="action"' not in client.get(LIST).content.decode()
    assert "va-tool" not in client.get(page_of(session)).content.decode()
    for url in (CLOSE, FORCE):
        assert confirm(client, url, session).status_code == 403
    assert not LogEntry.objects.exists()


def test_strangers_are_sent_to_sign_in(client: Client, make: Make) -> None:
    response = confirm(client, CLOSE, make())
    assert response.status_code == 302
    assert "/admin/login/" in response.url


def test_the_form_needs_a_csrf_token(make: Make) -> None:
    session = make()
    client = Client(enforce_csrf_checks=True)
    client.force_login(get_user_model().objects.create_superuser("root"))
    assert confirm(client, CLOSE, session).status_code == 403
    page = client.get(page_of(session)).content.decode()
    assert page.count("csrfmiddlewaretoken") >= 3
    assert confirm(client, CLOSE, session, csrfmiddlewaretoken=client.cookies["csrftoken"].value).status_code == 302


def test_buttons_are_there_only_while_there_is_something_to_close(root: Client, make: Make) -> None:
    def buttons(session: AgentSession) -> list[str]:
        return [str(each["label"]) for each in root.get(page_of(session)).context["closings"]]

    assert buttons(make("live")) == ["Close gracefully", "Force close"]
    assert buttons(make("closing", "closing")) == ["Force close"]
    assert buttons(make("over", "closed")) == []


def test_a_button_leads_over_the_confirmation_back_to_the_page(root: Client, make: Make) -> None:
    session = make("from-page")
    response = root.post(CLOSE, {"_selected_action": [str(session.pk)], "origin": str(session.pk)})
    assert response.context["back_url"] == page_of(session)
    assert f'name="origin" value="{session.pk}"' in response.content.decode()
    assert confirm(root, CLOSE, session, origin=str(session.pk)).url == page_of(session)


def test_filters_of_the_list_survive(root: Client, make: Make) -> None:
    session = make()
    response = choose(root, "close_gracefully", session, query="?group=live&q=call")
    assert response.context["back_url"] == f"{LIST}?group=live&q=call"
    assert confirm(root, response.context["action_url"], session).url == f"{LIST}?group=live&q=call"


def test_a_session_that_left_the_filter_meanwhile_is_closed_all_the_same(root: Client, make: Make) -> None:
    session = make("soon", "starting")
    response = choose(root, "close_gracefully", session, query="?status__exact=starting")
    session.mark_active(agent_id="agent-1")
    confirm(root, response.context["action_url"], session)
    session.refresh_from_db()
    assert session.status == SessionStatus.CLOSING


def test_a_session_that_ended_meanwhile_is_left_alone(root: Client, make: Make) -> None:
    session = make()
    session.finish(EndReason.IDLE)
    response = confirm(root, CLOSE, session)
    assert told(response) == ["1 session was left alone: it had ended or was closing already."]
    assert not LogEntry.objects.exists()
    session.refresh_from_db()
    assert session.end_reason == EndReason.IDLE


def test_all_of_a_long_list_can_be_chosen_but_a_bounded_number_is_closed(
    root: Client, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "MOST_AT_ONCE", 3)
    monkeypatch.setattr(closing, "_MOST_SKIPPED", 2)
    sessions = [make(f"call-{number}") for number in range(5)]
    for number in range(4):
        make(f"over-{number}", "closed")
    response = choose(root, "close_gracefully", sessions[0], across=True)
    assert [row["pk"] for row in response.context["targets"]] == [session.pk for session in sessions[:3]]
    text = response.content.decode()
    assert "These are the oldest 3" in text
    assert "And more that have ended." in text


def test_nothing_to_close_shows_no_button(root: Client, make: Make) -> None:
    text = choose(root, "close_gracefully", make("over", "closed")).content.decode()
    assert "There is nothing to close." in text
    assert 'type="submit" class=' not in text


@pytest.mark.parametrize("keys", [[], ["junk"], [str(uuid.UUID(int=0))]])
def test_ids_that_mean_nothing_change_nothing(root: Client, make: Make, keys: list[str]) -> None:
    session = make()
    assert root.post(CLOSE, {"_selected_action": keys, "confirmed": "yes"}).status_code == 302
    data = {"action": "close_gracefully", "index": "0", "select_across": "0", "_selected_action": keys}
    assert root.post(LIST, data, follow=True).status_code == 200
    session.refresh_from_db()
    assert session.status == SessionStatus.ACTIVE


def test_the_confirmation_cannot_be_opened_by_a_link(root: Client, make: Make) -> None:
    session = make()
    response = root.get(f"{CLOSE}?_selected_action={session.pk}&confirmed=yes")
    assert response.status_code == 302
    assert response.url == LIST
    session.refresh_from_db()
    assert session.status == SessionStatus.ACTIVE


def test_closing_runs_outside_the_requests_transaction() -> None:
    from django.urls import resolve

    assert resolve(CLOSE).func._non_atomic_requests == {"default"}
