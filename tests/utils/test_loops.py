"""What is called from another thread, waited for, and had once a loop."""

from __future__ import annotations

import asyncio
import threading

from visionagents_runner.utils.loops import call_from_thread, one_per_loop, wait_for_event


async def test_a_thread_has_the_loop_call_something() -> None:
    called = asyncio.Event()
    said: list[bool] = []
    loop = asyncio.get_running_loop()
    thread = threading.Thread(target=lambda: said.append(call_from_thread(loop, called.set)))
    thread.start()
    await asyncio.wait_for(called.wait(), 10)
    await asyncio.to_thread(thread.join)
    assert said == [True]


def test_a_closed_loop_calls_nothing_and_says_so() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    assert not call_from_thread(loop, list)


async def test_an_event_is_waited_for_and_left_as_it_is() -> None:
    event = asyncio.Event()
    assert not await wait_for_event(event, 0)
    asyncio.get_running_loop().call_soon(event.set)
    assert await wait_for_event(event, 10)
    assert event.is_set()
    assert await wait_for_event(event, 0)


def test_each_loop_has_one_of_its_own() -> None:
    get = one_per_loop(object)

    async def twice() -> tuple[object, object]:
        return get(), get()

    first, again = asyncio.run(twice())
    other, _ = asyncio.run(twice())
    assert first is again
    assert first is not other
