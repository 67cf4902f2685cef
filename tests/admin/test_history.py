"""How a session's history reads in the admin, and who reads what of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from django.test import Client

from tests.admin.conftest import page_of
from visionagents_runner.models import AgentSession, SessionEvent

TURN = {"participant_id": "p", "how": "speech", "end_of_turn_ms": 500, "recognition_ms": 300, "model_ms": 100}
SECRET = "my password is swordfish"
EVENTS: list[tuple[str, dict[str, Any], str]] = [
    (
        "message",
        {"message_id": "1", "role": "user", "user_id": "caller", "text": SECRET, "completed": True},
        f"caller: {SECRET}",
    ),
    (
        "message",
        {"message_id": "2", "role": "assistant", "user_id": "", "text": "Well,", "completed": False},
        "assistant: Well, (cut short)",
    ),
    (
        "turn",
        {**TURN, "voice_ms": None, "total_ms": 900, "interrupted": True},
        "spoken total 900 ms end of turn 500 ms recognition 300 ms model 100 ms interrupted",
    ),
    (
        "tool_started",
        {"tool_call_id": "c", "name": "look_up", "arguments": {"many": [1, 2], "thing": "key"}},
        "look_up(many=[1, 2], thing=key)",
    ),
    (
        "tool_ended",
        {"tool_call_id": "c", "name": "look_up", "ok": True, "ms": 12.6, "error": None, "result": {"at": "home"}},
        'look_up result {"at": "home"} took 12 ms',
    ),
    (
        "tool_ended",
        {"tool_call_id": "c", "name": "look_up", "ok": False, "ms": None, "error": "no such key", "result": None},
        "look_up failed no such key",
    ),
    ("error", {"component": "llm", "type": "ValueError", "message": "no", "recoverable": True}, "llm ValueError: no"),
    ("dropped", {"kinds": {"custom": 3}, "reason": "overload"}, "missing 3 custom reason overload"),
    ("custom", {"data": {"a": 1}, "from": "agent"}, 'data {"a": 1} from agent'),
    ("participant_joined", {"participant_id": "p-1", "user_id": "caller"}, "participant_id p-1 user_id caller"),
    ("turn", {"of": "an older version"}, "of an older version"),
    ("message", {"text": "<script>alert(1)</script>"}, "text <script>alert(1)</script>"),
]


@pytest.fixture
def session(make: Callable[..., AgentSession]) -> AgentSession:
    session = make()
    for number, (kind, data, _) in enumerate(EVENTS, start=10):
        SessionEvent.objects.create(session=session, seq=number, kind=kind, data=data)
    return session


def lines_of(client: Client, session: AgentSession) -> list[tuple[str, str]]:
    text = client.get(page_of(session)).content.decode()
    rows = re.findall(r'<span class="va-kind">(\w+)</span>.*?<td>(.*?)</td>\s*</tr>', text, re.DOTALL)
    assert "<script>alert" not in text
    return [(kind, " ".join(unescape(re.sub(r"<[^>]+>", " ", cell)).split())) for kind, cell in rows]


def test_each_kind_of_event_reads_as_a_sentence_or_as_its_data(
    sign_in: Callable[..., Client], session: AgentSession
) -> None:
    lines = lines_of(sign_in("view_transcript"), session)
    assert lines[-len(EVENTS) :] == [(kind, text) for kind, _, text in EVENTS]


def test_without_the_permission_to_read_transcripts_nothing_that_was_said_is_shown(
    sign_in: Callable[..., Client], session: AgentSession
) -> None:
    client = sign_in()
    kinds = [kind for kind, _ in lines_of(client, session)]
    assert kinds == ["requested", "started", "turn", "error", "dropped", "participant_joined", "turn"]
    assert SECRET not in client.get(page_of(session)).content.decode()
