from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.sites import site
from django.contrib.admin.templatetags.admin_list import date_hierarchy
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.html import escape

from tests.admin.conftest import LIST, WORKERS, page_of
from visionagents_runner.admin.base import CappedPaginator
from visionagents_runner.models import AgentSession, EndReason, SessionEvent, SessionStatus, Slot, Worker

pytestmark = pytest.mark.slow

Make = Callable[..., AgentSession]
ENDS = {"closed": EndReason.FINISHED, "failed": EndReason.CREATE_FAILED, "lost": EndReason.WORKER_LOST}


def text_of(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200, response.status_code
    return response.content.decode()


def calls_in(client: Client, query: str) -> set[str]:
    response = client.get(f"{LIST}?{query}")
    assert response.status_code == 200, response
    return {session.call_id for session in response.context["cl"].result_list}


def test_slots_and_events_have_no_admin() -> None:
    assert not site.is_registered(Slot)
    assert not site.is_registered(SessionEvent)


@pytest.mark.smoke
def test_the_list_shows_a_session_of_each_state(root: Client, make: Make) -> None:
    for status in SessionStatus.values:
        make(f"call-{status}", status, reason=ENDS.get(status))
    text = text_of(root, LIST)
    for status in SessionStatus:
        assert f'<span class="va-state va-state-{status.value}">{status.label}</span>' in text
        assert f"call-{status.value}" in text


def test_the_list_tells_who_where_why_and_whether_there_is_an_error(root: Client, make: Make) -> None:
    operator = get_user_model().objects.create_user("operator")
    make("broken", "failed", reason=EndReason.JOIN_FAILED, error="Traceback: secret", started_by=operator, source="api")
    text = text_of(root, LIST)
    for words in ("operator", "via api", "web-1:4211", "could not join the call", "has error"):
        assert words in text
    assert "Traceback" not in text


def test_the_list_takes_as_many_queries_for_many_sessions_as_for_one(root: Client, make: Make) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            text_of(root, LIST)
        assert not any('"traceback' in query["sql"] for query in captured.captured_queries)
        return len(captured)

    make("first", started_by=get_user_model().objects.create_user("user"))
    text_of(root, LIST)
    once = queries()
    for number in range(10):
        user = get_user_model().objects.create_user(f"user-{number}")
        host = Worker.objects.create(hostname=f"host-{number}", pid=number)
        make(f"call-{number}", "closed", error="x", started_by=user, worker=host, metadata={"a": 1})
    assert queries() == once


def test_the_list_does_not_load_tracebacks_metadata_and_metrics(root: Client, make: Make) -> None:
    make("call", "closed", error="a long traceback")
    response = root.get(LIST)
    assert response.context["cl"].result_list[0].get_deferred_fields() == {"error", "metadata", "metrics"}


def test_counting_stops_at_a_limit_and_says_so(root: Client, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CappedPaginator, "limit", 3)
    for number in range(5):
        make(f"call-{number}")
    with CaptureQueriesContext(connection) as captured:
        response = root.get(LIST)
    assert response.context["cl"].result_count == 3
    assert "Counting stops at 3" in response.content.decode()
    counts = [query["sql"] for query in captured.captured_queries if "COUNT(" in query["sql"]]
    assert counts
    assert all("LIMIT" in sql for sql in counts)


@pytest.mark.smoke
def test_filters_select_what_they_say(root: Client, make: Make, worker: Worker) -> None:
    other = Worker.objects.create(hostname="other", pid=1)
    make("live", agent="coach")
    make("waiting", "queued")
    make("ended", "closed", worker=other)
    make("failed", "failed", reason=EndReason.ERROR, error="boom")
    assert calls_in(root, "group=live") == {"live", "waiting"}
    assert calls_in(root, "group=ended") == {"ended", "failed"}
    assert calls_in(root, "group=error") == {"failed"}
    assert calls_in(root, "status__exact=queued") == {"waiting"}
    assert calls_in(root, "end_reason__exact=error") == {"failed"}
    assert calls_in(root, "agent=coach") == {"live"}
    assert calls_in(root, f"worker={other.pk}") == {"ended"}
    assert calls_in(root, "worker=none") == {"waiting"}
    year = datetime.now(UTC).year
    assert len(calls_in(root, f"created_at__year={year}")) == 4
    assert calls_in(root, f"created_at__year={year - 5}") == set()


@pytest.mark.parametrize("query", ["worker=junk", "worker=%00", "agent=%00", "agent=%27%22%3E", "group=junk", "p=9999"])
def test_nonsense_in_the_url_is_no_error(root: Client, make: Make, query: str) -> None:
    make()
    assert root.get(f"{LIST}?{query}", follow=True).status_code == 200


def test_search_finds_calls_and_whole_session_ids(root: Client, make: Make) -> None:
    found = make("support 4711/x", call_type="livestream")
    twin = make(str(found.pk))
    make("other")
    assert calls_in(root, "q=4711") == {found.call_id}
    assert calls_in(root, "q=Livestream") == {found.call_id}
    assert calls_in(root, "q=support+4711") == {found.call_id}
    assert calls_in(root, "q=livestream/support") == {found.call_id}
    assert calls_in(root, f"q={found.pk}") == {found.call_id, twin.call_id}
    assert calls_in(root, f"q={str(found.pk)[:8]}") == {twin.call_id}
    assert calls_in(root, "q=4711+other") == set()


def test_an_empty_list_says_how_to_start_a_session(root: Client) -> None:
    text = text_of(root, LIST)
    assert "No session yet" in text
    assert "manage.py runagent" in text
    assert "No worker yet" in text_of(root, WORKERS)


@pytest.mark.parametrize(
    "call_id",
    ["<script>alert(1)</script>", "\U0001f600" * 255, "x" * 255, "   ", "a/b*c%d", "evil\u202egnp.exe", "'\"&"],
)
def test_strange_call_ids_are_shown_escaped(root: Client, make: Make, call_id: str) -> None:
    session = make(call_id, call_type=call_id, worker=None, status="queued", metadata={"</script>": "<b>"})
    assert "<script>alert" not in text_of(root, LIST)
    text = text_of(root, page_of(session))
    assert f'<bdi class="va-verbatim">{escape(call_id)}</bdi>' in text
    assert "<script>alert" not in text
    assert "<b>" not in text
    answer = root.post(f"{LIST}close/", {"_selected_action": [str(session.pk)]})
    assert answer.status_code == 200
    assert escape(call_id) in answer.content.decode()
    assert "<script>alert" not in answer.content.decode()
    root.post(f"{LIST}close/", {"_selected_action": [str(session.pk)], "confirmed": "yes"})
    assert text_of(root, f"{LIST}{session.pk}/history/")


TRACEBACK = """Traceback (most recent call last):
  File "<frozen os>", line 1, in environ
  File "/srv/project/agents.py", line 7, in create_agent
    key = os.environ["<KEY>"]
KeyError: 1"""


@pytest.mark.smoke
def test_the_page_shows_a_failed_session_with_its_traceback(root: Client, make: Make) -> None:
    session = make("broken", "failed", reason=EndReason.CREATE_FAILED, error=TRACEBACK)
    text = text_of(root, page_of(session))
    assert f'<pre class="va-pre" tabindex="0">{escape(TRACEBACK)}</pre>' in text
    assert '<p class="va-error-text">KeyError: 1</p>' in text
    assert '<span class="va-frame-place">/srv/project/agents.py:7</span>' in text
    assert "agent could not be built" in text
    assert str(session.pk) in text


def test_the_page_shows_times_metadata_metrics_and_events_in_order(root: Client, make: Make) -> None:
    session = make(metadata={"ticket": 4711}, metrics={"llm_input_tokens__total": 12044, "llm_latency_ms__avg": None})
    session.mark_joined()
    session.finish(EndReason.IDLE)
    AgentSession.objects.filter(pk=session.pk).update(
        ended_at=session.created_at + timedelta(minutes=4, seconds=12), metrics_at=session.created_at
    )
    text = text_of(root, page_of(session))
    assert "&quot;ticket&quot;: 4711" in text
    assert "12,044" in text
    assert "4 min 12 s" in text
    kinds = re.findall(r'<span class="va-kind">(\w+)</span>', text)
    assert kinds == ["requested", "started", "joined", "ended"]


def test_a_session_without_worker_user_and_times_has_a_page(root: Client, make: Make) -> None:
    user = get_user_model().objects.create_user("leaver")
    session = make("waiting", "queued", started_by=user)
    user.delete()
    assert "queued" in text_of(root, page_of(session))
    assert "waiting" in text_of(root, LIST)


def test_metrics_and_what_was_said_need_permissions_of_their_own(sign_in: Callable[..., Client], make: Make) -> None:
    session = make(metrics={"llm_latency_ms__avg": 1})
    SessionEvent.objects.create(session=session, seq=99, kind="user_turn", data={"text": "my password"})
    client = sign_in()
    text = text_of(client, page_of(session))
    assert "llm_latency_ms__avg" not in text
    assert "my password" not in text
    get_user_model().objects.all().delete()
    text = text_of(sign_in("view_metrics", "view_transcript"), page_of(session))
    assert "llm_latency_ms__avg" in text
    assert "my password" in text


def test_what_errors_say_needs_a_permission_of_its_own(sign_in: Callable[..., Client], make: Make) -> None:
    session = make("broken", "failed", reason=EndReason.ERROR, error=f"{TRACEBACK}\nnot for everybody")
    error = {"component": "llm", "type": "APIError", "message": "it said: my password", "recoverable": True}
    SessionEvent.objects.create(session=session, seq=99, kind="error", data=error)
    lost = {"component": "stt", "state": "disconnected", "reason": "my password"}
    SessionEvent.objects.create(session=session, seq=100, kind="connection", data=lost)
    client = sign_in()
    for headers in ({}, {"X-Live": "0"}):
        text = client.get(page_of(session), headers=headers).content.decode()
        assert "“Can read the errors and tracebacks of agent sessions”" in text
        assert "APIError" in text
        assert "disconnected" in text
        for hidden in ("not for everybody", "agents.py", "KeyError", "my password"):
            assert hidden not in text
    get_user_model().objects.all().delete()
    text = text_of(sign_in("view_transcript"), page_of(session))
    assert "not for everybody" not in text
    assert "my password" in text
    get_user_model().objects.all().delete()
    text = text_of(sign_in("view_error"), page_of(session))
    assert "not for everybody" in text
    assert text.count("my password") == 2
    assert "“Can read the errors" not in text


def test_nothing_from_outside_turns_or_hides_text_of_the_page(root: Client, make: Make) -> None:
    user = get_user_model().objects.create_user("a\u202euser")
    session = make(
        "c",
        "failed",
        reason=EndReason.ERROR,
        error="x\x1b[2J\u202ey\u2028z",
        metadata={"a\u202e": "b\u2066\x9b"},
        started_by=user,
    )
    SessionEvent.objects.create(session=session, seq=99, kind="custom", data={"data": {"c\u202e": "d\u2066"}})
    text = text_of(root, page_of(session))
    assert "<bdi>a\u202euser</bdi>" in text
    assert not set("\x1b\x9b\u2066\u2028") & set(text)
    assert text.count("\u202e") == text.count("<bdi>a\u202euser</bdi>")


def test_nobody_adds_changes_or_deletes(root: Client, make: Make, worker: Worker) -> None:
    session = make()
    for base, pk in ((LIST, session.pk), (WORKERS, worker.pk)):
        assert root.get(f"{base}add/").status_code == 403
        assert root.get(f"{base}{pk}/delete/").status_code == 403
        assert root.post(f"{base}{pk}/change/", {"status": "closed"}).status_code == 403
    assert "delete_selected" not in text_of(root, LIST)
    session.refresh_from_db()
    assert session.status == SessionStatus.ACTIVE


def test_viewing_needs_the_permission(sign_in: Callable[..., Client], make: Make, worker: Worker) -> None:
    session = make()
    client = sign_in("close_agentsession", "force_close_agentsession", view=False)
    for url in (LIST, page_of(session), WORKERS, f"{WORKERS}{worker.pk}/change/"):
        assert client.get(url).status_code == 403
    assert client.post(f"{LIST}close/", {"_selected_action": [str(session.pk)]}).status_code == 403


def test_an_id_that_does_not_exist_leads_back(root: Client) -> None:
    for pk in ("junk", "00000000-0000-0000-0000-000000000000"):
        assert root.get(f"{LIST}{pk}/change/").status_code == 302


def test_pages_hold_no_inline_script_or_style(root: Client, make: Make, worker: Worker) -> None:
    session = make(metadata={"a": 1}, metrics={"b": 2})
    make("over", "failed", reason=EndReason.ERROR, error="x")
    pages = [text_of(root, url) for url in (LIST, page_of(session), WORKERS, f"{WORKERS}{worker.pk}/change/")]
    pages.append(root.post(f"{LIST}force-close/", {"_selected_action": [str(session.pk)]}).content.decode())
    for text in pages:
        assert "visionagents_runner/admin.css" in text
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
        assert all(" src=" in tag for tag in re.findall(r"<script[^>]*>", text))


def test_a_live_session_on_a_silent_worker_is_marked(root: Client, make: Make, silent_worker: Worker) -> None:
    make("alone", worker=silent_worker)
    assert "va-badge" in text_of(root, LIST)
    AgentSession.objects.all().finish(EndReason.WORKER_LOST)
    assert "va-badge" not in text_of(root, LIST)


class InPython:
    """What Django's queryset finds, for a database that has no time zones of its own, as MariaDB often has none."""

    def __init__(self, moments: Iterable[datetime]) -> None:
        self._moments = [timezone.localtime(moment) for moment in moments]

    def aggregate(self, **wanted: Any) -> dict[str, datetime | None]:
        return {"first": min(self._moments, default=None), "last": max(self._moments, default=None)}

    def datetimes(self, field: str, kind: str) -> list[datetime]:
        first = {"year": {"month": 1, "day": 1}, "month": {"day": 1}, "day": {}}[kind]
        midnight = {"hour": 0, "minute": 0, "second": 0, "microsecond": 0}
        return sorted({moment.replace(**first, **midnight) for moment in self._moments})


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/Sao_Paulo"])
def test_the_dates_above_the_list_are_those_that_django_finds(
    root: Client, make: Make, settings: Any, zone: str
) -> None:
    settings.TIME_ZONE = zone
    moments = ["2023-12-31T23:30", "2024-01-01T00:10", "2024-02-29T12:00", "2024-02-29T23:59", "2025-12-31T11:30"]
    for number, moment in enumerate(moments):
        session = make(f"call-{number}")
        created = datetime.fromisoformat(moment).replace(tzinfo=UTC)
        AgentSession.objects.filter(pk=session.pk).update(created_at=created)
    for query in ("", "created_at__year=2024", "created_at__year=2024&created_at__month=2", "q=call-2", "q=nowhere"):
        changelist = root.get(f"{LIST}?{query}").context["cl"]
        with timezone.override(zone):
            ours = date_hierarchy(changelist.with_periods())
            if not connection.features.has_zoneinfo_database:
                changelist.queryset = InPython(changelist.queryset.values_list("created_at", flat=True))
            assert ours == date_hierarchy(changelist)


def test_the_dates_above_the_list_take_no_look_at_every_session(root: Client, make: Make) -> None:
    for number in range(10):
        make(f"call-{number}")
    with CaptureQueriesContext(connection) as captured:
        text = text_of(root, LIST)
    assert "toplinks" in text
    assert not any("DISTINCT" in query["sql"] for query in captured.captured_queries)
