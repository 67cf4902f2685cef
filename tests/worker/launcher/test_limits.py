"""Limits: what gets in, what is refused, and that a refusal leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.conftest import agent_of, until
from tests.processes import run_side_by_side
from visionagents_runner import (
    AgentLauncher,
    MaxConcurrentSessionsExceeded,
    MaxSessionsPerCallExceeded,
    NotReady,
    SessionLimitExceeded,
)
from visionagents_runner.exceptions import InvalidInput
from visionagents_runner.models import AgentSession, Slot
from visionagents_runner.store import database

pytestmark = pytest.mark.slow


async def count() -> int:
    return await database.read(AgentSession.objects.count)


async def start_many(launcher: AgentLauncher, number: int, call_id: str = "call-{}") -> list[Any]:
    starts = [launcher.start_session(call_id.format(index)) for index in range(number)]
    return await asyncio.gather(*starts, return_exceptions=True)


async def test_exactly_as_many_sessions_as_allowed_get_in(launch: Any) -> None:
    launcher = await launch(max_concurrent_sessions=3)
    results = await start_many(launcher, 20)
    refused = [result for result in results if isinstance(result, MaxConcurrentSessionsExceeded)]
    assert (len(refused), len(launcher.sessions), await count()) == (17, 3, 3)


async def test_a_call_takes_no_more_sessions_than_allowed(launch: Any) -> None:
    launcher = await launch(max_sessions_per_call=2)
    results = await start_many(launcher, 10, "one call")
    refused = [result for result in results if isinstance(result, MaxSessionsPerCallExceeded)]
    assert (len(refused), await count()) == (8, 2)
    assert isinstance(refused[0], SessionLimitExceeded)
    await launcher.start_session("another call")
    await launcher.start_session("one call", "another type")


async def test_call_ids_that_differ_in_case_accents_or_trailing_space_are_different_calls(launch: Any) -> None:
    launcher = await launch(max_sessions_per_call=1)
    for call_id in ("call", "Call", "cäll", "call ", "call\u00a0"):
        await launcher.start_session(call_id)
    assert await database.read(AgentSession.objects.on_call("default", "call").count) == 1


async def test_an_ended_session_makes_room(launch: Any) -> None:
    launcher = await launch(max_concurrent_sessions=1)
    session = await launcher.start_session("call")
    with pytest.raises(MaxConcurrentSessionsExceeded):
        await launcher.start_session("call")
    agent_of(session).end()
    await session.wait()
    await launcher.start_session("call")


async def test_a_session_counts_until_its_agent_has_closed(launch: Any) -> None:
    from tests.agents import StubAgent

    closing, go_on = asyncio.Event(), asyncio.Event()

    class Slow(StubAgent):
        async def close(self) -> None:
            if self.joined_at:
                closing.set()
                await go_on.wait()
            await super().close()

    launcher = await launch(Slow, max_concurrent_sessions=1)
    session = await launcher.start_session("call")
    await agent_of(session).joined.wait()
    await launcher.close_session(session.id)
    await closing.wait()
    with pytest.raises(MaxConcurrentSessionsExceeded):
        await launcher.start_session("call")
    go_on.set()
    await session.wait()
    await launcher.start_session("call")


async def test_slots_of_a_worker_are_gone_when_it_stops(launch: Any) -> None:
    launcher = await launch(max_concurrent_sessions=1, max_sessions_per_call=1)
    await launcher.start_session("call")
    await launcher.stop()
    assert await database.read(lambda: list(Slot.objects.values_list("scope", flat=True))) == ["call"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"call_id": ""}, "call_id"),
        ({"call_id": "x" * 256}, "call_id"),
        ({"call_id": "a\x00b"}, "call_id"),
        ({"call_id": "a\nb"}, "call_id"),
        ({"call_id": "\ud800"}, "call_id"),
        ({"call_id": ".."}, "call_id"),
        ({"call_id": 7}, "call_id"),
        ({"call_id": "x", "call_type": ""}, "call_type"),
        ({"call_id": "x", "metadata": []}, "metadata"),
        ({"call_id": "x", "metadata": {"a": "\x00"}}, "metadata"),
        ({"call_id": "x", "metadata": {"a": float("nan")}}, "metadata"),
        ({"call_id": "x", "metadata": {"a": "\ud800"}}, "metadata"),
        ({"call_id": "x", "metadata": {"a": "b" * 17000}}, "metadata"),
        ({"call_id": "x", "metadata": {"a": object()}}, "metadata"),
        ({"call_id": "x", "metadata": {"a": json.loads("[" * 32 + "]" * 32)}}, "metadata"),
    ],
)
async def test_malformed_input_is_refused_and_creates_nothing(
    launch: Any, arguments: dict[str, Any], field: str
) -> None:
    launcher = await launch()
    with pytest.raises(InvalidInput) as caught:
        await launcher.start_session(**arguments)
    assert caught.value.field == field
    assert await count() == 0


@pytest.mark.parametrize("call_id", ["a/b", "*", "%", "%2F", "..x", "🎙️" * 127, "ü", "a b", "x" * 255, "-", "'; --"])
async def test_any_other_text_is_a_call_id(launch: Any, call_id: str) -> None:
    launcher = await launch()
    await launcher.start_session(call_id, metadata={"ключ": [1, None, {"x": "🎙️"}]})
    row = await database.read(AgentSession.objects.get)
    assert (row.call_id, row.metadata) == (call_id, {"ключ": [1, None, {"x": "🎙️"}]})


async def test_a_launcher_that_does_not_run_says_so() -> None:
    from tests.agents import create_agent, join_call

    with pytest.raises(NotReady, match=r"await launcher.start\(\)"):
        await AgentLauncher(create_agent, join_call).start_session("call")  # type: ignore[arg-type]


async def test_a_start_during_a_drain_is_refused(launch: Any) -> None:
    from visionagents_runner.worker.current import current_worker

    launcher = await launch()
    session = await launcher.start_session("call")
    worker = current_worker()
    assert worker is not None
    draining = asyncio.ensure_future(worker.drain(60))
    await until(lambda: worker.draining)
    with pytest.raises(NotReady, match="draining"):
        await launcher.start_session("other")
    assert not session.closing
    agent_of(session).end()
    await draining
    assert await count() == 1


@pytest.mark.django_db(transaction=True)
def test_limits_hold_across_processes() -> None:
    """Ten of a hundred get in per worker, and three in all on one call."""
    program = """
        launcher = AgentLauncher(create_agent, join_call, max_concurrent_sessions=10)
        async with launcher:
            go()
            results = await asyncio.gather(
                *(launcher.start_session(f"call-{n}") for n in range(50)), return_exceptions=True)
            say(sum(not isinstance(result, Exception) for result in results))
            wait()
    """
    assert run_side_by_side(program, processes=2) == ["10", "10"]
    program = program.replace("max_concurrent_sessions=10", "max_sessions_per_call=3").replace("call-{n}", "one call")
    assert sum(map(int, run_side_by_side(program, processes=2))) == 3
    assert not AgentSession.objects.live().exists()


@pytest.mark.parametrize("limit", ["max_sessions", "MAX_SESSIONS", "MAX_SESSIONS_PER_USER"])
def test_limits_over_all_workers_are_exact_when_several_start_and_claim_at_once(
    transactional_db: None, django_user_model: Any, limit: str
) -> None:
    user = django_user_model.objects.create_user("operator")
    for number in range(8):
        AgentSession.objects.dispatch(f"queued-{number}", started_by=user)
    options = "max_sessions=7" if limit == "max_sessions" else ""
    settings = {} if limit == "max_sessions" else {limit: 7}
    program = f"""
        from visionagents_runner.store import queued_rows
        from visionagents_runner.models import AgentSession
        async with AgentLauncher(create_agent, join_call, {options}) as launcher:
            rows = await queued_rows.due(["default"], 8)
            go()
            results = await asyncio.gather(
                *(launcher.start_session(f"call-{{n}}", started_by_id={user.pk}) for n in range(8)),
                *(launcher.start_queued(row) for row in rows),
                return_exceptions=True,
            )
            say(sum(result is not None and not isinstance(result, Exception) for result in results))
            wait()
    """
    said = run_side_by_side(program, processes=3, TEST_RUNNER_SETTINGS=json.dumps(settings))
    assert sum(map(int, said)) == 7
    assert not AgentSession.objects.occupying().exists()
