"""The ASGI application: whom it hands what, and the worker's life in it."""

from __future__ import annotations

from typing import Any

import pytest
from channels.testing import ApplicationCommunicator, WebsocketCommunicator

from tests.agents import create_agent, join_call, runner
from tests.asgi_client import Client
from visionagents_runner import AgentLauncher, Runner
from visionagents_runner.asgi import get_asgi_application
from visionagents_runner.asgi.application import AgentsApplication, project_application
from visionagents_runner.exceptions import RunnerConfigurationError
from visionagents_runner.worker.current import current_worker


async def host(scope: Any, receive: Any, send: Any) -> None:
    """A project's own application: it accepts every WebSocket."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": scope["path"]})


@pytest.mark.django_db(transaction=True)
async def test_lifespan_starts_the_worker_and_drains_it() -> None:
    mine = Runner(AgentLauncher(create_agent, join_call))  # type: ignore[arg-type]
    communicator = ApplicationCommunicator(AgentsApplication(mine), {"type": "lifespan"})
    await communicator.send_input({"type": "lifespan.startup"})
    assert await communicator.receive_output(10) == {"type": "lifespan.startup.complete"}
    assert current_worker() is not None
    await communicator.send_input({"type": "lifespan.shutdown"})
    assert await communicator.receive_output(10) == {"type": "lifespan.shutdown.complete"}
    assert current_worker() is None
    assert mine.stopped


async def test_the_projects_own_websockets_are_served(settings: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("tests.asgi.test_application.consumers", host, raising=False)
    settings.ASGI_APPLICATION = "tests.asgi.test_application.consumers"
    application = project_application(runner)
    application.managed = True
    communicator = WebsocketCommunicator(application, "/ws/chat/")
    assert (await communicator.connect())[0]
    assert await communicator.receive_from() == "/ws/chat/"
    await communicator.disconnect()


async def test_an_unknown_websocket_is_refused_not_an_error() -> None:
    application = AgentsApplication(runner)
    application.managed = True
    communicator = WebsocketCommunicator(application, "/nowhere/")
    assert await communicator.connect() == (False, 4404)


def test_the_application_of_the_project_is_the_one_it_names(settings: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("tests.asgi.test_application.ready", get_asgi_application(), raising=False)
    settings.ASGI_APPLICATION = "tests.asgi.test_application.ready"
    assert project_application(runner) is ready  # type: ignore[name-defined]  # noqa: F821
    settings.ASGI_APPLICATION = None
    assert project_application(runner) is runner.asgi
    settings.ASGI_APPLICATION = "nowhere.application"
    with pytest.raises(RunnerConfigurationError, match="ASGI_APPLICATION"):
        project_application(runner)


async def test_headers_without_measure_are_refused_before_anybody_reads_them() -> None:
    application = AgentsApplication(runner, never)
    application.managed = True
    client = Client(application)
    answer = await client.get("/anything", headers={"cookie": 'a="' + "\\" * 3000})
    assert (answer.status, answer.detail) == (431, "The cookies of the request have more than 2000 backslashes")
    answer = await client.get("/sessions", headers={f"x-{number}": "" for number in range(300)})
    assert (answer.status, answer.detail) == (431, "The request has more than 256 headers")
    communicator = WebsocketCommunicator(application, "/ws/sessions/", headers=[(b"a", b"x" * 70_000)])
    assert await communicator.connect() == (False, 4404)


async def never(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("it was asked")
