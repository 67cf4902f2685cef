"""The page of a session: what it tells, to whom, and what a refresh brings."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.admin.conftest import LIST, page_of
from visionagents_runner.admin import session_page
from visionagents_runner.admin.latency import latency
from visionagents_runner.admin.timeline import timeline
from visionagents_runner.admin.tracebacks import read_report
from visionagents_runner.models import AgentSession, EndReason, EventLine, SessionEvent

Make = Callable[..., AgentSession]
SECRET = "my password is swordfish"


def happen(session: AgentSession, *events: tuple[float, str, dict[str, Any]]) -> None:
    """Append events, each so many seconds after the session was asked for."""
    lines = [
        EventLine(session.pk, kind, session.created_at + timedelta(seconds=second), data)
        for second, kind, data in events
    ]
    SessionEvent.objects.append(lines)
    session.refresh_from_db()


def said(text: str, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"message_id": text, "role": role, "user_id": "caller", "text": text, "completed": True, **more}


def turn(**parts: Any) -> dict[str, Any]:
    names = ("end_of_turn_ms", "recognition_ms", "model_ms", "voice_ms")
    shown = {name: parts.get(name) for name in names}
    total = sum(value or 0 for value in shown.values())
    return {"participant_id": "p", "how": "speech", **shown, "total_ms": total, "interrupted": False}


TALK: tuple[tuple[float, str, dict[str, Any]], ...] = (
    (1, "user_turn_started", {"participant_id": "p", "user_id": "caller"}),
    (3, "user_turn_ended", {"participant_id": "p", "user_id": "caller"}),
    (3.1, "message", said(SECRET)),
    (3.2, "tool_started", {"tool_call_id": "t", "name": "look_up", "arguments": {"word": SECRET}}),
    (
        3.6,
        "tool_ended",
        {"tool_call_id": "t", "name": "look_up", "ok": False, "ms": 400, "error": SECRET, "result": None},
    ),
    (4, "agent_turn_started", {}),
    (6, "agent_turn_ended", {"interrupted": True}),
    (6, "turn", turn(end_of_turn_ms=400, model_ms=500, voice_ms=100)),
    (7, "error", {"component": "stt", "type": "OSError", "message": "no", "recoverable": True}),
    (8, "asked", {"how": "say", "by": "operator", "text": SECRET}),
)


def live(client: Client, session: AgentSession, after: int = 0) -> str:
    response = client.get(page_of(session), headers={"X-Live": str(after)})
    assert response.status_code == 200
    return str(response.content.decode())


def seqs(text: str, list_id: str) -> list[int]:
    found = re.search(rf'id="{list_id}".*?</(?:ol|tbody)>', text, re.DOTALL)
    assert found
    return [int(seq) for seq in re.findall(r'data-seq="(\d+)"', found[0])]


def test_the_page_shows_turns_tools_errors_words_and_times(root: Client, make: Make) -> None:
    session = make()
    happen(session, *TALK)
    text = root.get(page_of(session)).content.decode()
    assert text.count("va-span va-span-people") == 2  # the turn, and the moment of its words
    assert "va-span va-span-agent va-cut" in text
    assert text.count("va-span va-span-bad") == 2  # the tool that failed, and the error
    assert "p50 1000 ms, p95 1000 ms, 1 of 1 at a second or more" in text
    assert '<td class="va-number va-slow">1,000</td>' in text
    assert text.count('class="va-said va-said-') == 2
    assert re.search(r"first audio</span>\s*<span class=\"va-step-time\"><time", text)


def test_who_may_only_view_reads_no_words_at_all_in_the_page_or_its_refresh(
    sign_in: Callable[..., Client], make: Make
) -> None:
    session, client = make(), sign_in()
    happen(session, *TALK)
    for text in (client.get(page_of(session)).content.decode(), live(client, session), live(client, session, 3)):
        assert SECRET not in text
        assert "look_up" not in text
        assert "va-said-text" not in text
        assert "What was said is for people with the permission" in text
        assert "va-span-agent" in text
        assert "operator" in text  # who spoke into it; not what they said


def test_who_may_only_view_sees_no_metrics_and_cannot_close(sign_in: Callable[..., Client], make: Make) -> None:
    session, client = make(metrics={"llm_input_tokens__total": 4711}), sign_in()
    for text in (client.get(page_of(session)).content.decode(), live(client, session)):
        assert "4,711" not in text
        assert "<button" not in text.split('id="va-closings"')[1].split("</ul>")[0]
    for name in ("close", "force-close"):
        answer = client.post(f"{LIST}{name}/", {"_selected_action": [str(session.pk)], "confirmed": "yes"})
        assert answer.status_code == 403
    session.refresh_from_db()
    assert session.close_requested_at is None


def test_a_refresh_brings_only_the_events_that_are_new(root: Client, make: Make) -> None:
    session = make()
    before = session.event_seq
    happen(session, *TALK)
    text = live(root, session, before)
    assert seqs(text, "va-events") == list(range(before + 1, session.event_seq + 1))
    assert len(seqs(text, "va-transcript")) == 2
    assert f'data-va-seq="{session.event_seq}"' in text


def test_a_refresh_without_news_reads_no_event(root: Client, make: Make) -> None:
    session = make()
    happen(session, *TALK)
    live(root, session)
    with CaptureQueriesContext(connection) as captured:
        text = live(root, session, session.event_seq)
    assert not [query for query in captured.captured_queries if "sessionevent" in query["sql"]]
    assert "va-events" not in text
    assert "va-tile-duration" in text
    assert 'id="va-closings"' in text


@pytest.mark.parametrize("value", ["", "-1", "x", "9" * 30, "0 OR 1"])
def test_a_number_that_is_none_means_everything(root: Client, make: Make, value: str) -> None:
    session = make()
    response = root.get(page_of(session), headers={"X-Live": value})
    assert response.status_code == 200
    assert seqs(response.content.decode(), "va-events") == [1, 2]


def test_a_long_history_is_cut_to_its_newest(root: Client, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOST_EVENTS", "MOST_WORDS", "MOST_DRAWN"):
        monkeypatch.setattr(session_page, name, 3)
    session = make()
    happen(session, *((number, "message", said(f"line {number}")) for number in range(5)))
    text = root.get(page_of(session)).content.decode()
    assert seqs(text, "va-events") == seqs(text, "va-transcript") == [5, 6, 7]
    assert "The newest 3 of them." in text
    assert "The newest 3 messages." in text
    assert "The newest part of it." in text
    assert text.count("va-span va-span-people") == 3
    assert re.search(r'va-tick"[^>]*text-anchor="start">0:02<', text)  # since the session began


def test_long_texts_leave_room_for_fewer(root: Client, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make()
    happen(session, *((number, "message", said(f"line {number} {'x' * 15_000}")) for number in range(5)))
    text = root.get(page_of(session)).content.decode()
    assert seqs(text, "va-transcript") == [3, 4, 5, 6, 7]
    assert text.count("x" * 15_000) == 5  # the words whole, and the lines of the events cut
    assert text.count("x…") == 5
    monkeypatch.setattr(session_page, "MOST_SHOWN", 70_000)
    text = root.get(page_of(session)).content.decode()
    assert seqs(text, "va-transcript") == [6, 7]
    assert "The newest 2 messages." in text
    monkeypatch.setattr(session_page, "MOST_SHOWN", 5000)
    text = root.get(page_of(session)).content.decode()
    assert seqs(text, "va-transcript") == [7]
    assert seqs(text, "va-events") == [7]
    assert "The newest 1 of them." in text


def test_an_ended_session_says_so_to_the_script(root: Client, make: Make) -> None:
    assert "data-va-over" not in root.get(page_of(make("live"))).content.decode()
    session = make("over", "failed", reason=EndReason.ERROR)
    text = live(root, session)
    assert "data-va-over" in text
    assert "va-step-bad" in text


def test_the_trail_names_who_asked_spoke_and_closed_each_once(root: Client, make: Make) -> None:
    starter = get_user_model().objects.create_user("starter")
    session = make(started_by=starter, source="api")
    happen(session, TALK[-1])
    root.post(f"{LIST}close/", {"_selected_action": [str(session.pk)], "confirmed": "yes"})
    root.post(f"{LIST}force-close/", {"_selected_action": [str(session.pk)], "confirmed": "yes"})
    lines = root.get(page_of(session)).context["audit"]
    told = [(line.who, line.what, line.where) for line in lines]
    assert LogEntry.objects.count() == 2
    assert sorted(told) == sorted(
        [
            ("starter", "Asked for the session.", "api"),
            ("operator", "Had the agent say something.", ""),
            ("root", "Asked to close.", "admin"),
            ("root", "Forced to close.", "admin"),
        ]
    )


def test_the_lines_of_the_project_stand_first_in_an_error() -> None:
    report = read_report(
        "Traceback (most recent call last):\n"
        '  File "/venv/lib/python3.11/site-packages/visionagents_runner/sessions/x.py", line 2, in _run\n    join()\n'
        '  File "/srv/agents.py", line 7, in join_call\n    await greet()\n    ^^^^^^^^^^^^^\n'
        '  File "/srv/greeting.py", line 9, in greet\n    raise ValueError(name)\n'
        "ValueError: two\nlines\n"
    )
    assert report.summary == "ValueError: two\nlines"
    assert [(frame.path, frame.line, frame.code) for frame in report.frames] == [
        ("/srv/greeting.py", 9, "raise ValueError(name)"),
        ("/srv/agents.py", 7, "await greet()"),
    ]
    assert report.others == 1
    sentence = read_report("The worker has been silent.")
    assert (sentence.summary, sentence.frames, sentence.text) == ("The worker has been silent.", [], "")


@pytest.mark.parametrize("data", [[], "text", {}, {"total_ms": "many"}, {"total_ms": True}, {"total_ms": None}])
def test_events_of_another_shape_break_no_picture(make: Make, data: Any) -> None:
    session = make()
    now: datetime = session.created_at + timedelta(seconds=5)
    kinds = (
        "user_turn_started",
        "user_turn_ended",
        "tool_started",
        "tool_ended",
        "error",
        "dropped",
        "message",
        "turn",
    )
    events = [
        SessionEvent(session=session, seq=number, kind=kind, at=now, data=data) for number, kind in enumerate(kinds)
    ]
    assert not timeline(events, session.created_at, now).empty
    assert latency(events, session.created_at).turns == []
