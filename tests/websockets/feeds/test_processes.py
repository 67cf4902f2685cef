"""Viewers in one process, the agent in another, Redis between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import until
from tests.machine.requirements import require
from tests.processes import Child, child
from tests.websockets.calls.conftest import Server
from tests.websockets.feeds.conftest import feed, feed_list, numbers
from visionagents_runner.messaging.layer import LIST_GROUP, get_link

pytestmark = pytest.mark.slow

PROGRAM = """
from visionagents_runner.testing import join_call, stub_agent
from visionagents_runner.utils.tasks import spawn

def create_agent():
    return stub_agent()

async with AgentLauncher(create_agent, join_call) as launcher:
    say("ready")
    session = None
    while True:
        line = (await asyncio.to_thread(sys.stdin.readline)).strip()
        if line == "start":
            session = await launcher.start_session("far")
            while session.agent.edge.room is None or session.agent.conversation is None:
                await asyncio.sleep(0.01)
            say(session.id)
        elif line == "ask":
            await session.agent.edge.person().say("hello")
            say("asked")
        elif line == "close":
            session.request_close()
            await session.wait_ended()
            say("closed")
        else:
            break
"""


@pytest.fixture
def redis_layer(settings: Any) -> str:
    """Redis between the processes, and hardly any polling, so that what comes quickly came by it. Returns its URL."""
    url = require("redis")
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [url]}}
    }
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "POLL_INTERVAL": 8.0}
    return url


@pytest.fixture
async def far(redis_layer: str, server: Server) -> AsyncIterator[Child]:
    with child(PROGRAM, REDIS_URL=redis_layer) as process:
        assert await asyncio.to_thread(process.hear) == "ready"
        yield process
        process.tell("end")
        await asyncio.to_thread(process.end)


async def tell(far: Child, line: str) -> Any:
    far.tell(line)
    return await asyncio.to_thread(far.hear)


async def test_what_happens_in_another_process_is_seen_at_once_partial_words_too(server: Server, far: Child) -> None:
    session_id = await tell(far, "start")
    async with feed(server, session_id) as viewer:
        await viewer.hello()
        await viewer.hear("live")
        # From its first question on, the other process tells of the session.
        async with asyncio.timeout(5):
            while not [each for each in viewer.received if each["type"] == "partial"]:
                await tell(far, "ask")
                await asyncio.sleep(0.05)
        viewer.received.clear()
        began = time.monotonic()
        await tell(far, "ask")
        await until(lambda: len([each for each in viewer.received if each.get("kind") == "message"]) >= 2)
        assert time.monotonic() - began < 2.5
        await tell(far, "close")
        await viewer.hear("ended")
        assert time.monotonic() - began < 5
    async with feed(server, session_id) as viewer:
        messages = await viewer.all()
        assert numbers(messages) == list(range(1, messages[-1]["seq"] + 1))


async def test_sessions_of_another_process_appear_in_the_list_at_once(server: Server, far: Child) -> None:
    async with feed_list(server) as viewer:
        await viewer.hello()
        await viewer.hear("page")
        link = get_link()
        assert link is not None
        await until(lambda: LIST_GROUP in link._entered)
        began = time.monotonic()
        session_id = await tell(far, "start")
        while (seen := (await viewer.hear("session"))["session"])["status"] != "active":
            pass
        assert seen["session_id"] == session_id
        await tell(far, "close")
        while (await viewer.hear("session"))["session"]["status"] != "closed":
            pass
        assert time.monotonic() - began < 6


async def test_without_the_layer_everything_is_seen_a_little_later(server: Server, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": ["redis://127.0.0.1:1"]}}
    }
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "POLL_INTERVAL": 0.2}
    with child(PROGRAM, REDIS_URL="redis://127.0.0.1:1") as far:
        assert await asyncio.to_thread(far.hear) == "ready"
        session_id = await tell(far, "start")
        async with feed(server, session_id) as viewer:
            await viewer.hello()
            await tell(far, "ask")
            assert (await viewer.event("message"))["data"]["text"] == "hello"
            await tell(far, "close")
            await viewer.hear("ended")
        far.tell("end")
        assert await asyncio.to_thread(far.end) == 0
