"""Fixtures that all tests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from tests.agents import StubAgent, create_agent, join_call
from visionagents_runner import AgentLauncher, quotas
from visionagents_runner.models import AgentSession
from visionagents_runner.quotas import holdings
from visionagents_runner.store import database, session_rows
from visionagents_runner.worker.current import current_worker

pytest_plugins = ["tests.machine.left_out"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write lone surrogates of what tests logged as text that can be sent: pytest-xdist loses its worker over them."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def no_thread_keeps_a_connection() -> Iterator[None]:
    """Neither the store's threads nor asgiref's may outlive the database of a test with their connections."""
    yield
    database.close()
    asyncio.run(sync_to_async(connections.close_all)())


@pytest.fixture(autouse=True)
def nobody_has_asked_before() -> Iterator[None]:
    """What one test asks for counts for no other one, and what it holds it gives back."""
    quotas.forget()
    yield
    assert not holdings._held


@pytest.fixture
async def launch(transactional_db: None) -> AsyncIterator[Callable[..., Any]]:
    """Start launchers of stub agents, ``await launch(max_concurrent_sessions=1)``, that stop after the test."""
    async with AsyncExitStack() as stack:

        async def start(create: Any = create_agent, join: Any = join_call, **options: Any) -> AgentLauncher:
            launcher = AgentLauncher(create, join, **{"close_timeout": 5.0, **options})
            return await stack.enter_async_context(launcher)

        yield start
    assert current_worker() is None


async def row_of(session: Any) -> AgentSession:
    row = await session_rows.get_session(session.id)
    assert row is not None
    return row


def agent_of(session: Any) -> StubAgent:
    return session.agent  # type: ignore[no-any-return]


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that has no event of its own."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
