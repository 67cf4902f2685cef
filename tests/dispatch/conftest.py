"""Workers that take queued sessions: one in this process, others in processes of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

import tests.agents
from tests.agents import create_agent, join_call
from tests.api.fixtures import allow_local, mount, serve
from tests.conftest import until
from visionagents_runner import AgentLauncher, Runner
from visionagents_runner.models import AgentSession
from visionagents_runner.worker.current import current_worker
from visionagents_runner.worker.process import ensure_worker
from visionagents_runner.worker.worker import AgentWorker

__all__ = ["allow_local", "mount", "serve"]

Host = Callable[..., Any]

HOSTING = """
    import tests.agents
    from visionagents_runner.worker.process import ensure_worker
    options = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {options}
    tests.agents.runner = Runner(launcher=AgentLauncher(create_agent, join_call, **options))
    worker = await ensure_worker(tests.agents.runner)
    await worker.wait_warm()
    say(str(worker.id))
    await asyncio.to_thread(wait)
    await worker.stop()
"""


def hosting(**options: Any) -> str:
    """A program that runs a worker with one launcher until it is told to stop; it says the worker's id."""
    return HOSTING.replace("{options}", repr(options))


@pytest.fixture
async def host(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    """Run a worker that serves: ``worker = await host(max_concurrent_sessions=1)``."""
    async with AsyncExitStack() as stack:

        async def start(
            create: Any = create_agent, join: Any = join_call, launchers: Any = None, **options: Any
        ) -> AgentWorker:
            launchers = launchers or {"default": AgentLauncher(create, join, **{"close_timeout": 5.0, **options})}
            runner = Runner(launchers=launchers)
            monkeypatch.setattr(tests.agents, "runner", runner)
            worker = await ensure_worker(runner)
            stack.push_async_callback(worker.stop)
            await until(lambda: worker.warmed_up)
            return worker

        yield start
    assert current_worker() is None


async def priorities_in_order_of_start(host: Host, priorities: Sequence[int]) -> list[int]:
    """Dispatch a session of each priority, then have a worker that has room for one at a time; it starts them all."""
    for priority in priorities:
        await AgentSession.objects.adispatch("call", priority=priority)
    worker = await host(max_concurrent_sessions=1)
    started = []
    for _ in priorities:
        await until(lambda: any(worker.live_sessions))
        (session,) = worker.live_sessions
        started.append(session.row.priority)
        session.request_close()
        await session.wait_ended()
    return started


async def until_row(key: Any, condition: Callable[[AgentSession], bool], seconds: float = 20.0) -> AgentSession:
    """Wait until the row of a session is as ``condition`` says, and return it."""
    import asyncio

    from visionagents_runner.store import session_rows

    async with asyncio.timeout(seconds):
        while True:
            row = await session_rows.get_session(key)
            assert row is not None
            if condition(row):
                return row
            await asyncio.sleep(0.02)
