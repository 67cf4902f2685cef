"""The public surface of vision-agents' launcher: code written for it runs after changing the import."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from vision_agents.core import AgentLauncher as UpstreamLauncher

from tests.agents import StubAgent, create_agent, join_call
from tests.conftest import agent_of, until
from visionagents_runner import AgentLauncher, StartFailed
from visionagents_runner.models import AgentSession
from visionagents_runner.sessions.session import LiveSession
from visionagents_runner.store import database


def test_every_parameter_of_upstream_is_there_with_its_default() -> None:
    ours = inspect.signature(AgentLauncher).parameters
    theirs = inspect.signature(UpstreamLauncher).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default, name


@pytest.mark.parametrize(
    "options",
    [
        {"max_concurrent_sessions": 0},
        {"max_concurrent_sessions": -1},
        {"max_sessions_per_call": 0},
        {"max_session_duration_seconds": 0},
        {"agent_idle_timeout": -1},
        {"maintenance_interval": 0},
    ],
)
def test_nonsense_is_refused_in_upstreams_words(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as theirs:  # noqa: PT011 - the message is compared
        UpstreamLauncher(create_agent, join_call, **options)
    with pytest.raises(ValueError) as ours:  # noqa: PT011
        AgentLauncher(create_agent, join_call, **options)  # type: ignore[arg-type]
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("option", ["join_timeout", "no_participant_timeout", "close_timeout", "max_concurrent_starts"])
def test_nonsense_in_options_of_ours_is_refused_too(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        AgentLauncher(create_agent, join_call, **{option: -1})  # type: ignore[arg-type]


def test_a_registry_is_refused_with_the_replacement() -> None:
    with pytest.raises(TypeError, match="the database"):
        AgentLauncher(create_agent, join_call, registry=object())  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match=r"AgentSession\.objects"):
        AgentLauncher(create_agent, join_call).registry  # type: ignore[arg-type]  # noqa: B018


async def test_the_life_of_a_launcher(launch: Any) -> None:
    launcher: AgentLauncher = await launch()
    assert (launcher.warmed_up, launcher.running, launcher.ready) == (True, True, True)
    session = await launcher.start_session("call", "audio_room")
    assert launcher.get_session(session.id) is session
    assert (session.call_id, session.call_type, session.finished) == ("call", "audio_room", False)
    assert session.started_at.tzinfo is not None
    await agent_of(session).joined.wait()
    assert session.on_call_for() > 0
    assert session.idle_for() == 0
    info = await launcher.get_session_info("call", session.id)
    assert info is not None
    assert (info.session_id, info.call_id) == (session.id, "call")
    assert info.to_dict()["metrics"]["llm_input_tokens__total"] == 0
    assert await launcher.get_session_info("other", session.id) is None
    await launcher.request_close_session("other", session.id)
    assert not session.closing
    await launcher.request_close_session("call", session.id)
    await session.wait()
    assert session.finished
    assert launcher.get_session(session.id) is None
    assert await launcher.get_session_info("call", session.id) is None
    assert await launcher.close_session(session.id) is False
    await launcher.stop()
    assert (launcher.running, launcher.ready) == (False, False)


async def test_get_session_info_of_an_unknown_id_is_none(launch: Any) -> None:
    launcher = await launch()
    assert await launcher.get_session_info("call", "no-uuid") is None


async def test_create_agent_gets_what_it_names(launch: Any) -> None:
    given: list[Any] = []

    async def create(session: Any, call_id: Any, *, metadata: Any) -> StubAgent:
        given.append((session, call_id, metadata))
        return StubAgent()

    launcher = await launch(create)
    session = await launcher.start_session("call", metadata={"lang": "de"})
    assert given == [(None, None, None), (session, "call", {"lang": "de"})]


async def test_a_bare_kwargs_gets_nothing_but_what_launch_is_given(launch: Any) -> None:
    given: list[Any] = []

    async def create(**kwargs: Any) -> StubAgent:
        given.append(kwargs)
        return StubAgent()

    launcher = await launch(create)
    await launcher.start_session("call")
    agent = await launcher.launch(voice="low")
    assert given == [{}, {}, {"voice": "low"}]
    await agent.close()


async def test_a_video_track_override_reaches_the_agent(launch: Any) -> None:
    given: list[str] = []

    class Watching(StubAgent):
        def set_video_track_override_path(self, path: str) -> None:
            given.append(path)

    launcher = await launch(Watching)
    await launcher.start_session("call", video_track_override_path="film.mp4")
    assert given == ["film.mp4"]


@pytest.mark.slow
async def test_starts_are_parallel_but_bounded(launch: Any) -> None:
    building, most, go_on = 0, 0, asyncio.Event()

    async def create(session: LiveSession | None) -> StubAgent:
        nonlocal building, most
        if session is not None:
            building += 1
            most = max(most, building)
            if building == 4:
                go_on.set()
            await go_on.wait()
            building -= 1
        return StubAgent()

    launcher = await launch(create, max_concurrent_starts=4)
    await asyncio.gather(*(launcher.start_session(f"call-{n}") for n in range(12)))
    assert most == 4


async def test_a_sync_create_agent_that_holds_the_loop_is_named_with_the_fix(launch: Any, caplog: Any) -> None:
    def slow_factory() -> StubAgent:
        time.sleep(0.06)
        return StubAgent()

    with caplog.at_level(logging.WARNING, "visionagents_runner"):
        await launch(slow_factory)
    (record,) = [record for record in caplog.records if "held the event loop" in record.message]
    assert "slow_factory" in record.message
    assert "build_in_thread=True" in record.message


async def test_build_in_thread_builds_elsewhere(launch: Any) -> None:
    threads: list[threading.Thread] = []

    def create() -> StubAgent:
        threads.append(threading.current_thread())
        return StubAgent()

    await launch(create, build_in_thread=True)
    assert threads[0] is not threading.main_thread()


def test_build_in_thread_of_an_async_factory_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="async"):
        AgentLauncher(create_agent, join_call, build_in_thread=True)  # type: ignore[arg-type]


async def test_a_failing_warm_up_stops_the_launcher_that_it_was_for(transactional_db: None) -> None:
    async def broken() -> StubAgent:
        raise ValueError("no key")

    launcher = AgentLauncher(broken, join_call)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no key"):
        await launcher.start()
    assert not launcher.running


async def test_a_launcher_can_start_again(launch: Any) -> None:
    launcher = await launch()
    await launcher.stop()
    async with launcher:
        session = await launcher.start_session("call")
        await launcher.close_session(session.id, wait=True)


async def test_tasks_of_an_agent_inherit_nothing_from_the_request(launch: Any) -> None:
    import contextvars

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    seen: list[str] = []

    async def create() -> StubAgent:
        seen.append(variable.get())
        return StubAgent()

    async def join(agent: StubAgent, call_type: str, call_id: str) -> None:
        seen.append(variable.get())
        await join_call(agent, call_type, call_id)

    launcher = await launch(create, join)
    variable.set("of the request")
    session = await launcher.start_session("call")
    await agent_of(session).joined.wait()
    assert seen[1:] == ["", ""]


async def test_an_agent_that_a_thread_builds_too_late_is_closed(launch: Any) -> None:
    go_on, built = threading.Event(), []
    building = asyncio.Event()
    loop = asyncio.get_running_loop()

    def create(session: LiveSession | None) -> StubAgent:
        if session is not None:
            loop.call_soon_threadsafe(building.set)
            go_on.wait(20)
            built.append(StubAgent())
            return built[0]
        return StubAgent()

    launcher = await launch(create, build_in_thread=True)
    start = asyncio.ensure_future(launcher.start_session("call"))
    await building.wait()
    (session,) = launcher.sessions.values()
    session.request_close()
    with pytest.raises(StartFailed):
        await start
    go_on.set()
    await until(lambda: bool(built) and built[0].closed)


@pytest.mark.parametrize("where", ["create_agent", "join_call"])
async def test_code_that_calls_sys_exit_ends_its_session_and_nothing_else(launch: Any, where: str) -> None:
    calls: list[Any] = []

    async def create(session: LiveSession | None) -> StubAgent:
        if session is not None and where == "create_agent" and not calls:
            calls.append(session)
            sys.exit(3)
        return StubAgent()

    async def join(agent: StubAgent, call_type: str, call_id: str) -> None:
        if where == "join_call" and not calls:
            calls.append(agent)
            sys.exit(3)
        await join_call(agent, call_type, call_id)

    launcher = await launch(create, join)
    with suppress(StartFailed):
        session = await launcher.start_session("call")
        with pytest.raises(RuntimeError, match="SystemExit"):
            await session.wait()
    await until(lambda: not launcher.sessions)
    row = await database.read(AgentSession.objects.get)
    assert row.status == "failed"
    assert "SystemExit(3)" in row.error
    again = await launcher.start_session("call")
    assert not again.finished
