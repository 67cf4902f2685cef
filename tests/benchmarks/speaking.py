"""How soon the demo agent answers aloud: ``python -m tests.benchmarks.speaking ROUNDS``.

Recordings of people are played into a room in real time, over a PCM link as a browser without WebRTC has it. Prints one
JSON line: for each utterance the milliseconds from its last audible sound to the first audible sound of the answer on
the same link, and the parts that the agent's observer tells; then the CPU that listening takes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.recordings import BROWSER_RATE, TRANSCRIPTS, Samples, recording, resampled

QUESTIONS = (
    *TRANSCRIPTS,
    "something.raw",
    "numbers.raw",
    "cards/002.wav",
    "cards/003.wav",
    "librivox/sense_and_sensibility_01_austen_64kb-0920.wav",
)

FRAME = 960
FRAME_SECONDS = 0.02
_REPLY_SECONDS = 5.0
_LISTEN_SECONDS = 10.0
_LOUD = 0.05
"""Of a recording's peak: below, its speech is over."""

_AUDIBLE = 300


def frames_of(samples: Samples) -> list[bytes]:
    """Cut mono 16 kHz samples into the frames of a PCM link, 48 kHz."""
    resampled_samples = resampled(samples, BROWSER_RATE).astype("<i2")
    return [resampled_samples[at : at + FRAME].tobytes() for at in range(0, len(resampled_samples) - FRAME + 1, FRAME)]


def last_loud_frame(frames: list[bytes]) -> int:
    peaks = [int(np.abs(np.frombuffer(frame, "<i2").astype(np.int32)).max()) for frame in frames]
    return max(number for number, peak in enumerate(peaks) if peak > _LOUD * max(peaks))


class Caller:
    """Somebody in the room with a microphone that always sends, and ears."""

    def __init__(self, link: Any) -> None:
        self._link = link
        self._silence = bytes(2 * FRAME)
        self._to_say: list[bytes] = []
        self.said: asyncio.Event = asyncio.Event()
        self.silent_at = 0.0
        self._last_loud = -1
        self._said = 0
        self.heard_at: float | None = None
        self.sound: deque[npt.NDArray[np.int16]] = deque(maxlen=500)
        """What they heard last."""
        self.heard = asyncio.Event()
        self._tasks = [asyncio.create_task(self._speak()), asyncio.create_task(self._listen())]

    async def ask(self, frames: list[bytes]) -> float | None:
        """Say it, and return the seconds from the last loud sound to the answer's first; None without an answer."""
        self.say(frames)
        await self.said.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.heard.wait(), _REPLY_SECONDS)
            assert self.heard_at is not None
            return self.heard_at - self.silent_at
        return None

    def say(self, frames: list[bytes]) -> None:
        self.said.clear()
        self.heard.clear()
        self._last_loud, self._said, self._to_say = last_loud_frame(frames), 0, list(frames)

    @property
    def still_speaking(self) -> bool:
        return not self.said.is_set()

    async def _speak(self) -> None:
        due = time.monotonic()
        while True:
            if self._to_say:
                self._link.receive(self._to_say.pop(0))
                if self._said == self._last_loud:
                    self.silent_at = time.monotonic()
                    self.heard.clear()
                    self.said.set()
                self._said += 1
            else:
                self._link.receive(self._silence)
            due += FRAME_SECONDS
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _listen(self) -> None:
        async for frame in self._link:
            samples = np.frombuffer(frame, "<i2")
            self.sound.append(samples)
            if not self.heard.is_set() and np.abs(samples.astype(np.int32)).max() > _AUDIBLE:
                self.heard_at = time.monotonic()
                self.heard.set()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def demo_call() -> AsyncIterator[tuple[Any, Any]]:
    """Yield the demo agent in a call, its models loaded, and a person there."""
    from visionagents_runner import demo
    from visionagents_runner.demo.speech.vad import activity
    from visionagents_runner.demo.speech.voices import shared_voice
    from visionagents_runner.demo.speech.whisper import recognition
    from visionagents_runner.edge import join_room

    await asyncio.gather(activity.wait(), recognition.wait(), shared_voice.wait())
    agent = await demo.create_agent()
    person = join_room("default", "benchmark", "caller")
    joined = asyncio.create_task(demo.join_call(agent, "default", "benchmark"))
    try:
        yield agent, person
    finally:
        person.room.end()
        await asyncio.wait_for(joined, 20)


async def measure(rounds: int) -> dict[str, Any]:
    from visionagents_runner.observe import observe

    turns: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    async with demo_call() as (agent, person):
        observe(agent).add_listener(lambda seen: turns.append(seen.data) if seen.kind == "turn" else None)
        link = person.open_pcm()
        caller = Caller(link)
        await asyncio.wait_for(caller.heard.wait(), 20)  # the greeting
        await asyncio.sleep(6)
        for _ in range(rounds):
            for name in QUESTIONS:
                answers.append(await _asked(caller, name, turns))
        link.close()
        await caller.stop()
    return {"answers": answers, "listening": await _listening()}


async def _asked(caller: Caller, name: str, turns: list[dict[str, Any]]) -> dict[str, Any]:
    known = len(turns)
    seconds = await caller.ask(frames_of(recording(name)))
    # The next question interrupts the answer, as people do; its turn is told then, or when it is over.
    await asyncio.sleep(1.0)
    return {"name": name, "ms": None if seconds is None else round(seconds * 1000), "turn": turns[known:]}


async def _listening() -> dict[str, float]:
    """CPU of a second of listening, in milliseconds. Speech comes in real time, so that partial words do too."""
    from getstream.video.rtc import PcmData
    from vision_agents.core.edge.types import Participant

    from visionagents_runner.demo.speech import LocalSTT

    speech = np.concatenate([resampled(recording(name), BROWSER_RATE) for name in QUESTIONS if "librivox" in name])
    count = round(_LISTEN_SECONDS * BROWSER_RATE)
    noise = np.random.default_rng(0).normal(0, 150, count).astype(np.int16)
    sounds = {"silence": np.zeros(count, np.int16), "noise": noise, "speech": speech[:count]}
    somebody = Participant(original=None, user_id="caller", id="caller")
    costs = {}
    for name, sound in sounds.items():
        stt = LocalSTT()
        began_cpu, due = time.process_time(), time.monotonic()
        for at in range(0, len(sound) - FRAME + 1, FRAME):
            samples = sound[at : at + FRAME]
            pcm = PcmData(samples=samples, sample_rate=BROWSER_RATE, format="s16", channels=1)
            await stt.process_audio(pcm, somebody)
            due += FRAME_SECONDS
            if name == "speech":
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        costs[name] = (time.process_time() - began_cpu) / _LISTEN_SECONDS * 1000
        await stt.close()
    return costs


def main(rounds: int) -> dict[str, Any]:
    import django

    django.setup()
    return asyncio.run(measure(rounds))


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
