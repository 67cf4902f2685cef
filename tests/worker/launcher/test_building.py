"""Building agents: in threads of the launcher's own, late, and by code that calls `sys.exit`."""

from __future__ import annotations

import asyncio
import builtins
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.agents import StubAgent, join_call
from tests.conftest import row_of, until
from visionagents_runner import StartFailed, StartTimeout
from visionagents_runner.sessions.session import LiveSession


class Closing(StubAgent):
    """Says on the loop when it has been closed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.has_closed = asyncio.Event()

    async def close(self) -> None:
        await super().close()
        self.has_closed.set()


class Held:
    """A sync ``create_agent`` that takes until ``go_on`` for sessions, and builds at once to warm up."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.begun = asyncio.Event()
        self.go_on = threading.Event()
        self.agent = Closing()

    def __call__(self, session: LiveSession | None) -> StubAgent:
        if session is None:
            return StubAgent()
        self.loop.call_soon_threadsafe(self.begun.set)
        assert self.go_on.wait(20)
        return self.agent


async def test_an_agent_that_a_thread_finishes_after_the_time_limit_is_closed(launch: Any, settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "START_TIMEOUT": 0.1}
    create = Held()
    launcher = await launch(create, build_in_thread=True)
    with pytest.raises(StartTimeout):
        await launcher.start_session("call")
    create.go_on.set()
    async with asyncio.timeout(20):
        await create.agent.has_closed.wait()


async def test_an_agent_that_a_thread_finishes_after_a_close_is_closed(launch: Any) -> None:
    create = Held()
    launcher = await launch(create, build_in_thread=True)
    starting = asyncio.ensure_future(launcher.start_session("call"))
    async with asyncio.timeout(20):
        await create.begun.wait()
        await launcher.close_session(next(iter(launcher.sessions)))
        with pytest.raises(StartFailed):
            await starting
        create.go_on.set()
        await create.agent.has_closed.wait()


async def test_what_fails_in_a_thread_after_a_close_is_no_concern_of_anybody(launch: Any) -> None:
    create = Held()
    launcher = await launch(create, build_in_thread=True)
    create.agent = None  # type: ignore[assignment]
    building = asyncio.ensure_future(launcher.launch(session="held"))
    async with asyncio.timeout(20):
        await create.begun.wait()
        building.cancel()
        with pytest.raises(asyncio.CancelledError):
            await building
        create.go_on.set()
        while launcher._running:
            await asyncio.wait(set(launcher._running))


@pytest.mark.slow
async def test_building_in_threads_leaves_the_default_executor_to_others(launch: Any) -> None:
    loop, all_there = asyncio.get_running_loop(), threading.Barrier(40)

    def create(session: LiveSession | None) -> StubAgent:
        if session is not None:
            all_there.wait(20)  # more of them at once than the default executor has threads
        return StubAgent()

    launcher = await launch(create, build_in_thread=True)
    starts = [asyncio.ensure_future(launcher.start_session(f"call-{number}")) for number in range(39)]
    async with asyncio.timeout(20):
        await loop.run_in_executor(None, all_there.wait, 20)
        await asyncio.gather(*starts)


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_a_create_agent_that_exits_fails_its_session_and_nothing_else(
    launch: Any, error: BaseException, in_thread: bool
) -> None:
    def create(call_id: str | None) -> StubAgent:
        if call_id == "exits":
            raise error
        return StubAgent()

    launcher = await launch(create, build_in_thread=in_thread)
    with pytest.raises(StartFailed):
        await launcher.start_session("exits")
    assert not (await launcher.start_session("stays")).finished


async def test_a_join_call_that_exits_fails_its_session_and_nothing_else(launch: Any) -> None:
    async def join(agent: StubAgent, call_type: str, call_id: str) -> None:
        if call_id == "exits":
            sys.exit(3)
        await join_call(agent, call_type, call_id)

    launcher = await launch(join=join)
    stays = await launcher.start_session("stays")
    exits = await launcher.start_session("exits")
    with pytest.raises(RuntimeError, match="SystemExit"):
        await exits.wait()
    row = await row_of(exits)
    assert row.status == "failed"
    assert "join_call raised SystemExit(3)" in row.error
    assert not stays.finished


async def test_launch_passes_on_what_it_is_given_and_none_for_what_is_asked_for(launch: Any) -> None:
    given: list[Any] = []

    async def create(session: Any, **kwargs: Any) -> StubAgent:
        given.append((session, kwargs))
        return StubAgent()

    launcher = await launch(create)
    for agent in (await launcher.launch(call_id="mine", voice="low"), await launcher.launch(session="mine")):
        await agent.close()
    assert given[1:] == [(None, {"call_id": "mine", "voice": "low"}), ("mine", {})]


async def test_what_create_agent_imports_does_not_hold_the_loop(
    launch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module waits, while it is imported, for what only the loop can do."""
    (tmp_path / "slow_to_import.py").write_text("import builtins\nassert builtins.loop_ran.wait(20)\n")
    monkeypatch.syspath_prepend(tmp_path)
    ran = threading.Event()
    monkeypatch.setattr(builtins, "loop_ran", ran, raising=False)

    async def create() -> StubAgent:
        import slow_to_import  # type: ignore[import-not-found]  # noqa: F401

        return StubAgent()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(launch(create))
        await until(lambda: "slow_to_import" in sys.modules)
        ran.set()
