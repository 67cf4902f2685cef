"""The Django signals of a session's life."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import agent_of, row_of
from visionagents_runner.models import AgentSession
from visionagents_runner.signals import session_ended, session_started

pytestmark = pytest.mark.slow


async def test_both_are_sent_with_what_they_promise(launch: Any) -> None:
    seen: list[Any] = []
    told = asyncio.Event()

    async def started(sender: Any, session_id: str, session: Any, **kwargs: Any) -> None:
        seen.append((sender, session_id, session))

    def ended(sender: Any, session_id: str, status: str, end_reason: str, **kwargs: Any) -> None:
        seen.append((sender, session_id, status, end_reason))
        loop.call_soon_threadsafe(told.set)

    loop = asyncio.get_running_loop()
    session_started.connect(started)
    session_ended.connect(ended)
    try:
        launcher = await launch()
        session = await launcher.start_session("call")
        agent_of(session).end()
        await told.wait()
    finally:
        session_started.disconnect(started)
        session_ended.disconnect(ended)
    assert seen == [(AgentSession, session.id, session), (AgentSession, session.id, "closed", "finished")]


async def test_a_receiver_that_raises_or_hangs_harms_nothing(launch: Any, caplog: Any) -> None:
    async def raising(**kwargs: Any) -> None:
        raise ValueError("a receiver's own trouble")

    async def hanging(**kwargs: Any) -> None:
        await asyncio.Event().wait()

    for signal in (session_started, session_ended):
        signal.connect(raising)
        signal.connect(hanging)
    try:
        launcher = await launch()
        session = await launcher.start_session("call")
        agent_of(session).end()
        async with asyncio.timeout(10):
            await session.wait()
        assert (await row_of(session)).end_reason == "finished"
    finally:
        for signal in (session_started, session_ended):
            signal.disconnect(raising)
            signal.disconnect(hanging)
