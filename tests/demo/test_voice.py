"""The voice on this machine: what it says can be understood, when it is silent, and that it can be cut."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from vision_agents.core.tts.events import TTSErrorEvent

from tests.conftest import until
from tests.recordings import RATE, resampled
from visionagents_runner.demo.speech import LocalTTS
from visionagents_runner.demo.speech.shared import Shared
from visionagents_runner.demo.speech.tts import phrases
from visionagents_runner.demo.speech.voices import EspeakVoice, shared_voice, without_lead
from visionagents_runner.demo.speech.whisper import recognition

pytestmark = pytest.mark.slow

ANSWER = (
    "The robot went forward ten meters. It is ahead of where it started, and nobody is in its way, so far as I can see."
)


@pytest.fixture
async def tts():
    await shared_voice.wait()
    tts = LocalTTS()
    yield tts
    await tts.close()


async def understood(samples, rate):
    recogniser = await recognition.wait()
    heard = resampled(samples, RATE, source=rate).astype(np.float32) / 32768
    return (await asyncio.to_thread(recogniser.recognise, heard)).text.lower()


async def test_what_it_says_is_understood(tts):
    sounds = [chunk.data async for chunk in tts.send_iter(ANSWER) if chunk.data is not None]
    text = await understood(np.concatenate([sound.samples for sound in sounds]), sounds[0].sample_rate)
    assert "robot went" in text  # "4 or 10" is heard of "forward ten", now and then
    assert "where it started" in text


async def test_the_first_phrase_comes_before_the_rest_is_made_and_the_last_chunk_is_final(tts):
    chunks = [chunk async for chunk in tts.send_iter(ANSWER)]
    assert len(chunks) == len(phrases(ANSWER)) + 1
    assert [chunk.final for chunk in chunks].index(True) == len(chunks) - 1
    first = chunks[0].data
    assert np.abs(first.samples[: first.sample_rate // 10]).max() > 330, "nobody waits for silence"
    assert tts.metrics is not None
    assert tts.model == "piper-en_US-joe-medium"


async def test_an_interrupted_voice_stops(tts):
    chunks = []
    async for chunk in tts.send_iter(ANSWER * 5):
        chunks.append(chunk)
        await tts.interrupt()
    assert [chunk.data is not None for chunk in chunks] == [True, False], "the end is told all the same"


async def test_a_voice_that_is_interrupted_while_it_makes_a_phrase_stops(tts):
    chunks = []

    async def speak():
        async for chunk in tts.send_iter(ANSWER * 5):
            chunks.append(chunk)

    speaking = asyncio.create_task(speak())
    await until(lambda: tts._current is not None)
    await tts.interrupt()
    await asyncio.wait_for(speaking, 10)
    assert chunks == []


async def test_while_nobody_can_hear_it_nothing_is_made(monkeypatch):
    monkeypatch.setattr("visionagents_runner.demo.speech.tts._PATIENCE_SECONDS", 0.1)
    somebody = False
    tts = LocalTTS(audible=lambda: somebody)
    assert [chunk async for chunk in tts.send_iter("Hello.")] == []
    somebody = True
    assert [chunk async for chunk in tts.send_iter("Hello.")] != []
    await tts.close()


async def test_the_greeting_waits_for_somebody_who_is_just_connecting():
    looks = iter([False, False, True])
    tts = LocalTTS(audible=lambda: next(looks))
    assert [chunk async for chunk in tts.send_iter("Hello.")] != []
    await tts.close()


async def test_a_voice_that_does_not_load_is_told_once_and_the_text_goes_on(monkeypatch):
    def load():
        raise RuntimeError("there is no voice")

    monkeypatch.setattr("visionagents_runner.demo.speech.tts.shared_voice", Shared("voice", load))
    tts = LocalTTS()
    told = []

    @tts.events.subscribe
    async def on_error(event: TTSErrorEvent):
        told.append(str(event.error))

    for _ in range(2):
        assert [chunk async for chunk in tts.send_iter("Hello.")] == []
    await tts.events.wait()
    await tts.close()
    assert told == ["there is no voice"]


async def test_espeak_speaks_where_piper_is_not_and_several_voices_share_it():
    voices = EspeakVoice(), EspeakVoice()
    said = "The robot went forward ten meters."
    sounds = await asyncio.gather(*(asyncio.to_thread(voice.speak, said) for voice in voices for _ in range(3)))
    lengths = [len(sound) for sound in sounds]
    assert max(lengths) - min(lengths) < 100, "what is made at once is not mixed up"
    assert "robot" in await understood(sounds[0], voices[0].sample_rate)


def test_a_text_is_cut_where_a_speaker_would_breathe_and_nothing_is_lost():
    assert phrases("Sorry, I have no rule for that. Ask me what I can do.") == [
        "Sorry,",
        "I have no rule for that.",
        "Ask me what I can do.",
    ]
    assert phrases("It is 17:35 UTC.") == ["It is 17:35 UTC."]
    assert phrases("") == []
    assert " ".join(phrases(ANSWER)) == ANSWER


def test_silence_before_the_first_word_is_taken_off_and_nothing_else():
    sound = np.concatenate([np.zeros(8000, np.int16), np.full(100, 9000, np.int16), np.zeros(4000, np.int16)])
    assert len(without_lead(sound, 16_000)) == 480 + 100 + 4000
    assert len(without_lead(np.zeros(10, np.int16), 16_000)) == 10
