"""WebRTC: people and agents hear each other, and whoever vanishes is noticed."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.conftest import until
from tests.edge.browser import Browser, Ears, browser, loudness, next_event, speak
from visionagents_runner.edge import BadOffer, Media, NoMedia, Speaking, join_room

pytestmark = pytest.mark.slow


@pytest.mark.smoke
async def test_an_agent_hears_a_person_who_has_come_with_a_browser(on_call):
    agent = await on_call()
    ears = Ears(agent)
    caller = join_room("default", "c", "caller")
    async with browser(caller, hertz=440):
        assert (await next_event(caller, Media)).state == "connecting"
        assert await next_event(caller, Media) == Media("webrtc", "connected")
        assert caller.transport == "webrtc"
        await until(lambda: len(ears.heard.get("caller", ())) > 48_000)
        assert loudness(ears.heard["caller"][-24_000:], 440) > 0.2
        pcm = ears.frames[-1]
        assert (pcm.sample_rate, pcm.channels, pcm.samples.dtype, len(pcm.samples)) == (48_000, 1, np.int16, 960)
        assert pcm.participant == caller.participant
    await agent.events.wait()
    assert ears.told == [
        ("TrackAddedEvent", "AUDIO", "caller"),
        ("AudioReceivedEvent", "", "caller"),
        ("TrackRemovedEvent", "AUDIO", "caller"),
    ]


@pytest.mark.smoke
async def test_a_person_hears_the_agent_at_any_rate(on_call):
    agent = await on_call()
    caller = join_room("default", "c", "caller")
    async with browser(caller, hertz=None) as page:
        await next_event(caller, Media, lambda event: event.state == "connected")
        await speak(agent, 600, 1.0, rate=22_050)
        assert await next_event(caller, Speaking) == Speaking(agent.id, True)
        await until(lambda: loudness(page.heard[-24_000:], 600) > 0.2)
        assert await next_event(caller, Speaking) == Speaking(agent.id, False)


async def test_what_an_agent_says_before_the_way_to_the_person_stands_is_not_lost(on_call):
    agent = await on_call()
    caller = join_room("default", "c", "caller")
    await speak(agent, 600, 1.0)
    async with browser(caller, hertz=None) as page:
        await until(lambda: len(page.heard) > 50_000)
        assert loudness(page.heard[4_800:40_000], 600) > 0.2


async def test_people_hear_each_other_and_not_themselves(on_call):
    caller, guest = join_room("default", "c", "caller"), join_room("default", "c", "guest")
    async with browser(caller, hertz=440) as first, browser(guest, hertz=900) as second:
        await until(lambda: loudness(first.heard[-24_000:], 900) > 0.2 and loudness(second.heard[-24_000:], 440) > 0.2)
        assert loudness(first.heard[-24_000:], 440) < 0.01
        assert loudness(second.heard[-24_000:], 900) < 0.01


async def test_offers_that_cannot_be_agreed_with_are_refused_and_leave_nothing(on_call):
    caller = join_room("default", "c", "caller")
    page = Browser(caller)
    await page.pc.setLocalDescription(await page.pc.createOffer())
    good = page.pc.localDescription.sdp
    for bad in (
        "",
        "v=0",
        "x" * 70_000,
        good.replace("m=audio", "m=audio 9 UDP/TLS/RTP/SAVPF 96\r\nm=audio"),
        good.replace("opus", "copus").replace("PCM", "XCM").replace("G722", "H722"),
        good.replace("a=fingerprint", "a=finger"),
        good.replace("a=ice-ufrag", "a=ice"),
        good.replace("a=group:BUNDLE", "a=group:OTHER"),
        good + "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n" * 300,
        good.replace("m=audio ", "m=audio nine "),
    ):
        with pytest.raises(BadOffer):
            await caller.negotiate(bad)
    assert caller.transport is None
    caller.leave()
    with pytest.raises(NoMedia):
        await caller.negotiate(good)
    await page.close()


async def test_a_browser_that_says_goodbye_is_told_of_at_once(on_call):
    caller = join_room("default", "c", "caller")
    async with browser(caller) as page:
        await next_event(caller, Media, lambda event: event.state == "connected")
        await page.close()
        assert await next_event(caller, Media) == Media("webrtc", "closed")
        assert caller.transport is None
        assert caller.here


async def test_a_connection_is_replaced_by_a_new_one_of_the_same_person(on_call):
    caller = join_room("default", "c", "caller")
    first = Browser(caller)
    await first.connect()
    await next_event(caller, Media, lambda event: event.state == "connected")
    async with browser(caller):
        await next_event(caller, Media, lambda event: event.state == "connected")
        assert caller.transport == "webrtc"
        await asyncio.wait_for(first.close(), 10)
        assert caller.transport == "webrtc"
