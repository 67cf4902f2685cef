"""The link to other processes ends when nobody listens any more, whatever the channel layer makes of that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from visionagents_runner.messaging.layer import Link


async def swallow() -> None:
    """As redis-py does, now and then, in the middle of a command: a cancellation has no effect."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def break_over_it() -> None:
    """As channels_redis does: its own check fails on the way out."""
    try:
        await asyncio.Event().wait()
    finally:
        raise AssertionError("the lock is held")


class Layer:
    """A channel layer of which one method does not take being cancelled."""

    def __init__(self, method: str, how: Callable[[], Awaitable[None]]) -> None:
        self.method, self.how = method, how
        self.entered = asyncio.Event()

    async def _do(self, method: str) -> None:
        if method == self.method:
            self.entered.set()
            await self.how()

    async def new_channel(self, prefix: str) -> str:
        return f"{prefix}!mine"

    async def group_add(self, group: str, channel: str) -> None:
        await self._do("group_add")

    async def group_discard(self, group: str, channel: str) -> None:
        pass

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await self._do("group_send")

    async def receive(self, channel: str) -> dict[str, Any]:
        await self._do("receive")
        if self.method != "receive":
            await asyncio.Event().wait()
        return {}


@pytest.mark.parametrize("how", [swallow, break_over_it])
@pytest.mark.parametrize("method", ["group_send", "group_add", "receive"])
async def test_a_link_that_is_closed_ends_its_tasks(method: str, how: Callable[[], Awaitable[None]]) -> None:
    layer = Layer(method, how)
    link = Link(layer)
    leave = link.join("group", lambda message: None)
    link.send("group", {"type": "x"})
    async with asyncio.timeout(5):
        await layer.entered.wait()
    tasks = list(link._tasks)
    leave()
    _, pending = await asyncio.wait(tasks, timeout=5)
    assert not pending
