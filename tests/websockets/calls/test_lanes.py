"""Lanes between two workers over a channel layer that loses messages, or delivers them twice."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import until
from visionagents_runner.websockets import protocol
from visionagents_runner.websockets.calls import other_worker
from visionagents_runner.websockets.calls.other_worker import Lane, OtherWorker

Message = dict[str, Any]

MOST_BYTES = 1024 * 1024


class Ear:
    """The end of a lane: what came there."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.frames: list[bytes] = []
        self.why = ""

    def take_text(self, text: str) -> None:
        self.texts.append(text)

    def take_frame(self, frame: bytes) -> None:
        self.frames.append(frame)

    def over(self, code: str, detail: str) -> None:
        self.why = f"over: {code}"

    def broken(self, why: str) -> None:
        self.why = f"broken: {why}"


class Layer:
    """The way from one worker to the other, as its `Link`."""

    waiting = 0

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.lost: list[Message] = []
        self.times: Callable[[Message], int] = lambda message: 1
        """How often a message arrives."""
        self.to: OtherWorker

    def send(self, group: str, message: Message) -> bool:
        self.sent.append(message)
        times = self.times(message)
        for _ in range(times):
            asyncio.get_running_loop().call_soon(self.to.receive, message)
        if not times:
            self.lost.append(message)
        return True


class Pair:
    """Two workers, and a lane from one to the other."""

    def __init__(self) -> None:
        ids = uuid.uuid4(), uuid.uuid4()
        self.there, self.back = Layer(), Layer()
        self.one = OtherWorker(self.there, ids[0], ids[1])  # type: ignore[arg-type]
        self.two = OtherWorker(self.back, ids[1], ids[0])  # type: ignore[arg-type]
        self.there.to, self.back.to = self.two, self.one
        self.mine, self.theirs = Ear(), Ear()
        self.lane = self.open("key", self.mine, self.theirs)

    def open(self, key: str, mine: Ear, theirs: Ear) -> Lane:
        self.two.open(key, theirs, confirmed=True)
        return self.one.open(key, mine, confirmed=True)


@pytest.fixture
async def pair(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(other_worker, "AUDIO_SECONDS", 0.0)
    pair = Pair()
    yield pair
    pair.one.dispose()
    pair.two.dispose()


@pytest.fixture
def frames() -> Iterator[bytes]:
    """Frames of audio, no two alike."""
    return (number.to_bytes(2) * (protocol.FRAME_BYTES // 2) for number in itertools.count(1))


async def test_audio_goes_on_after_a_whole_window_of_it_was_lost(pair: Pair, frames: Iterator[bytes]) -> None:
    pair.there.times = lambda message: 0
    while len(pair.there.lost) < other_worker.WINDOW:
        pair.lane.send_frame(next(frames))
        await asyncio.sleep(0)
    pair.there.times = lambda message: 1
    pair.one.beat()
    last = next(frames)
    pair.lane.send_frame(last)
    await until(lambda: last in pair.theirs.frames)
    assert pair.mine.why == pair.theirs.why == ""


async def test_a_new_lane_is_heard_after_a_window_of_an_earlier_one_was_lost(
    pair: Pair, frames: Iterator[bytes]
) -> None:
    pair.there.times = lambda message: 0
    while len(pair.there.lost) < other_worker.WINDOW:
        pair.lane.send_frame(next(frames))
        await asyncio.sleep(0)
    pair.there.times = lambda message: 1
    new, ear = Ear(), Ear()
    lane = pair.open("another", new, ear)
    lane.post("hello")
    pair.one.beat()
    await until(lambda: ear.texts == ["hello"])


@pytest.mark.slow
async def test_what_the_layer_delivers_twice_counts_once(pair: Pair, frames: Iterator[bytes]) -> None:
    pair.there.times = pair.back.times = lambda message: 2
    sent, said = [], []
    for number in range(3 * other_worker.WINDOW):
        sent.append(next(frames))
        said.append(f"text {number}")
        pair.lane.send_frame(sent[-1])
        pair.lane.post(said[-1])
        pair.one.beat()
        pair.two.beat()
        await until(lambda: pair.theirs.frames == sent and pair.theirs.texts == said)
        pair.two.beat()
    assert pair.mine.why == pair.theirs.why == ""


async def test_a_bundle_or_a_beat_that_comes_again_much_later_changes_nothing(
    pair: Pair, frames: Iterator[bytes]
) -> None:
    pair.lane.send_frame(next(frames))
    pair.lane.post("one")
    pair.one.beat()
    await until(lambda: pair.theirs.texts == ["one"] and len(pair.theirs.frames) == 1)
    pair.one.beat()
    early = list(pair.there.sent)
    pair.lane.post("two")
    await until(lambda: pair.theirs.texts == ["one", "two"])
    for message in early:
        pair.two.receive(message)
    pair.lane.post("three")
    pair.one.beat()
    await until(lambda: pair.theirs.texts == ["one", "two", "three"])
    assert len(pair.theirs.frames) == 1
    assert pair.theirs.why == ""


async def test_lost_text_is_noticed_by_the_next_beat(pair: Pair) -> None:
    pair.there.times = lambda message: 0
    pair.lane.post("never heard")
    await until(lambda: bool(pair.there.lost))
    pair.there.times = lambda message: 1
    pair.one.beat()
    await until(lambda: "lost" in pair.theirs.why)


async def test_no_more_than_a_mebibyte_of_text_waits(pair: Pair) -> None:
    size = 50_000
    pair.there.times = lambda message: 0
    for _ in range(MOST_BYTES // size):
        assert pair.lane.post("x" * size)
    assert not pair.lane.post("x" * size)
    assert pair.lane.post("x" * (MOST_BYTES % size))
    assert not pair.lane.post("x")
    await until(lambda: bool(pair.there.lost))
    assert pair.lane.post("x" * size)  # what has gone does not wait


async def test_text_that_takes_the_place_of_another_waits_only_once(pair: Pair) -> None:
    big, small = "x" * 600_000, "x" * 10
    for _ in range(3):
        assert pair.lane.post(big, key="state")
    assert not pair.lane.post(big, key="another")
    assert pair.lane.post(small, key="state")
    assert pair.lane.post(big, key="another")
    assert not pair.lane.post(big, key="state")
    await until(lambda: pair.theirs.texts == [small, big])


async def test_one_text_may_be_as_large_as_it_is(pair: Pair) -> None:
    large = "x" * (2 * MOST_BYTES)
    assert pair.lane.post(large)
    assert not pair.lane.post("x")
    await until(lambda: pair.theirs.texts == [large])
