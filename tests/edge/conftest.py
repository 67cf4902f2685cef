"""An agent on a call, and the people who come to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from vision_agents.core import Agent

from visionagents_runner.edge import BrowserEdge, background, open_rooms
from visionagents_runner.testing import stub_agent


@pytest.fixture
def no_room_is_left_over() -> Iterator[None]:
    yield
    assert open_rooms() == ()


@pytest.fixture
async def on_call(no_room_is_left_over: None) -> AsyncIterator[Callable[..., Awaitable[Agent]]]:
    """Let an agent join the call default/c: ``agent = await on_call()``; it leaves after the test."""
    async with AsyncExitStack() as stack:

        async def join(agent: Agent | None = None, **options: Any) -> Agent:
            agent = agent or stub_agent(edge=BrowserEdge(), **options)
            call = await agent.create_call("default", "c")
            await stack.enter_async_context(agent.join(call, participant_wait_timeout=0))
            return agent

        yield join
    async with asyncio.timeout(15):
        await background.idle()
