"""The demo agent in a call, as somebody with a microphone meets it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.benchmarks.speaking import Caller, demo_call, frames_of
from tests.conftest import until
from tests.recordings import BROWSER_RATE, RATE, recording, resampled
from visionagents_runner.demo.speech.whisper import recognition

pytestmark = pytest.mark.slow


@pytest.fixture
async def call():
    async with demo_call() as (agent, person):
        caller = Caller(person.open_pcm())
        yield agent, person, caller
        await caller.stop()


async def understood(sound):
    recogniser = await recognition.wait()
    samples = resampled(sound, RATE, source=BROWSER_RATE).astype(np.float32) / 32768
    return (await asyncio.to_thread(recogniser.recognise, samples)).text.lower()


async def test_a_person_asks_aloud_and_hears_the_answer(call):
    agent, _, caller = call
    await asyncio.wait_for(caller.heard.wait(), 20)
    assert await caller.ask(frames_of(recording("goforward.raw"))) is not None
    caller.sound.clear()
    await asyncio.sleep(4)
    assert "meters ahead" in await understood(np.concatenate(caller.sound))
    roles = [(message.role, message.content) for message in agent.conversation.messages[-2:]]
    assert roles == [
        ("user", "Go forward 10 meters."),
        ("assistant", "The robot went forward 10 meters. It is 10 meters ahead of where it started."),
    ]


async def test_the_greeting_is_heard_and_what_is_typed_is_answered_aloud_too(call):
    _, person, caller = call
    await asyncio.wait_for(caller.heard.wait(), 20)
    await person.say("where is the robot")  # which interrupts the greeting
    await asyncio.sleep(1)
    caller.heard.clear()
    await asyncio.wait_for(caller.heard.wait(), 10)


async def test_who_speaks_while_the_agent_does_interrupts_it(call):
    agent, person, caller = call
    await asyncio.wait_for(caller.heard.wait(), 20)
    await person.say("what can you do?")
    await until(lambda: agent.edge.audio_track.waiting > 100)  # two seconds of the answer are still to come
    caller.say(frames_of(recording("goforward.raw")))
    await until(lambda: not agent.edge.audio_track.waiting)
    assert caller.still_speaking, "it does not wait until they are done"
