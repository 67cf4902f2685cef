"""Speaking into sessions that another process runs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client as DjangoClient
from django.utils import timezone

from tests.asgi_client import Answer, Client
from tests.processes import child
from tests.worker.control.conftest import NOBODY, Server
from tests.worker.control.far import worker_elsewhere
from visionagents_runner.dispatch import remote_commands
from visionagents_runner.models import CommandKind, SessionCommand, SessionEvent
from visionagents_runner.sessions import commands as session_commands
from visionagents_runner.store import database, worker_rows
from visionagents_runner.utils.process import identify
from visionagents_runner.worker.current import current_worker

pytestmark = pytest.mark.slow

NEVER = 3600.0
"""A POLL_INTERVAL with which only messages reach a worker."""
SOON = 0.1

ASKER = """
from visionagents_runner.dispatch import remote_commands
say("ready")
line = await asyncio.to_thread(sys.stdin.readline)
import uuid
await remote_commands.ask(uuid.UUID(line.strip()), "say", "too late", interrupt=False)
"""

WSGI = """
from django.test import Client
say("ready")
session_id = (await asyncio.to_thread(sys.stdin.readline)).strip()
def post():
    path = f"/sessions/{session_id}/say"
    return Client().post(path, {"text": "from WSGI"}, content_type="application/json", headers={"host": "localhost"})
answer = await asyncio.to_thread(post)
say([answer.status_code, answer.json()])
"""


async def post(server: Server, session_id: str, text: str, how: str = "say") -> Answer:
    async with asyncio.timeout(40):
        return await Client(server.app).post(f"/sessions/{session_id}/{how}", {"text": text})


def commands() -> list[SessionCommand]:
    return list(SessionCommand.objects.order_by("created_at", "pk"))


async def until_commands(condition: Callable[[list[SessionCommand]], bool]) -> list[SessionCommand]:
    async with asyncio.timeout(20):
        while not condition(rows := await database.read(commands)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return rows


def asked_of(session_id: str) -> list[dict[str, Any]]:
    events = SessionEvent.objects.filter(session_id=uuid.UUID(session_id), kind="asked").order_by("seq")
    return [event.data for event in events]


async def test_the_agent_of_another_worker_speaks_by_message(server: Server, redis_url: str) -> None:
    async with worker_elsewhere(redis_url, talks=True, POLL_INTERVAL=NEVER) as far:
        session_id = await far.start()
        answer = await post(server, session_id, "One moment, please.")
        assert (answer.status, answer.json()) == (202, {"success": True})
        assert (await post(server, session_id, "greet them", "respond")).status == 202
        async with asyncio.timeout(10):
            while await far.said(session_id) != ["One moment, please.", "You said: greet them"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await database.read(commands) == []
        await far.do("close", session_id)
        await far.do("ended", session_id)
        assert await database.read(asked_of, session_id) == [
            {"how": "say", "by": "local", "text": "One moment, please."},
            {"how": "respond", "by": "local", "text": "greet them"},
        ]
        gone = await post(server, session_id, "Anybody there?")
        assert gone.status == 409
        assert "ended" in gone.detail


async def test_many_who_ask_at_once_are_each_served_once(server: Server, redis_url: str) -> None:
    async with worker_elsewhere(redis_url, talks=True, POLL_INTERVAL=SOON) as far:
        session_id = await far.start()
        texts = [f"number {number}" for number in range(12)]
        answers = await asyncio.gather(*(post(server, session_id, text) for text in texts))
        assert [answer.status for answer in answers] == [202] * 12
        assert sorted(await far.said(session_id)) == sorted(texts)


@pytest.mark.parametrize("layer", ["none", "dead", "hanging"])
async def test_without_messages_the_poll_finds_commands_in_the_order_of_asking(
    server: Server, layer: str, request: pytest.FixtureRequest
) -> None:
    url = "" if layer == "none" else request.getfixturevalue(f"{layer}_redis")
    async with worker_elsewhere(url, talks=True, POLL_INTERVAL=SOON) as far:
        session_id = await far.start()
        await far.freeze()
        texts, asking_now = [f"number {number}" for number in range(4)], []
        for number, text in enumerate(texts):
            asking_now.append(asyncio.create_task(post(server, session_id, text)))
            await until_commands(lambda rows, number=number: len(rows) > number)  # type: ignore[misc]
        far.thaw()
        assert [(await each).status for each in asking_now] == [202] * 4
        assert await far.said(session_id) == texts


async def test_a_message_that_is_lost_is_made_up_for_by_the_poll(server: Server, redis_url: str) -> None:
    async with worker_elsewhere(NOBODY, talks=True, POLL_INTERVAL=SOON) as far:
        session_id = await far.start()
        assert (await post(server, session_id, "hello")).status == 202


async def test_what_goes_wrong_there_is_told_here(server: Server, redis_url: str) -> None:
    async with worker_elsewhere(redis_url, talks=True, POLL_INTERVAL=NEVER) as far:
        session_id = await far.start()
        await far.do("spoil", session_id, "fail")
        answer = await post(server, session_id, "hello")
        assert answer.status == 502
        assert "secret" not in answer.detail
        await far.do("spoil", session_id, "hang")
        asked = asyncio.create_task(post(server, session_id, "hello"))
        [command] = await until_commands(lambda rows: bool(rows and rows[0].taken_at))
        assert command.text == ""  # what is being said is nobody else's business any more
        await far.do("close", session_id)
        answer = await asked
        assert answer.status == 409
        assert "ended" in answer.detail
        assert await database.read(commands) == []


async def test_an_agent_that_has_not_joined_says_so(server: Server, redis_url: str) -> None:
    async with worker_elsewhere(redis_url, POLL_INTERVAL=NEVER) as far:
        answer = await post(server, await far.start(), "hello")
        assert answer.status == 409
        assert "not joined" in answer.detail


async def test_what_was_not_taken_in_time_is_withdrawn_and_never_said(
    server: Server, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with worker_elsewhere(redis_url, talks=True, POLL_INTERVAL=SOON) as far:
        session_id = await far.start()
        await far.freeze()
        with monkeypatch.context() as patch:
            patch.setattr(session_commands, "SPEAK_SECONDS", 0.2)
            answer = await post(server, session_id, "too late")
        assert answer.status == 504
        assert await database.read(commands) == []
        far.thaw()
        assert (await post(server, session_id, "in time")).status == 202
        assert await far.said(session_id) == ["in time"]


async def test_a_worker_that_is_silent_is_not_waited_for(server: Server, redis_url: str, settings: Any) -> None:
    async with worker_elsewhere(redis_url, talks=True, POLL_INTERVAL=SOON) as far:
        session_id = await far.start()
        await far.freeze()
        asked = asyncio.create_task(post(server, session_id, "too late"))
        await until_commands(bool)
        settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "WORKER_TTL": 0.01}
        answer = await asked
        assert answer.status == 409
        assert "silent" in answer.detail
        assert await database.read(commands) == []


async def test_a_worker_that_dies_while_it_speaks_leaves_nobody_waiting(server: Server, redis_url: str) -> None:
    async with worker_elsewhere(redis_url, talks=True, POLL_INTERVAL=SOON) as far:
        session_id = await far.start()
        await far.do("spoil", session_id, "hang")
        asked = asyncio.create_task(post(server, session_id, "hello"))
        await until_commands(lambda rows: bool(rows and rows[0].taken_at))
        far.kill()
        worker = current_worker()
        assert worker is not None
        await worker._look_after_sessions()
        assert (await asked).status == 409
        assert await database.read(commands) == []


async def test_who_dies_while_asking_leaves_nothing_to_be_said_later(server: Server, redis_url: str) -> None:
    async with worker_elsewhere(redis_url, talks=True, POLL_INTERVAL=SOON) as far:
        session_id = await far.start()
        await far.freeze()
        with child(ASKER, REDIS_URL=redis_url) as asker:
            assert await asyncio.to_thread(asker.hear) == "ready"
            asker.tell(session_id)
            await until_commands(bool)
        for age, left in ((16, 1), (61, 0)):
            then = timezone.now() - timedelta(seconds=age)
            await database.write(SessionCommand.objects.update, created_at=then)
            if age == 16:
                far.thaw()
                assert (await post(server, session_id, "in time")).status == 202
                assert await far.said(session_id) == ["in time"]
            worker = current_worker()
            assert worker is not None
            assert worker._row is not None
            await worker_rows.reap(worker._row, identify())
            assert len(await database.read(commands)) == left


async def test_a_process_under_wsgi_has_agents_speak(transactional_db: None, redis_url: str) -> None:
    async with worker_elsewhere(redis_url, talks=True, POLL_INTERVAL=NEVER) as far:
        session_id = await far.start()
        settings = '{"ALLOW_LOCAL": true}'
        with child(WSGI, REDIS_URL=redis_url, TEST_RUNNER_SETTINGS=settings) as process:
            assert await asyncio.to_thread(process.hear) == "ready"
            process.tell(session_id)
            assert await asyncio.to_thread(process.hear) == [202, {"success": True}]
        assert await far.said(session_id) == ["from WSGI"]


async def test_a_request_under_wsgi_beside_a_worker_is_answered_too(server: Server, redis_url: str) -> None:
    async with worker_elsewhere(redis_url, talks=True, POLL_INTERVAL=NEVER) as far:
        session_id = await far.start()

        def ask() -> int:
            path, body = f"/sessions/{session_id}/say", {"text": "hello"}
            return DjangoClient(headers={"host": "localhost"}).post(path, body, "application/json").status_code

        assert await asyncio.to_thread(ask) == 202


async def test_a_client_that_leaves_does_not_take_the_words_back(server: Server, redis_url: str) -> None:
    async with worker_elsewhere(redis_url, talks=True, POLL_INTERVAL=SOON) as far:
        session_id = await far.start()
        await far.freeze()
        asked = asyncio.create_task(
            remote_commands.ask(uuid.UUID(session_id), CommandKind.SAY, "still here", interrupt=False, by="somebody")
        )
        await until_commands(bool)
        asked.cancel()
        far.thaw()
        await until_commands(lambda rows: not rows)
        assert await far.said(session_id) == ["still here"]
