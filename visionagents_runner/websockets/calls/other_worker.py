"""What travels between two workers for people who have their WebSocket at one and their agent at the other.

Each person has a lane: text messages, each once and in order, and frames of audio, of which the oldest are dropped
when it is behind. A message of the channel layer costs each side about half a millisecond, so all lanes between two
workers share bundles. No more than `WINDOW` of these are under way, so that nothing piles up where a worker, or the
layer, is held up. They are numbered, because the layer may lose one, and deliver one again.

What another worker says of a person (who they are, what they may do) is believed: `messaging.sealing` sees to it that
only processes of this project can say it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
import uuid
from collections import deque
from collections.abc import Hashable
from typing import Any, Protocol

from ...messaging.layer import Link, Message, worker_group
from .. import protocol

logger = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
SILENCE_SECONDS = 7.0
"""After so long without a sign of life, the other worker counts as gone, and all lanes to it as ended."""

AUDIO_SECONDS = 0.04
"""Audio goes in bundles so far apart: two frames of each who speaks."""
TEXT_SECONDS = 0.004
"""Text goes at once, unless a bundle went so short a time ago."""

FRAMES_WAITING = 25
BYTES_WAITING = 1024 * 1024
"""Of text, for one person."""
WINDOW = 24
"""Bundles that the other worker has not acknowledged: about a second of audio."""
BUNDLE_BYTES = 512 * 1024
_LINK_WAITING = 8
_LINK_SECONDS = 0.02


class End(Protocol):
    """What a lane leads to in this process. Its methods return at once, and raise nothing."""

    def take_text(self, text: str) -> None: ...

    def take_frame(self, frame: bytes) -> None: ...

    def over(self, code: str, detail: str) -> None:
        """The other side has ended it."""

    def broken(self, why: str) -> None:
        """It cannot go on: the other worker is gone, or something was lost on the way."""

    def asked(self, number: int) -> None:
        """The agent's side asks whether the person may be with the sessions there are now; `Lane.vouch` says yes."""

    def vouched(self, number: int) -> None:
        """They may."""


class Lane:
    """One person's."""

    def __init__(self, other: OtherWorker, key: str, end: End, *, confirmed: bool) -> None:
        self.key = key
        self.end = end
        self.confirmed = confirmed
        """Whether the other side knows of it."""
        self.sent = 0
        self.received = 0
        self.dropped = 0
        """Frames that came too late to be sent."""
        self._other = other
        self._texts: dict[Hashable, str] = {}
        self._text_bytes = 0
        self._frames: deque[bytes] = deque(maxlen=FRAMES_WAITING)
        self._numbers = itertools.count()

    @property
    def pending(self) -> bool:
        return bool(self._texts or self._frames)

    @property
    def is_open(self) -> bool:
        return self._other.lanes.get(self.key) is self

    def post(self, text: str, *, key: Hashable | None = None) -> bool:
        """Send soon what `protocol.encode` made, in place of what waits with the same key. False if too much waits."""
        key = next(self._numbers) if key is None else ("key", key)
        if key not in self._texts and len(self._texts) >= protocol.OUTBOX_SIZE:
            return False
        # It is ASCII, of as many bytes as characters.
        others = self._text_bytes - len(self._texts.get(key, ""))
        if others and others + len(text) > BYTES_WAITING:
            return False
        self._texts[key] = text
        self._text_bytes = others + len(text)
        self._other.wake(self, TEXT_SECONDS)
        return True

    def send_frame(self, frame: bytes) -> None:
        """Send soon; what waits for too long is dropped, the oldest first."""
        self.dropped += len(self._frames) == FRAMES_WAITING
        self._frames.append(frame)
        self._other.wake(self, AUDIO_SECONDS)

    def ask(self, number: int) -> None:
        """Have the other side judge the person; apart from their texts, so that no client can answer for it."""
        self._other.send({"type": "relay.vet", "key": self.key, "n": number})

    def vouch(self, number: int) -> None:
        self._other.send({"type": "relay.vouched", "key": self.key, "n": number})

    def close(self, code: str = "", detail: str = "") -> None:
        """Send what waits, then that it is over. Closing twice does nothing."""
        if self.is_open:
            self._other.close(self, code, detail)

    def take(self, size: int) -> tuple[list[Any], int]:
        """Return what a bundle of ``size`` bytes has room for, at least one message, and how much that is."""
        texts: list[str] = []
        taken = 0
        while self._texts and taken < size:
            text = self._texts.pop(next(iter(self._texts)))
            texts.append(text)
            taken += len(text)
        self._text_bytes -= taken
        frames = b"".join(self._frames) if taken < size else b""
        if frames:
            self._frames.clear()
        first, self.sent = self.sent, self.sent + len(texts)
        return [self.key, first, texts, frames], taken + len(frames)


class OtherWorker:
    """Another worker, as long as there are lanes to it."""

    def __init__(self, link: Link, mine: uuid.UUID, theirs: uuid.UUID) -> None:
        self.id = theirs
        self.lanes: dict[str, Lane] = {}
        self.heard_at = time.monotonic()
        self._link = link
        self._mine = str(mine)
        self._group = worker_group(theirs)
        self._run = random.getrandbits(48)
        self._sent = 0
        self._acked = 0
        self._their_run = 0
        self._received = 0
        self._told = 0
        self._waiting: dict[str, Lane] = {}
        self._flushed_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # Lanes

    def open(self, key: str, end: End, *, confirmed: bool) -> Lane:
        lane = self.lanes[key] = Lane(self, key, end, confirmed=confirmed)
        return lane

    def close(self, lane: Lane, code: str, detail: str) -> None:
        self._empty(lane)
        self.forget(lane)
        self.send({"type": "relay.over", "key": lane.key, "code": code, "detail": detail})

    def forget(self, lane: Lane) -> None:
        self.lanes.pop(lane.key, None)
        self._waiting.pop(lane.key, None)
        if lane.dropped:
            logger.info("%d frames of audio came too late to be relayed to another worker", lane.dropped)

    def bye(self) -> Message:
        """Send what waits, then that this worker ends; returns that last message."""
        for lane in self.lanes.values():
            self._empty(lane)
        bye = {"type": "relay.bye", "from": self._mine}
        self.send(bye)
        return bye

    def _empty(self, lane: Lane) -> None:
        while lane.pending:
            self._send_bundle([lane.take(BUNDLE_BYTES)[0]])
        self._waiting.pop(lane.key, None)

    def dispose(self) -> None:
        """Nothing more is sent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Sending

    def send(self, message: Message) -> None:
        self._link.send(self._group, {**message, "from": self._mine})

    def wake(self, lane: Lane, seconds: float) -> None:
        """There is something to send, no sooner than ``seconds`` after the last bundle."""
        if lane.is_open:
            self._waiting.setdefault(lane.key, lane)
            self._plan(self._flushed_at + seconds)

    def beat(self) -> None:
        """Say that we are there, what has come, and how far each lane is: so that what was lost is noticed."""
        self._send_bundle([], beat={key: lane.sent for key, lane in self.lanes.items()})

    def _plan(self, at: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + max(0.0, at - time.monotonic())
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = loop.call_at(due, self._flush)

    def _flush(self) -> None:
        self._timer = None
        while self._waiting and self._sent - self._acked < WINDOW:
            if self._link.waiting >= _LINK_WAITING:
                self._plan(time.monotonic() + _LINK_SECONDS)
                return
            items: list[Any] = []
            room = BUNDLE_BYTES
            for lane in list(self._waiting.values()):
                item, size = lane.take(room)
                items.append(item)
                room -= size
                if not lane.pending:
                    del self._waiting[lane.key]
                if room <= 0:
                    break
            self._send_bundle(items)
        # What is left is sent when they acknowledge what they have.

    def _send_bundle(self, items: list[Any], **more: Any) -> None:
        if items:
            self._sent += 1
            self._flushed_at = time.monotonic()
        self._told = self._received
        ack = [self._their_run, self._received]
        # One without items says how many there were: or the window would stay closed when the last of them were lost.
        self.send({"type": "relay.bundle", "run": self._run, "n": self._sent, "ack": ack, "lanes": items, **more})

    # Receiving

    def receive(self, bundle: Message) -> None:
        self.heard_at = time.monotonic()
        if bundle["run"] != self._their_run:
            self._their_run, self._received, self._told = bundle["run"], 0, 0
        run, acked = bundle["ack"]
        if run == self._run and acked > self._acked:
            self._acked = acked
            if self._waiting:
                self._plan(self._flushed_at + TEXT_SECONDS)
        number, before = bundle["n"], self._received
        self._received = max(number, before)
        if number > before:  # what is in others came before, or is nothing
            for key, first, texts, frames in bundle["lanes"]:
                self._receive(key, first, texts, frames)
        if number >= before and (beat := bundle.get("beat")) is not None:
            self._compare(beat)
        if self._received - self._told >= WINDOW // 4:
            self._send_bundle([])

    def _receive(self, key: str, first: int, texts: list[str], frames: bytes) -> None:
        lane = self.lanes.get(key)
        if lane is None:
            return
        if first != lane.received:
            lane.end.broken("Messages between the processes of the server were lost")
            return
        lane.confirmed = True
        lane.received += len(texts)
        for text in texts:
            if lane.is_open:
                lane.end.take_text(text)
        for start in range(0, len(frames), protocol.FRAME_BYTES):
            lane.end.take_frame(frames[start : start + protocol.FRAME_BYTES])

    def _compare(self, beat: dict[str, int]) -> None:
        for key, lane in list(self.lanes.items()):
            if key not in beat:
                if lane.confirmed:
                    lane.end.broken("The other process of the server has forgotten this call")
            elif beat[key] != lane.received:
                lane.end.broken("Messages between the processes of the server were lost")
