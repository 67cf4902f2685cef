"""Whoever comes and goes, in whatever way, leaves nothing: no task, thread, socket or object."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from tests.conftest import until
from tests.edge.browser import Browser, Ears, next_event, tone
from tests.edge.soak import State, come_and_go
from visionagents_runner.edge import Media, NoMedia, background, join_room, webrtc

pytestmark = pytest.mark.slow


@pytest.mark.timeout(240)
async def test_fifty_people_who_come_and_vanish_leave_nothing(on_call, monkeypatch):
    monkeypatch.setattr(webrtc, "WATCH_SECONDS", 0.2)
    monkeypatch.setattr(webrtc, "CONNECT_SECONDS", 2.0)
    agent = await on_call()
    for way in range(10):
        await come_and_go(agent, way)
    await background.idle()
    before = State.now()
    for way in range(50):
        await come_and_go(agent, way)
    await background.idle()
    await until(lambda: State.now().no_more_than(before), 20)


async def test_an_agent_without_ears_does_not_collect_what_it_cannot_hear(on_call):
    agent = await on_call()
    ears = Ears(agent)
    for number in range(4):
        person = join_room("default", "c", f"p{number}")
        link = person.open_pcm()
        for _ in range(150):
            link.receive(tone(440, 0.02).tobytes())
        await until(lambda number=number: len(ears.frames) == 150 * (number + 1))
        await asyncio.sleep(0.1)
        person.leave()
    assert agent._audio_input_stream.size() < 400


async def test_a_connection_that_has_ended_is_not_kept():
    caller = join_room("default", "c", "caller")
    page = Browser(caller)
    await page.connect()
    await next_event(caller, Media, lambda event: event.state == "connected")
    kept = [weakref.ref(caller), weakref.ref(caller.media), weakref.ref(caller.media._peer), weakref.ref(caller.room)]
    caller.leave()
    del caller
    page.person = None  # type: ignore[assignment]
    await page.close()
    await background.idle()
    await until(lambda: gc.collect() >= 0 and [ref() for ref in kept] == [None] * 4)


async def test_a_browser_that_vanished_is_noticed(monkeypatch):
    monkeypatch.setattr(webrtc, "WATCH_SECONDS", 0.2)
    caller = join_room("default", "c", "caller")
    page = Browser(caller)
    await page.connect()
    await next_event(caller, Media, lambda event: event.state == "connected")
    page.vanish()
    began = asyncio.get_running_loop().time()
    assert await next_event(caller, Media) == Media("webrtc", "failed")
    assert asyncio.get_running_loop().time() - began < 15
    assert caller.transport is None
    assert caller.here
    caller.leave()
    await page.close()
    await background.idle()


async def test_an_offer_whose_browser_never_connects_fails_in_time(monkeypatch):
    monkeypatch.setattr(webrtc, "CONNECT_SECONDS", 0.5)
    caller = join_room("default", "c", "caller")
    page = Browser(caller)
    await page.pc.setLocalDescription(await page.pc.createOffer())
    await caller.negotiate(page.pc.localDescription.sdp)
    assert await next_event(caller, Media) == Media("webrtc", "connecting")
    assert await next_event(caller, Media) == Media("webrtc", "failed")
    caller.leave()
    await page.close()
    await background.idle()


async def test_a_machine_without_an_address_says_at_once_that_webrtc_cannot_work(monkeypatch):
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **kwargs: [])
    caller = join_room("default", "c", "caller")
    page = Browser(caller)
    await page.pc.setLocalDescription(await page.pc.createOffer())
    with pytest.raises(NoMedia, match="no network address"):
        await caller.negotiate(page.pc.localDescription.sdp)
    assert await next_event(caller, Media, lambda event: event.state != "connecting") == Media("webrtc", "failed")
    caller.leave()
    await page.close()
    await background.idle()


async def test_leaving_while_an_offer_is_answered_opens_nothing(monkeypatch):
    caller = join_room("default", "c", "caller")
    page = Browser(caller)
    await page.pc.setLocalDescription(await page.pc.createOffer())
    before = State.now()
    answering = asyncio.create_task(caller.negotiate(page.pc.localDescription.sdp))
    await asyncio.sleep(0)
    caller.leave()
    await asyncio.gather(answering, return_exceptions=True)
    await background.idle()
    await until(lambda: State.now().no_more_than(before))
    await page.close()
