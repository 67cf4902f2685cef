from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.observe.parts import CALLER, Ears, LiveModel, Slow, Voice, on_call, pcm
from visionagents_runner.demo.voice import SilentTTS
from visionagents_runner.observe import observe
from visionagents_runner.observe.turns import TurnTracker

pytestmark = pytest.mark.slow

PARTS = ("end_of_turn_ms", "recognition_ms", "model_ms", "voice_ms")


class Told(list[dict[str, Any]]):
    """The turns that a tracker told; without a loop of its own, so that the times are the test's."""

    def __init__(self, *, speaks: bool = True, realtime: bool = False) -> None:
        self.tracker = TurnTracker(self.append, speaks=speaks, realtime=realtime)

    def parts(self, number: int = -1) -> list[int | None]:
        return [self[number][name] for name in (*PARTS, "total_ms")]


def _reply(tracker: TurnTracker, words: float, audio: float | None = None, played: float | None = None) -> None:
    tracker.words("reply", words)
    if audio is not None:
        tracker.audio_started(audio)
    if played is not None:
        tracker.played(played)


async def test_the_parts_of_a_spoken_turn_sum_to_its_total() -> None:
    told = Told()
    turns = told.tracker
    turns.voiced("caller", 99.98)
    turns.user_started("caller", 99.0)
    turns.voiced("caller", 100.0)
    turns.user_ended("caller", 100.5, None)
    turns.recognised("caller", 100.8, 300.0)
    turns.answering("caller", 100.8)
    _reply(turns, 100.9, 100.95, 101.0)
    turns.close()
    assert told.parts() == [500, 300, 100, 100, 1000]
    assert told[0]["how"] == "speech"
    assert told[0]["participant_id"] == "caller"


async def test_speculative_recognition_counts_only_for_what_it_added() -> None:
    told = Told()
    turns = told.tracker
    turns.voiced("caller", 100.0)
    turns.recognised("caller", 100.4, 300.0)
    turns.user_ended("caller", 100.5, 500.0)
    turns.answering("caller", 100.5)
    _reply(turns, 100.6, 100.7)
    turns.close()
    assert told.parts() == [500, 0, 100, 100, 700]


async def test_an_end_of_turn_told_only_after_recognition_is_split_by_its_silence() -> None:
    told = Told()
    turns = told.tracker
    turns.voiced("caller", 100.0)
    turns.recognised("caller", 100.82, 300.0)
    turns.user_ended("caller", 100.821, 500.0)
    turns.answering("caller", 100.821)
    _reply(turns, 100.921, 101.0)
    turns.close()
    assert told.parts() == [500, 321, 100, 79, 1000]


async def test_without_marks_the_silence_that_ended_the_turn_tells_when_it_began() -> None:
    told = Told()
    turns = told.tracker
    turns.user_ended("caller", 100.5, 500.0)
    turns.recognised("caller", 100.7, None)
    turns.answering("caller", 100.7)
    _reply(turns, 100.8, 100.9)
    turns.close()
    assert told.parts() == [500, 200, 100, 100, 900]


async def test_what_cannot_be_known_is_null() -> None:
    told = Told()
    turns = told.tracker
    turns.user_ended("caller", 100.5, None)
    turns.recognised("caller", 100.7, None)
    turns.answering("caller", 100.7)
    _reply(turns, 100.8)
    turns.close()
    assert told.parts() == [None, 200, 100, None, 300]


async def test_recognition_alone_ends_a_turn() -> None:
    told = Told()
    turns = told.tracker
    turns.voiced("caller", 100.0)
    turns.recognised("caller", 100.7, 300.0)
    turns.answering("caller", 100.7)
    _reply(turns, 100.8, 100.9)
    turns.close()
    assert told.parts() == [400, 300, 100, 100, 900]


async def test_a_mark_from_before_the_turn_is_not_believed() -> None:
    told = Told()
    turns = told.tracker
    turns.voiced("caller", 50.0)
    turns.user_started("caller", 99.0)
    turns.user_ended("caller", 100.5, None)
    turns.answering("caller", 100.5)
    _reply(turns, 100.8, 100.9)
    turns.close()
    assert told.parts() == [None, None, 300, 100, 400]


async def test_a_person_who_goes_on_speaking_before_the_answer_has_one_turn() -> None:
    told = Told()
    turns = told.tracker
    for start in (100.0, 110.0):
        turns.user_started("caller", start)
        turns.user_ended("caller", start + 2, 500.0)
        turns.recognised("caller", start + 2.1, None)
        turns.answering("caller", start + 2.1)
    _reply(turns, 112.2, 112.3)
    turns.close()
    assert len(told) == 1
    assert told.parts() == [500, 100, 100, 100, 800]


async def test_words_of_an_answer_that_was_cut_do_not_count_for_the_next() -> None:
    told = Told()
    turns = told.tracker
    turns.asked("caller", 100.0)
    turns.words("first", 100.1)
    turns.asked("caller", 101.0)
    turns.words("first", 101.01)
    turns.words("second", 101.3)
    turns.close()
    assert [turn["interrupted"] for turn in told] == [True, True]
    assert told.parts() == [None, None, 300, None, 300]


async def test_a_greeting_under_way_is_not_the_answer_to_what_is_asked_meanwhile() -> None:
    told = Told()
    turns = told.tracker
    turns.words("greeting", 99.0)
    turns.asked("caller", 100.0)
    turns.words("greeting", 100.01)
    turns.words("answer", 100.2)
    turns.close()
    assert told.parts() == [None, None, 200, None, 200]


async def test_a_request_that_is_dropped_starts_no_turn() -> None:
    told = Told()
    turns = told.tracker
    turns.asked("caller", 100.0)
    turns.asked(None, 100.1, interrupt=False)
    turns.words("answer", 100.2)
    turns.close()
    assert [turn["participant_id"] for turn in told] == ["caller"]


async def test_a_turn_that_was_never_answered_is_not_told() -> None:
    told = Told()
    turns = told.tracker
    turns.user_ended("caller", 100.0, None)
    turns.answering("caller", 100.1)
    turns.close()
    assert told == []


async def test_a_realtime_model_that_tells_no_ends_of_turns_still_has_turns() -> None:
    told = Told(realtime=True)
    turns = told.tracker
    turns.voiced("caller", 1.0)
    turns.said("caller", 1.1)
    turns.voice(1.6, 0.5)
    turns.played(1.7)
    turns.close()
    assert told.parts() == [None, None, 600, 100, 700]


# With an agent


async def test_a_spoken_turn_of_a_real_agent_is_told_when_its_voice_is_over() -> None:
    ears = Ears()
    async with on_call(stt=ears, tts=Voice(0.2), llm=Slow()) as (agent, diary):
        observer, now = observe(agent), asyncio.get_running_loop().time
        ears.starts()
        observer.voiced("caller-1", now())
        await asyncio.sleep(0.1)
        ears.ends()
        await asyncio.sleep(0.05)
        ears.says("How are you?", processing_ms=50)
        await diary.wait_for("agent_turn_started")
        observer.played(now() + 0.02)
        turn = await diary.wait_for("turn")
    assert turn["end_of_turn_ms"] >= 95
    assert turn["recognition_ms"] >= 45
    assert turn["voice_ms"] >= 19
    assert turn["total_ms"] == sum(turn[name] for name in PARTS)
    assert turn["interrupted"] is False


@pytest.mark.parametrize("tts", [None, SilentTTS()], ids=["no voice", "silent voice"])
async def test_an_answer_without_a_voice_yields_its_turn_when_the_reply_is_whole(tts: Any) -> None:
    async with on_call(tts=tts, stt=Ears()) as (agent, diary):
        person = agent.edge.person()
        await person.say("hello")
        async with asyncio.timeout(2):
            turn = await diary.wait_for("turn")
    assert (turn["how"], turn["participant_id"]) == ("text", person.participant.id)
    assert turn["voice_ms"] is None
    assert turn["total_ms"] == turn["model_ms"]


async def test_a_typed_turn_with_a_voice_has_both_parts() -> None:
    async with on_call(tts=Voice()) as (agent, diary):
        await agent.edge.person().say("hello")
        turn = await diary.wait_for("turn")
    assert turn["how"] == "text"
    assert turn["total_ms"] == turn["model_ms"] + turn["voice_ms"]


async def test_an_answer_that_is_cut_while_its_voice_plays_says_so() -> None:
    ears = Ears()
    async with on_call(stt=ears, tts=Voice(30.0), llm=Slow()) as (agent, diary):
        await agent.simple_response("tell me", CALLER)
        await diary.wait_for("agent_turn_ended")
        ears.starts()
        turn = await diary.wait_for("turn")
    assert turn["interrupted"] is True
    assert len(diary.of("turn")) == 1


async def test_an_answer_that_is_cut_before_it_is_whole_says_so() -> None:
    ears, model = Ears(), Slow("One. ", "two.", gate=1)
    async with on_call(stt=ears, tts=Voice(), llm=model) as (agent, diary):
        await agent.simple_response("count", CALLER)
        await diary.wait_for("partial")
        ears.starts()
        turn = await diary.wait_for("turn")
    assert turn["interrupted"] is True


async def test_a_typed_turn_cuts_the_one_before() -> None:
    model = Slow("One. ", "two.", gate=1)
    async with on_call(tts=Voice(), llm=model) as (agent, diary):
        person = agent.edge.person()
        await person.say("count")
        await diary.wait_for("partial")
        model.go.set()
        model.gate = 9
        await person.say("again")
        await diary.wait_for("turn", 2)
    assert [turn["interrupted"] for turn in diary.of("turn")] == [True, False]


async def test_a_voice_that_fails_does_not_hold_the_turn_back() -> None:
    class Mute(Voice):
        async def stream_audio(self, text: str, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no voice today")

    async with on_call(tts=Mute()) as (agent, diary):
        await agent.edge.person().say("hello")
        async with asyncio.timeout(3):
            turn = await diary.wait_for("turn")
    assert turn["voice_ms"] is None
    assert diary.of("error")[0]["component"] == "tts"


async def test_a_realtime_answer_that_is_cut_says_so() -> None:
    model = LiveModel()
    async with on_call(llm=model, tts=None) as (_, diary):
        await model.process_audio(pcm(0.02), CALLER)
        model._emit_user_speech_ended()
        model._emit_audio_output_event(pcm(5))
        model._emit_agent_speech_transcription("A long ", mode="delta")
        await diary.wait_for("partial")
        model._emit_audio_output_done_event(interrupted=True)
        turn = await diary.wait_for("turn")
        await diary.wait_for("message")
    assert turn["interrupted"] is True
    assert [(data["text"], data["completed"]) for data in diary.of("message")] == [("A long ", False)]
