"""Fixtures: ``pytest_plugins = ["visionagents_runner.testing.fixtures"]`` in the top ``conftest.py``.

They need pytest-django and pytest-asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

import pytest_asyncio

if TYPE_CHECKING:
    from ..worker.launcher import AgentLauncher


class LauncherFactory(Protocol):
    """Starts an `AgentLauncher` and returns it. Without arguments it runs stub agents."""

    async def __call__(
        self,
        create_agent: Callable[..., Any] | None = None,
        join_call: Callable[..., Coroutine[Any, Any, None]] | None = None,
        **options: Any,
    ) -> AgentLauncher: ...


@pytest_asyncio.fixture
async def agent_launcher(transactional_db: None) -> AsyncIterator[LauncherFactory]:
    """A factory of started launchers on the test database; each one is stopped, and its sessions closed, afterwards.

    The database is a transactional one because the runtime queries it in threads of its own, which see only what was
    committed.
    """
    from ..store import database
    from ..worker.launcher import AgentLauncher
    from . import stubs

    started: list[AgentLauncher] = []

    async def start(
        create_agent: Callable[..., Any] | None = None,
        join_call: Callable[..., Coroutine[Any, Any, None]] | None = None,
        **options: Any,
    ) -> AgentLauncher:
        launcher = AgentLauncher(
            create_agent=create_agent or stubs.stub_agent, join_call=join_call or stubs.join_call, **options
        )
        started.append(launcher)
        await launcher.start()
        return launcher

    try:
        yield start
    finally:
        for launcher in reversed(started):
            await launcher.stop()
        # The runtime's threads keep their connections, and a test database with connections cannot be dropped.
        await asyncio.to_thread(database.close)
