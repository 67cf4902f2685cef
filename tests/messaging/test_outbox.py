"""Messages to workers from processes that have none."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import Any, Self

import pytest

from tests.processes import ROOT
from tests.worker.control.conftest import NOBODY
from visionagents_runner.messaging import notifications, outbox
from visionagents_runner.messaging.layer import QUEUE_GROUP, get_link
from visionagents_runner.messaging.outbox import send_from_anywhere

pytestmark = pytest.mark.slow

COMMAND = """
import django
django.setup()
from visionagents_runner.messaging.outbox import send_from_anywhere
for number in range(3):
    send_from_anywhere({group!r}, {{"type": "test.hello", "number": number}})
"""


class Inbox:
    """A member of a group, as a worker is."""

    def __init__(self, group: str) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        link = get_link()
        assert link is not None
        self.link = link
        self.leave = link.join(group, self.messages.put_nowait)
        self.group = group

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(10):
            while self.group not in self.link._entered:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            return await self.messages.get()


def run(group: str, redis_url: str) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "DATABASE_URL": "sqlite:///",
        "REDIS_URL": redis_url,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", COMMAND.format(group=group)]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


async def test_a_command_that_ends_at_once_has_sent_its_messages_in_order(redis_url: str, group: str) -> None:
    async with Inbox(group) as inbox:
        done = await asyncio.to_thread(run, group, redis_url)
        assert (done.returncode, done.stderr) == (0, "")
        heard = [await inbox.hear() for _ in range(3)]
    assert [(each["type"], each["number"]) for each in heard] == [("test.hello", number) for number in range(3)]


async def test_a_command_ends_in_order_where_redis_is_gone(group: str) -> None:
    done = await asyncio.to_thread(run, group, NOBODY)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "learn by polling" in done.stderr


async def test_a_command_ends_in_order_where_redis_hangs(hanging_redis: str, group: str) -> None:
    done = await asyncio.to_thread(run, group, hanging_redis)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


async def test_threads_and_loops_without_a_worker_send_too(redis_url: str, group: str) -> None:
    async with Inbox(group) as inbox:
        elsewhere = threading.Thread(target=send_from_anywhere, args=(group, {"type": "test.thread"}))
        elsewhere.start()
        assert (await inbox.hear())["type"] == "test.thread"
        elsewhere.join()

        async def on_another_loop() -> None:
            send_from_anywhere(group, {"type": "test.loop"})

        await asyncio.to_thread(asyncio.run, on_another_loop())
        assert (await inbox.hear())["type"] == "test.loop"
        outbox.post(group, {"type": "test.posted"})
        assert (await inbox.hear())["type"] == "test.posted"


def test_after_a_failure_messages_are_dropped_for_a_while_instead_of_waiting(dead_redis: str, group: str) -> None:
    box = outbox.Outbox()
    assert box.post(group, {"type": "test.lost"})
    assert box.flush(10)
    assert not box.post(group, {"type": "test.dropped"})


async def test_workers_elsewhere_are_told_of_a_queued_session(redis_url: str) -> None:
    async with Inbox(QUEUE_GROUP) as inbox:
        await asyncio.to_thread(notifications.tell_of_queued)
        assert (await inbox.hear())["type"] == "queue.news"


def test_nothing_is_sent_where_the_layer_reaches_no_other_process(settings: Any, group: str) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    before = outbox._outbox._thread
    send_from_anywhere(group, {"type": "test.nothing"})
    assert outbox._outbox._thread is before
