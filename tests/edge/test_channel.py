"""The data channel "events", and words that REDACT sees before people do."""

from __future__ import annotations

import asyncio
import json
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack
from django.test import override_settings
from vision_agents.core.processors import AudioPublisher

from tests.conftest import until
from tests.edge.browser import browser, loudness, next_event, tone
from visionagents_runner.edge import BrowserCustomEvent, BrowserEdge, CustomEvent, Media, Words, join_room
from visionagents_runner.testing import stub_agent


@pytest.mark.slow
async def test_custom_events_go_over_the_data_channel_while_it_is_open(on_call):
    agent = await on_call()
    got = []

    async def on_custom(event: BrowserCustomEvent) -> None:
        got.append((event.participant.user_id, event.data))

    on_custom.__annotations__["event"] = BrowserCustomEvent
    agent.events.subscribe(on_custom)
    caller = join_room("default", "c", "caller")
    await agent.send_custom_event({"n": 0})
    assert await next_event(caller, CustomEvent) == CustomEvent({"n": 0}, agent.id)
    async with browser(caller, hertz=None) as page:
        await until(lambda: caller.custom_by_data_channel and page.channel.readyState == "open")
        await agent.send_custom_event({"n": 1})
        await until(lambda: bool(page.messages))
        assert json.loads(page.messages[0]) == {"type": "custom", "data": {"n": 1}, "agent_id": agent.id}
        for bad in ("{", "[]", b"bytes", '{"type":"custom","data":[]}', json.dumps({"x": "y" * 20_000})):
            page.channel.send(bad)
        page.channel.send('{"type":"custom","data":{"clicked":1}}')
        await until(lambda: got == [("caller", {"clicked": 1})])
        for number in range(200):
            page.channel.send(json.dumps({"type": "custom", "data": {"n": number}}))
        page.channel.send("end")
        await asyncio.sleep(0.5)
        assert 30 < len(got) < 60, "more than 20 a second are dropped, after 40"
    assert not [event async for event in caller if isinstance(event, CustomEvent)]


async def test_other_channels_are_closed(on_call):
    caller = join_room("default", "c", "caller")
    async with browser(caller, hertz=None) as page:
        other = page.pc.createDataChannel("other")
        await until(lambda: other.readyState == "closed")
        assert caller.custom_by_data_channel


class Humming(AudioPublisher):
    """Publishes a track of its own; silence for the first quarter of a second."""

    name = "humming"

    def publish_audio_track(self):
        return Hum()

    async def close(self):
        """Nothing is open."""


class Hum(MediaStreamTrack):
    kind = "audio"

    def __init__(self):
        super().__init__()
        self._number = 0

    async def recv(self):
        await asyncio.sleep(0.02)
        self._number += 1
        samples = tone(700, 0.02, rate=16_000) if self._number > 12 else np.zeros(320, dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, self._number * 320, Fraction(1, 16_000)
        return frame


@pytest.mark.slow
async def test_an_agent_may_bring_its_own_audio_track(on_call):
    caller = join_room("default", "c", "caller")
    async with browser(caller, hertz=None) as page:
        await next_event(caller, Media, lambda event: event.state == "connected")
        await on_call(stub_agent(edge=BrowserEdge(), processors=[Humming()]))
        await until(lambda: loudness(page.heard[-9_600:], 700) > 0.1)


def hide(session_id, kind, data):
    text = data.get("text", "")
    return None if "secret" in text else {**data, "text": text.replace("4711", "[number]")} if text else data


@override_settings(VISIONAGENTS_RUNNER={"REDACT": "tests.edge.test_channel.hide"})
async def test_people_are_not_shown_what_redact_takes_out(on_call):
    await on_call()
    caller, guest = join_room("default", "c", "caller"), join_room("default", "c", "guest")
    await caller.say("a secret")
    await caller.say("it is 4711")
    final = await next_event(guest, Words, lambda words: words.role == "assistant" and words.completed)
    assert final.text == "You said: it is [number]"
    caller.leave()
    told = [words.text async for words in caller if isinstance(words, Words)]
    assert "it is [number]" in told
    assert not [text for text in told if "secret" in text or "4711" in text]
    guest.leave()
