"""Where an agent's voice waits to be played."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from getstream.video.rtc import AudioStreamTrack, PcmData

from .audio import FRAME_SECONDS, RATE, SILENCE, Cutter, Samples
from .opus import frame_samples

logger = logging.getLogger(__name__)

MAX_SECONDS = 120
"""An agent speaks faster than people listen. More than this is no reply; the oldest goes first."""

BATCH_FRAMES = 10

PAUSE_SECONDS = 0.5
"""What is written after so long a silence is another reply, if nobody says which one it is."""


@dataclass(slots=True)
class Reply:
    """How much of one reply was written and played, in frames."""

    message_id: str
    written: int = 0
    played: int = 0

    @property
    def heard(self) -> float:
        return self.played / self.written if self.written else 0.0


class Source(Protocol):
    """What the pump plays."""

    on_audio: Callable[[], None] | None
    """Called when something to play has come."""

    @property
    def waiting(self) -> int: ...

    def take(self) -> Samples | None: ...

    def clear(self) -> None: ...

    def close(self) -> None: ...


class AgentVoice(AudioStreamTrack):  # type: ignore[misc]
    """The audio track that an agent writes to, as upstream's: any rate, any number of channels, `flush` to be silent.

    The room takes frames of 20 ms out of it in real time. ``recv`` works too, for a host that reads the track itself
    while the agent is in no room.
    """

    def __init__(self) -> None:
        super().__init__(sample_rate=RATE, channels=1, audio_buffer_size_ms=MAX_SECONDS * 1000)
        self.on_audio: Callable[[], None] | None = None
        self.on_cut: Callable[[list[Reply]], None] | None = None
        """Called with the replies that a flush has cut, the one that was playing first."""

        self._frames: deque[Samples] = deque()
        self._raw: list[PcmData] = []
        self._raw_frames = 0.0
        self._cutter = Cutter()
        self._replies: deque[Reply] = deque([Reply("")], maxlen=64)
        self._played_at = 0.0

    @property
    def waiting(self) -> int:
        """Frames that are not played yet."""
        return len(self._frames) + math.ceil(self._raw_frames)

    def begin_reply(self, message_id: str) -> None:
        """What is written from now on belongs to that message."""
        reply = self._replies[-1]
        if reply.message_id == message_id:
            return
        if not reply.message_id or not reply.written:
            reply.message_id = message_id
        else:
            self._replies.append(Reply(message_id))

    async def write(self, pcm: PcmData, final: bool = False) -> None:
        self._keep(pcm)
        # An agent writes far ahead, 20 ms at a time. Ten such pieces at once cost little more than one.
        if final or len(self._frames) < BATCH_FRAMES or self._raw_frames >= BATCH_FRAMES:
            self._convert(final=final)

    def _keep(self, pcm: PcmData) -> None:
        if not pcm.samples.size:
            return
        if self._raw and not _alike(self._raw[0], pcm):
            self._convert()
        self._raw.append(pcm)
        self._raw_frames += pcm.samples.shape[-1] / pcm.sample_rate / FRAME_SECONDS

    def _convert(self, *, final: bool = False) -> None:
        raw, self._raw, self._raw_frames = self._raw, [], 0.0
        frames = self._cutter.feed(self._samples(raw, final=final))
        if final:
            frames += self._cutter.finish()
        if not frames:
            return
        reply = self._replies[-1]
        if not self._frames and reply.played and time.monotonic() - self._played_at > PAUSE_SECONDS:
            reply = Reply(reply.message_id)
            self._replies.clear()
            self._replies.append(reply)
        reply.written += len(frames)
        self._frames.extend(frames)
        excess = len(self._frames) - MAX_SECONDS * 50
        if excess > 0:
            logger.warning("An agent is more than %d s ahead of its voice: the oldest is not played", MAX_SECONDS)
            for _ in range(excess):
                self._frames.popleft()
        if self.on_audio is not None:
            self.on_audio()

    async def flush(self) -> None:
        if self._raw:
            self._convert()
        cut = [reply for reply in self._replies if reply.written > reply.played]
        had_more = bool(self._frames)
        self.clear()
        if had_more and cut and self.on_cut is not None:
            self.on_cut(cut)

    def clear(self) -> None:
        self._frames.clear()
        self._raw.clear()
        self._raw_frames = 0.0
        self._cutter.clear()
        self._resampler.flush()
        last = self._replies[-1].message_id
        self._replies.clear()
        self._replies.append(Reply(last))

    def take(self) -> Samples | None:
        """The next frame to play; None if there is none. It counts as played."""
        if not self._frames and self._raw:
            self._convert()
        if not self._frames:
            return None
        self._played_at = time.monotonic()
        while len(self._replies) > 1 and self._replies[0].played >= self._replies[0].written:
            self._replies.popleft()
        self._replies[0].played += 1
        return self._frames.popleft()

    def close(self) -> None:
        """The agent stops the track itself."""
        self.on_audio = self.on_cut = None

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        pts = await self._pacer.next_pts()
        samples = self.take()
        frame = AudioFrame.from_ndarray(
            (SILENCE if samples is None else samples).reshape(1, -1), format="s16", layout="mono"
        )
        frame.pts, frame.sample_rate, frame.time_base = pts, RATE, Fraction(1, RATE)
        return frame

    def _samples(self, raw: list[PcmData], *, final: bool) -> Samples:
        """The pieces, which are alike, as this track's; with ``final`` also what the resampler still holds."""
        if raw and _alike(raw[0], _NATIVE):
            return np.concatenate([pcm.samples.reshape(-1) for pcm in raw])
        if raw:
            samples = np.concatenate([pcm.samples for pcm in raw], axis=-1)
            together = PcmData(raw[0].sample_rate, raw[0].format, samples, channels=raw[0].channels)
        else:
            together = _NATIVE
        frames = self._resampler.resample(together, flush=final)
        return np.concatenate([frame_samples(frame) for frame in frames]) if frames else SILENCE[:0]


_NATIVE = PcmData(RATE, "s16")


def _alike(one: PcmData, two: PcmData) -> bool:
    return (one.sample_rate, one.channels, one.samples.dtype) == (two.sample_rate, two.channels, two.samples.dtype)


class PublishedAudio:
    """Plays a track that the agent brought itself: an audio publisher's.

    Such a track makes silence when it has nothing to say. Silence is not played, so that the room can rest.
    """

    LIMIT = 10

    def __init__(self, track: MediaStreamTrack) -> None:
        self.on_audio: Callable[[], None] | None = None
        self._track = track
        self._frames: deque[Samples] = deque(maxlen=self.LIMIT)
        self._reading = asyncio.create_task(self._read(), name=f"published-audio-{track.id}")

    @property
    def waiting(self) -> int:
        return len(self._frames)

    def take(self) -> Samples | None:
        return self._frames.popleft() if self._frames else None

    def clear(self) -> None:
        self._frames.clear()

    def close(self) -> None:
        self.on_audio = None
        self._reading.cancel()

    async def _read(self) -> None:
        resampler = AudioResampler(format="s16", layout="mono", rate=RATE)
        cutter = Cutter()
        try:
            while True:
                frame = await self._track.recv()
                if not isinstance(frame, AudioFrame):
                    continue
                for converted in resampler.resample(frame):
                    for samples in cutter.feed(frame_samples(converted)):
                        if samples.any():
                            self._frames.append(samples)
                if self._frames and self.on_audio is not None:
                    self.on_audio()
                # A track that does not wait for real time must not keep the loop to itself.
                await asyncio.sleep(frame.samples / frame.sample_rate / 4)
        except MediaStreamError:
            return
        except Exception:
            logger.exception("An agent's audio track failed: it is not heard any more")


def source_of(track: MediaStreamTrack) -> Source:
    return track if isinstance(track, AgentVoice) else PublishedAudio(track)
