"""Webhooks of real workers and of the command: sent by whoever lives, and by one at a time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from tests.agents import StubAgent
from tests.conftest import agent_of, until
from tests.processes import ROOT, child, environment, run_side_by_side
from tests.webhooks.conftest import ended
from tests.webhooks.receiver import Receiver, Reply
from tests.webhooks.test_sending import send
from visionagents_runner import StartFailed
from visionagents_runner.models import WebhookDelivery
from visionagents_runner.store import database
from visionagents_runner.worker.current import current_worker

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

SENDING = """
    from visionagents_runner.webhooks.sender import WebhookSender
    go()
    sender = WebhookSender()
    tally = await sender.send_due()
    say(tally.delivered)
    wait()
    await sender.abandon()
"""
ENDING = """
    async with AgentLauncher(create_agent, join_call) as launcher:
        session = await launcher.start_session("call")
        say(session.id)
        wait()
        session.agent.end()
        await session.wait()
        say("ended")
        await asyncio.Event().wait()
"""


@pytest.fixture
def one(receiver: Receiver, configure: Any, monkeypatch: Any) -> Receiver:
    """One endpoint, here and in other processes."""
    configure(receiver.entry())
    monkeypatch.setenv("TEST_RUNNER_SETTINGS", json.dumps({"WEBHOOKS": [receiver.entry()]}))
    return receiver


def states() -> Counter[str]:
    return Counter(WebhookDelivery.objects.values_list("state", flat=True))


def forget_claims() -> None:
    """Let the time pass in which an attempt is its sender's alone."""
    WebhookDelivery.objects.filter(state="pending").update(
        claimed_until=Now() - timedelta(seconds=1), next_attempt_at=Now() - timedelta(seconds=1)
    )


async def test_a_worker_tells_of_an_end_at_once(one: Receiver, launch: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("visionagents_runner.webhooks.sender.POLL_SECONDS", 600)
    launcher = await launch()
    session = await launcher.start_session("call")
    agent_of(session).end()
    await session.wait()
    await until(lambda: len(one.requests) == 1)
    assert one.requests[0].json["data"]["session_id"] == session.id
    assert one.requests[0].json["data"]["end_reason"] == "finished"


async def test_a_session_that_failed_to_start_is_told_of(one: Receiver, launch: Any) -> None:
    made: list[StubAgent] = []

    async def broken() -> StubAgent:
        if made:
            raise RuntimeError("no model")
        made.append(StubAgent())  # at warm-up
        return made[0]

    launcher = await launch(broken)
    with pytest.raises(StartFailed):
        await launcher.start_session("call")
    await until(lambda: len(one.requests) == 1)
    data = one.requests[0].json["data"]
    assert (data["status"], data["end_reason"], data["started_at"]) == ("failed", "create_failed", None)
    assert b"no model" not in one.requests[0].body


async def test_sessions_that_a_drain_closes_are_told_of_before_the_worker_is_gone(one: Receiver, launch: Any) -> None:
    launcher = await launch()
    for number in range(5):
        await launcher.start_session(f"call-{number}")
    worker = current_worker()
    assert worker is not None
    await worker.stop()
    assert len(one.requests) == 5
    assert {request.json["data"]["end_reason"] for request in one.requests} == {"drained"}


async def test_a_receiver_that_hangs_does_not_keep_a_worker_from_stopping(
    one: Receiver, launch: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("visionagents_runner.worker.worker._LAST_SECONDS", 0.5)
    release = threading.Event()
    one.reply = lambda number, request: Reply(wait=release)
    launcher = await launch()
    await launcher.start_session("call")
    worker = current_worker()
    assert worker is not None
    before = time.monotonic()
    await worker.stop()
    assert time.monotonic() - before < 5
    release.set()
    assert await database.read(states) == {"pending": 1}
    one.reply = lambda number, request: Reply()
    await send()
    assert await database.read(states) == {"delivered": 1}
    assert len({request.id for request in one.requests}) == 1


async def test_sessions_of_a_killed_process_are_told_of_as_lost(one: Receiver, launch: Any) -> None:
    with child(ENDING) as other:
        pk = other.hear()
        other.process.send_signal(signal.SIGKILL)
        other.process.wait()
    await launch()
    await until(lambda: len(one.requests) == 1)
    data = one.requests[0].json["data"]
    assert (data["session_id"], data["status"], data["end_reason"]) == (pk, "lost", "worker_lost")


async def test_what_a_process_had_no_time_to_send_before_it_was_killed_is_sent_by_the_next(
    one: Receiver, launch: Any
) -> None:
    release = threading.Event()
    one.reply = lambda number, request: Reply(wait=release)
    with child(ENDING) as other:
        other.hear()
        other.tell()
        assert other.hear() == "ended"
        other.process.send_signal(signal.SIGKILL)
        other.process.wait()
    release.set()
    one.reply = lambda number, request: Reply()
    before = len(one.requests)  # whether it had begun is a matter of milliseconds
    assert await database.read(states) == {"pending": 1}
    await database.write(forget_claims)
    await launch()
    await until(lambda: len(one.requests) == before + 1)
    assert len({request.id for request in one.requests}) == 1
    assert one.requests[-1].json["data"]["end_reason"] == "finished"


def test_two_processes_never_send_the_same(one: Receiver) -> None:
    for number in range(60):
        ended(call_id=str(number))
    said = run_side_by_side(SENDING, processes=2)
    assert sum(map(int, said)) == 60
    assert len(one.requests) == 60
    assert max(Counter(request.id for request in one.requests).values()) == 1
    assert states() == {"delivered": 60}


# The command


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("sendwebhooks", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_sends_what_is_due_once(one: Receiver) -> None:
    ended()
    ended()
    one.reply = lambda number, request: Reply(500 if number == 0 else 200)
    assert run() == "Delivered 1, failed 1 (given up: 0). Pending: 1.\n"
    assert run() == "Delivered 0, failed 0 (given up: 0). Pending: 1.\n"
    WebhookDelivery.objects.filter(state="pending").update(next_attempt_at=Now())
    assert run() == "Delivered 1, failed 0 (given up: 0). Pending: 0.\n"


def test_the_command_says_what_is_wrong_with_the_setting(configure: Any) -> None:
    with pytest.raises(CommandError, match="names no endpoint"):
        run()
    configure({"URL": "https://hooks.example/"})
    with pytest.raises(CommandError, match=r"\['WEBHOOKS'\]\[0\] \(hooks.example\): it has no SECRET"):
        run()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_in_a_loop_ends_in_order_while_an_attempt_hangs(one: Receiver, number: signal.Signals) -> None:
    release = threading.Event()
    one.reply = lambda count, request: Reply(wait=release if count else None)
    ended()
    ended()
    with subprocess.Popen(
        [sys.executable, "manage.py", "sendwebhooks", "--loop"],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 60
        while len(one.requests) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        said, _ = process.communicate(timeout=30)
    release.set()
    assert process.returncode == 0
    assert said == "Delivered 1, failed 0 (given up: 0). Pending: 1.\n"
    assert WebhookDelivery.objects.get(state="pending").claim is None
