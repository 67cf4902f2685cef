"""Tasks that nobody awaits are held until they end."""

from __future__ import annotations

import asyncio
import contextvars
import gc

from visionagents_runner.utils.tasks import HeldTasks

_word: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="")


async def test_a_task_is_held_until_it_ends() -> None:
    held, go_on, ended = HeldTasks(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        ended.set()

    held.spawn(work(), name="work")
    await asyncio.sleep(0)
    gc.collect()
    assert [task.get_name() for task in held] == ["work"]
    go_on.set()
    await asyncio.wait_for(ended.wait(), 10)
    await asyncio.sleep(0)
    assert not held


async def test_it_inherits_the_context_that_it_is_given_and_no_other() -> None:
    _word.set("outside")

    async def word() -> str:
        return _word.get()

    given = contextvars.copy_context()
    held = HeldTasks()
    assert await held.spawn(word(), name="none") == ""
    assert await held.spawn(word(), name="given", context=given) == "outside"
    assert await held.hold(asyncio.create_task(word())) == "outside"
