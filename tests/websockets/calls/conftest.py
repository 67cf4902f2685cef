"""The WebSockets of a runner with real agents on stub models, as the ASGI application serves them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

import tests.agents
from tests.api.fixtures import allow_local
from tests.conftest import until
from tests.websockets.calls.client import PATH, Socket
from visionagents_runner import AgentLauncher, Runner, ServeOptions
from visionagents_runner.asgi.application import AgentsApplication
from visionagents_runner.edge import find_room, open_rooms
from visionagents_runner.sessions.session import LiveSession
from visionagents_runner.testing import join_call, stub_agent
from visionagents_runner.worker.current import current_worker
from visionagents_runner.worker.process import ensure_worker

__all__ = ["allow_local"]


async def create_agent() -> Any:
    return stub_agent()


class Server:
    """An application in this process, and its sockets."""

    def __init__(self, app: AgentsApplication) -> None:
        self.app = app
        self.runner = app.runner

    def socket(self, target: str = PATH, **options: Any) -> Socket:
        return Socket(self.app, target, **options)

    async def start(self, call_id: str = "my-call", call_type: str = "default", **options: Any) -> LiveSession:
        """Start a session, and wait until its agent is in the room."""
        session = await self.runner.launcher().start_session(call_id, call_type, **options)
        await until(lambda: (room := find_room(call_type, call_id)) is not None and bool(room.agents))
        return session


Serve = Callable[..., Any]


@pytest.fixture
async def serve(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Run a worker and the application: ``server = await serve(ServeOptions(...))``."""
    async with AsyncExitStack() as stack:

        async def start(
            options: ServeOptions | None = None,
            *,
            create: Any = create_agent,
            join: Any = join_call,
            application: Any = None,
            **launcher_options: Any,
        ) -> Server:
            runner = Runner(AgentLauncher(create, join, **launcher_options), options)
            monkeypatch.setattr(tests.agents, "runner", runner)
            worker = await ensure_worker(runner)
            stack.push_async_callback(worker.stop)
            await until(lambda: worker.warmed_up)
            app = AgentsApplication(runner, application)
            app.managed = True
            return Server(app)

        yield start
    assert current_worker() is None
    assert not open_rooms()


@pytest.fixture
async def server(serve: Serve, allow_local: None) -> Server:
    """One on which a local request may do everything."""
    return await serve()  # type: ignore[no-any-return]
