"""Speech recognition on this machine, on recordings of people: what is understood, when a turn begins and ends."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from getstream.video.rtc import PcmData
from vision_agents.core.edge.types import Participant
from vision_agents.core.stt.events import STTErrorEvent
from vision_agents.core.stt.stt import Transcript
from vision_agents.core.turn_detection import TurnEnded, TurnStarted

from tests.conftest import until
from tests.recordings import BROWSER_RATE, TRANSCRIPTS, recording, resampled, timeline
from visionagents_runner.demo.numbers import with_digits
from visionagents_runner.demo.speech import LocalSTT
from visionagents_runner.demo.speech.engine import MAX_WAITING, Engine, EngineBusy, Priority
from visionagents_runner.demo.speech.shared import Shared
from visionagents_runner.demo.speech.utterance import chunks_to_end
from visionagents_runner.demo.speech.vad import activity
from visionagents_runner.demo.speech.whisper import recognition, repeats

pytestmark = pytest.mark.slow

CALLER = Participant(original=None, user_id="caller", id="caller-1")
GUEST = Participant(original=None, user_id="guest", id="guest-1")
FRAME = BROWSER_RATE // 50


@pytest.fixture
async def stt():
    await asyncio.gather(activity.wait(), recognition.wait())
    stt = LocalSTT()
    yield stt
    await stt.close()


def frames_of(samples):
    samples = resampled(samples, BROWSER_RATE)
    return [
        PcmData(samples=samples[at : at + FRAME], sample_rate=BROWSER_RATE, format="s16", channels=1)
        for at in range(0, len(samples) - FRAME + 1, FRAME)
    ]


async def say(stt, *parts, who=CALLER, lead=0.3, tail=1.2):
    """Play recordings (names) and silences (seconds) as fast as the loop takes them."""
    for frame in frames_of(timeline(lead, *parts, tail)):
        await stt.process_audio(frame, who)
        await asyncio.sleep(0)


async def heard(stt, ends=1, seconds=30.0):
    """Return what the recognition told, until as many turns have ended."""
    told = []
    async with asyncio.timeout(seconds):
        while sum(isinstance(item, TurnEnded) for item in told) < ends:
            told.append(await stt.output.get())
    return told


def finals(told):
    return [item.text for item in told if isinstance(item, Transcript) and item.final]


def words_of(text):
    text = "".join(letter if letter.isalnum() or letter == "'" else " " for letter in with_digits(text).lower())
    return text.replace("mr", "mister").split()


def wrong_words(expected, text):
    """How many words would have to be changed, and how many there are."""
    expected, text = words_of(expected), words_of(text)
    row = list(range(len(text) + 1))
    for number, word in enumerate(expected, start=1):
        diagonal, row[0] = row[0], number
        for at, other in enumerate(text, start=1):
            diagonal, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, diagonal + (word != other))
    return row[-1], len(expected)


async def test_people_are_understood(stt):
    wrong = spoken = 0
    for name, expected in TRANSCRIPTS.items():
        await say(stt, name)
        more_wrong, more_spoken = wrong_words(expected, " ".join(finals(await heard(stt))))
        wrong, spoken = wrong + more_wrong, spoken + more_spoken
    assert wrong / spoken < 0.12


async def test_a_turn_starts_is_recognised_and_ends_in_this_order_and_says_how_long_it_was(stt):
    await say(stt, "goforward.raw")
    told = await heard(stt)
    started, *partial, final, ended = told
    assert isinstance(started, TurnStarted)
    assert all(isinstance(item, Transcript) and item.mode == "replacement" for item in partial)
    assert final.text == "Go forward 10 meters."
    assert final.participant == started.participant == ended.participant == CALLER
    assert final.language == "en"
    assert final.model_name == "whisper-tiny.en"
    assert final.processing_time_ms > 0
    assert 1000 < ended.duration_ms < 2800
    assert 300 < ended.trailing_silence_ms < 900


async def test_words_are_shown_while_somebody_speaks(stt):
    name = "librivox/sense_and_sensibility_01_austen_64kb-0870.wav"
    for frame in frames_of(timeline(name, 1.2)):
        await stt.process_audio(frame, CALLER)
        await asyncio.sleep(0.004)  # five times as fast as they speak
    partial = [item.text for item in await heard(stt) if isinstance(item, Transcript) and not item.final]
    assert partial
    assert "john" in partial[-1].lower()


async def test_a_pause_within_a_sentence_does_not_end_the_turn(stt):
    await say(stt, "goforward.raw", 0.05, "something.raw")
    text = " ".join(finals(await heard(stt)))
    assert "10 meters" in text
    assert "do something" in text


async def test_two_people_speak_at_once_and_both_are_understood(stt):
    first = frames_of(timeline(0.3, "goforward.raw", 1.2))
    second = frames_of(timeline(0.5, "something.raw", 1.2))
    for number in range(max(len(first), len(second))):
        for frames, who in ((first, CALLER), (second, GUEST)):
            if number < len(frames):
                await stt.process_audio(frames[number], who)
        await asyncio.sleep(0)
    said = {
        item.participant.id: item.text for item in await heard(stt, 2) if isinstance(item, Transcript) and item.final
    }
    assert "forward" in said[CALLER.id].lower()
    assert "something" in said[GUEST.id].lower()


@pytest.mark.parametrize("loudness", [0.0, 100.0, 1000.0])
async def test_neither_silence_nor_noise_is_a_turn(stt, loudness):
    noise = np.random.default_rng(0).normal(0, loudness, 3 * 16_000).astype(np.int16)
    for frame in frames_of(noise):
        await stt.process_audio(frame, CALLER)
    assert stt.output.empty()


async def test_a_cough_does_not_interrupt(stt):
    spoken = recording("goforward.raw")[8_600:10_400]  # 110 ms of a vowel
    for frame in frames_of(np.concatenate([np.zeros(8000, np.int16), spoken, np.zeros(16_000, np.int16)])):
        await stt.process_audio(frame, CALLER)
    assert stt.output.empty()


async def test_the_turn_ends_if_the_microphone_is_muted_after_the_last_word(stt):
    await say(stt, "goforward.raw", tail=0.0)  # and not one frame more
    assert finals(await heard(stt)) == ["Go forward 10 meters."]


async def test_long_speech_is_recognised_in_pieces_and_is_one_turn(stt, monkeypatch):
    monkeypatch.setattr("visionagents_runner.demo.speech.utterance.PIECE_CHUNKS", 5000 // 32)
    await say(stt, "librivox/sense_and_sensibility_01_austen_64kb-0870.wav")
    told = await heard(stt)
    [text] = finals(told)
    assert wrong_words(TRANSCRIPTS["librivox/sense_and_sensibility_01_austen_64kb-0870.wav"], text)[0] <= 5
    assert sum(isinstance(item, TurnStarted) for item in told) == 1


async def test_nothing_is_kept_of_who_was_not_heard_for_long(stt, monkeypatch):
    monkeypatch.setattr("visionagents_runner.demo.speech.stt._FORGET_SECONDS", 0.05)
    await say(stt, lead=0.1, tail=0.0)
    await until(lambda: not stt._speakers)


async def test_after_closing_nothing_is_told_and_no_timer_is_left(stt):
    await say(stt, "goforward.raw", tail=0.25)  # recognition has begun
    await stt.close()
    assert stt._ticking is None
    await say(stt, "goforward.raw")
    assert not finals(await stt.output.collect())


async def test_a_model_that_does_not_load_is_told_once_and_nothing_breaks(monkeypatch):
    def load():
        raise RuntimeError("there is no model")

    monkeypatch.setattr("visionagents_runner.demo.speech.stt.recognition", Shared("speech recognition", load))
    stt = LocalSTT()
    told = []

    @stt.events.subscribe
    async def on_error(event: STTErrorEvent):
        told.append(event)

    await say(stt, "goforward.raw")
    await until(lambda: bool(told))
    await say(stt, "goforward.raw")
    await stt.events.wait()
    await stt.close()
    assert [str(event.error) for event in told] == ["there is no model"]


async def test_what_is_said_while_the_models_load_is_recognised_when_they_are_there(monkeypatch):
    models = await asyncio.gather(activity.wait(), recognition.wait())
    go = asyncio.Event()
    loop = asyncio.get_running_loop()

    def load():
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result(20)
        return models[1]

    monkeypatch.setattr("visionagents_runner.demo.speech.stt.recognition", Shared("speech recognition", load))
    stt = LocalSTT()
    await say(stt, "goforward.raw", tail=0.2)
    assert stt.output.empty()
    go.set()
    await until(lambda: stt._models() is not None)
    await say(stt, lead=0.0, tail=1.2)
    assert finals(await heard(stt)) == ["Go forward 10 meters."]
    await stt.close()


async def test_what_the_short_window_makes_of_a_short_utterance_is_recognised_once_more(monkeypatch):
    recogniser = await recognition.wait()
    windows = []
    decode = recogniser._decode

    def looping(features, window, limit, unwanted):
        windows.append(window)
        text, unfinished = decode(features, window, limit, unwanted)
        return ("10 of clubs. 10 of clubs. 10 of clubs. 10 of" if len(windows) == 1 else text), unfinished

    monkeypatch.setattr(recogniser, "_decode", looping)
    samples = recording("cards/001.wav").astype(np.float32) / 32768
    assert "clubs" in (await asyncio.to_thread(recogniser.recognise, samples)).text
    assert windows == [1000, 3000]


@pytest.mark.parametrize(
    ("text", "is_a_loop"),
    [
        ("10 of clubs. 10 of clubs. 10 of", True),
        ("5 5 5 5 5 5", True),
        ("Four queen of clothes Four queen of clothes", True),
        ("5 5", False),
        ("no, no, no", False),
        ("Go forward 10 meters.", False),
        ("", False),
    ],
)
def test_a_loop_is_told_from_people_who_repeat_themselves(text, is_a_loop):
    assert repeats(text) is is_a_loop


def test_an_unfinished_sentence_is_waited_for_longer_than_a_finished_one():
    finished, open_, unfinished = map(chunks_to_end, ("What time is it?", "ten of clubs", "I want to go to the"))
    assert finished < open_ < unfinished
    assert chunks_to_end("And then, um.") == unfinished
    assert chunks_to_end(None) == open_


async def test_features_are_those_that_whisper_was_trained_on():
    recogniser = await recognition.wait()
    samples = recording("goforward.raw").astype(np.float32) / 32768
    assert np.allclose(recogniser._features(samples), recogniser._model.feature_extractor(samples), atol=1e-4)


# The engine


async def test_the_engine_does_what_somebody_waits_for_before_what_might_be_wanted():
    engine = Engine()
    done = []
    blocker = asyncio.Event()
    loop = asyncio.get_running_loop()
    first = engine.submit(Priority.FINAL, lambda job: asyncio.run_coroutine_threadsafe(blocker.wait(), loop).result(10))
    await until(lambda: engine.waiting == 0)
    jobs = [
        engine.submit(priority, lambda job, priority=priority: done.append(priority))
        for priority in (Priority.SPECULATIVE, Priority.VOICE, Priority.FINAL)
    ]
    late = engine.submit(Priority.SPECULATIVE, lambda job: done.append("promoted"))
    late.promote(Priority.FINAL)
    never = engine.submit(Priority.FINAL, lambda job: done.append("never"))
    never.cancel()
    blocker.set()
    await asyncio.gather(first.done, late.done, *(job.done for job in jobs))
    assert done == [Priority.FINAL, "promoted", Priority.VOICE, Priority.SPECULATIVE]
    assert never.done.cancelled()
    engine.end()


async def test_partial_words_are_given_up_for_anything_else():
    engine = Engine()
    recogniser = await recognition.wait()
    samples = recording("goforward.raw").astype(np.float32) / 32768
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(job):
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(second_submitted.wait(), loop).result(10)
        return recogniser.recognise(samples, lambda: job.unwanted, roughly=True)

    second_submitted = asyncio.Event()
    partial = engine.submit(Priority.PARTIAL, work)
    await begun.wait()
    urgent = engine.submit(Priority.SPECULATIVE, lambda job: "done")
    second_submitted.set()
    assert await urgent.done == "done"
    with pytest.raises(asyncio.CancelledError):
        await partial.done
    engine.end()


async def test_what_waits_is_bounded_and_the_least_urgent_goes_first():
    engine = Engine()
    blocker = asyncio.Event()
    loop = asyncio.get_running_loop()
    first = engine.submit(Priority.FINAL, lambda job: asyncio.run_coroutine_threadsafe(blocker.wait(), loop).result(10))
    await until(lambda: engine.waiting == 0)
    guesses = [engine.submit(Priority.SPECULATIVE, lambda job: None) for _ in range(MAX_WAITING)]
    with pytest.raises(EngineBusy):
        engine.submit(Priority.SPECULATIVE, lambda job: None)
    final = engine.submit(Priority.FINAL, lambda job: "final")
    blocker.set()
    assert await final.done == "final"
    await asyncio.gather(first.done, *(job.done for job in guesses), return_exceptions=True)
    assert [job.done.cancelled() for job in guesses].count(True) == 1
    engine.end()


async def test_work_that_fails_tells_who_waits_and_the_engine_goes_on():
    engine = Engine()
    failing = engine.submit(Priority.FINAL, lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await failing.done
    assert await engine.submit(Priority.FINAL, lambda job: "on").done == "on"
    engine.end()
    with pytest.raises(EngineBusy):
        engine.submit(Priority.FINAL, lambda job: None)


def test_one_engine_serves_several_loops_and_outlives_them():
    engine = Engine()

    async def use(number):
        return await engine.submit(Priority.FINAL, lambda job: number).done

    async def leave():
        engine.submit(Priority.FINAL, lambda job: None)

    assert [asyncio.run(use(1)), asyncio.run(use(2))] == [1, 2]
    asyncio.run(leave())
    assert asyncio.run(use(3)) == 3
    engine.end()
