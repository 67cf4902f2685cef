"""Speaking into a session from outside."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from tests.api.fixtures import Serve
from tests.api.test_sessions import elsewhere, start
from tests.asgi_client import REMOTE, Client
from tests.conftest import until
from tests.observe.parts import LiveModel
from visionagents_runner import ServeOptions
from visionagents_runner.models import EndReason, SessionEvent, Worker
from visionagents_runner.sessions import commands
from visionagents_runner.store import database
from visionagents_runner.testing import join_call, stub_agent
from visionagents_runner.worker.current import current_worker


@pytest.fixture
async def talking(serve: Serve, allow_local: None) -> Client:
    """A client of agents that are real but for their model."""
    return await serve(create=stub_agent, join=join_call)  # type: ignore[no-any-return]


def live(session_id: str) -> Any:
    worker = current_worker()
    assert worker is not None
    return worker.get_session(session_id)


async def start_talking(client: Client) -> str:
    session_id = await start(client)
    await until(lambda: live(session_id).agent.conversation is not None)
    return session_id


def said(session_id: str) -> list[str]:
    return [message.content for message in live(session_id).agent.conversation.messages]


async def test_the_agent_says_what_it_is_told(talking: Client) -> None:
    session_id = await start_talking(talking)
    answer = await talking.post(f"/sessions/{session_id}/say", {"text": "One moment, please."})
    assert (answer.status, answer.json()) == (202, {"success": True})
    assert said(session_id) == ["One moment, please."]


async def test_the_agent_responds_to_an_instruction_that_nobody_on_the_call_sees(talking: Client) -> None:
    session_id = await start_talking(talking)
    person = live(session_id).agent.edge.person()
    answer = await talking.post(f"/sessions/{session_id}/respond/", {"text": "greet them"})
    assert answer.status == 202
    seen = []
    async with asyncio.timeout(10):
        async for event in person:
            seen.append(event)
            if getattr(event, "completed", False):
                break
    assert said(session_id) == ["You said: greet them"]
    assert not any("greet them" in str(event) for event in seen if getattr(event, "role", "") != "assistant")


async def test_the_history_keeps_who_asked_and_for_what(talking: Client) -> None:
    session_id = await start_talking(talking)
    await talking.post(f"/sessions/{session_id}/say", {"text": "Hold on."})
    await talking.post(f"/sessions/{session_id}/respond", {"text": "greet", "interrupt": False})
    session = live(session_id)
    session.request_close()
    await session.wait_ended()
    asked = await database.read(
        lambda: list(SessionEvent.objects.filter(session=session_id, kind="asked").values_list("data", flat=True))
    )
    assert asked == [
        {"how": "say", "by": "local", "text": "Hold on."},
        {"how": "respond", "by": "local", "text": "greet"},
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": ""}, "text"),
        ({"text": " \n "}, "text"),
        ({"text": "x" * 4001}, "text"),
        ({"text": 5}, "text"),
        ({"text": "\ud800"}, "text"),
        ({"text": "hello", "interrupt": "perhaps"}, "interrupt"),
    ],
)
async def test_a_text_that_cannot_be_said_is_refused(client: Client, body: dict[str, Any], field: str) -> None:
    session_id = await start(client)
    for how in ("say", "respond"):
        answer = await client.post(f"/sessions/{session_id}/{how}", body)
        assert answer.status == 422
        assert answer.detail[0]["loc"] == ["body", field]


async def test_who_cannot_be_spoken_through_says_why(client: Client) -> None:
    session_id = await start(client)  # an agent that never has a conversation
    row = await elsewhere()
    await database.write(
        Worker.objects.filter(pk=row.worker_id).update, heartbeat_at=timezone.now() - timedelta(hours=1)
    )
    ended = await elsewhere(call_id="over")
    await database.write(ended.finish, EndReason.FINISHED)
    for how in ("say", "respond"):
        answers = [
            await client.post(f"/sessions/{key}/{how}", {"text": "hello"}) for key in (session_id, row.pk, ended.pk)
        ]
        assert [answer.status for answer in answers] == [409, 409, 409]
        assert "not joined" in answers[0].detail
        assert "silent" in answers[1].detail
        assert "ended" in answers[2].detail
        missing = await client.post(f"/sessions/6b1f7ad0-0000-4000-8000-000000000000/{how}", {"text": "hello"})
        assert missing.status == 404


async def test_a_realtime_model_is_asked_to_respond_instead(serve: Serve, allow_local: None) -> None:
    client = await serve(create=lambda: stub_agent(llm=LiveModel(), tts=None), join=join_call)
    session_id = await start_talking(client)
    answer = await client.post(f"/sessions/{session_id}/say", {"text": "hello"})
    assert answer.status == 409
    assert "respond" in answer.detail
    assert (await client.post(f"/sessions/{session_id}/respond", {"text": "hello"})).status == 202


async def test_an_agent_that_fails_or_hangs_is_told(
    talking: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session_id = await start_talking(talking)
    agent = live(session_id).agent

    async def fail(text: str, interrupt: bool = False) -> None:
        raise RuntimeError("secret of the provider")

    async def hang(text: str, interrupt: bool = False) -> None:
        await asyncio.sleep(3)

    agent.say = fail
    answer = await talking.post(f"/sessions/{session_id}/say", {"text": "hello"})
    assert answer.status == 502
    assert "secret" not in answer.detail
    monkeypatch.setattr(commands, "SPEAK_SECONDS", 0.05)
    agent.say = hang
    assert (await talking.post(f"/sessions/{session_id}/say", {"text": "hello"})).status == 504
    del agent.say


async def test_a_client_that_leaves_does_not_take_the_words_back(talking: Client) -> None:
    session_id = await start_talking(talking)
    agent = live(session_id).agent
    original, begun, go = agent.say, asyncio.Event(), asyncio.Event()

    async def slow(text: str, interrupt: bool = False) -> None:
        begun.set()
        await go.wait()
        await original(text, interrupt=interrupt)

    agent.say = slow
    leave = asyncio.Event()
    asking = asyncio.create_task(talking.post(f"/sessions/{session_id}/say", {"text": "Still here."}, leave=leave))
    await begun.wait()
    leave.set()
    await asyncio.wait({asking}, timeout=0.2)  # some mounts notice, and cancel the view
    go.set()
    await asking
    await until(lambda: said(session_id) == ["Still here."])


async def test_speaking_needs_a_permission_of_its_own(client: Client) -> None:
    session_id = await start(client)
    remote = client.like(peer=REMOTE)
    for how in ("say", "respond"):
        assert (await remote.post(f"/sessions/{session_id}/{how}", {"text": "hello"})).status == 401


@pytest.mark.parametrize("option", ["can_speak", "can_close_session"])
async def test_a_rule_of_the_project_decides_who_speaks(serve: Serve, option: str) -> None:
    asked: list[Any] = []

    def rule(request: Any, call_id: str, body: Any) -> bool:
        asked.append((call_id, body.text))
        return bool(request.headers.get("X-Friend"))

    options = {option: rule, "can_start_session": lambda request: True}
    client = (await serve(ServeOptions(**options), create=stub_agent, join=join_call)).like(peer=REMOTE)
    session_id = await start_talking(client)
    path = f"/sessions/{session_id}/say"
    assert (await client.post(path, {"text": "hello"})).status == 403
    assert (await client.post(path, {"text": "hello"}, headers={"x-friend": "1"})).status == 202
    assert asked == [("my-call", "hello")] * 2
