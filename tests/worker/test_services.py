"""What works beside a worker's sessions: opened in order, and never by half."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.agents import create_agent, join_call
from tests.conftest import until
from visionagents_runner import AgentLauncher
from visionagents_runner.dispatch.claimer import Claimer
from visionagents_runner.models import Worker, WorkerState
from visionagents_runner.store import database
from visionagents_runner.websockets.calls.relay import Relay
from visionagents_runner.websockets.feeds.publisher import FeedPublisher
from visionagents_runner.worker import services
from visionagents_runner.worker.current import current_worker
from visionagents_runner.worker.services import Service
from visionagents_runner.worker.worker import AgentWorker


class Failing(Service):
    closed: ClassVar[int] = 0

    async def open(self) -> None:
        raise LookupError("nothing to open")

    async def close(self) -> None:
        Failing.closed += 1


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_registered", [*services._registered, f"{__name__}.Failing"])
    Failing.closed = 0


@pytest.mark.usefixtures("transactional_db")
async def test_sessions_are_taken_once_they_can_be_published_and_relayed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[type[Service]] = []
    for kind in (Claimer, FeedPublisher, Relay):

        async def note(self: Service, kind: type[Service] = kind) -> None:
            opened.append(kind)

        monkeypatch.setattr(kind, "open", note)
    async with AgentLauncher(create_agent, join_call):  # type: ignore[arg-type]
        assert opened == [FeedPublisher, Relay, Claimer]


@pytest.mark.usefixtures("transactional_db", "failing")
async def test_a_service_that_does_not_open_leaves_no_half_of_a_worker() -> None:
    worker = AgentWorker({"default": AgentLauncher(create_agent, join_call)}, serves=True)  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="nothing to open"):
        await worker.start()
    assert (worker.running, current_worker(), Failing.closed) == (False, None, 1)
    row = await database.read(Worker.objects.get)
    assert row.state == WorkerState.STOPPED
    await until(lambda: not worker._tasks)
