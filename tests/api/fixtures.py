"""The API of a runner with stub agents, in both mounts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler

import tests.agents
from tests.agents import create_agent, join_call
from tests.asgi_client import Client
from tests.conftest import until
from visionagents_runner import AgentLauncher, Runner, ServeOptions
from visionagents_runner.asgi.lean import LeanAPI
from visionagents_runner.worker.current import current_worker
from visionagents_runner.worker.process import ensure_worker

Serve = Callable[..., Any]


class LeanThenDjango:
    """What `AgentsApplication` does with requests."""

    def __init__(self, lean: LeanAPI) -> None:
        self.lean = lean
        self.django = ASGIHandler()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await (self.lean if self.lean.matches(scope) else self.django)(scope, receive, send)


@pytest.fixture(params=["lean", "include"])
def mount(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def allow_local(settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "ALLOW_LOCAL": True}


@pytest.fixture
async def serve(mount: str, transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Run a worker and return a client of its API: ``client = await serve(ServeOptions(...), create=...)``."""
    async with AsyncExitStack() as stack:

        async def start(
            options: ServeOptions | None = None,
            *,
            create: Any = create_agent,
            join: Any = join_call,
            launchers: dict[str, AgentLauncher] | None = None,
            work: bool = True,
            **launcher_options: Any,
        ) -> Client:
            launchers = launchers or {"default": AgentLauncher(create, join, **launcher_options)}
            runner = Runner(launchers=launchers, serve_options=options)
            monkeypatch.setattr(tests.agents, "runner", runner)
            if work:
                worker = await ensure_worker(runner)
                stack.push_async_callback(worker.stop)
                await until(lambda: worker.warmed_up)
            return Client(LeanThenDjango(LeanAPI(runner)) if mount == "lean" else ASGIHandler())

        yield start
    assert current_worker() is None


@pytest.fixture
async def client(serve: Serve, allow_local: None) -> Client:
    """A client on the machine itself, which may do everything."""
    return await serve()  # type: ignore[no-any-return]
