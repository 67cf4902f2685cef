"""The other side of a call: an aiortc peer in the place of a browser, and agents that hear, speak and see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from fractions import Fraction
from typing import Any

import aiortc
import av
import numpy as np
from aiortc.mediastreams import MediaStreamError
from getstream.video.rtc import PcmData
from vision_agents.core import Agent
from vision_agents.core.edge.events import AudioReceivedEvent, TrackAddedEvent, TrackRemovedEvent

from visionagents_runner.edge import Person

RATE, FRAME = 48_000, 960


def tone(hertz: float, seconds: float, *, volume: float = 0.3, rate: int = RATE) -> np.ndarray:
    times = np.arange(int(rate * seconds)) / rate
    return (volume * 32767 * np.sin(2 * np.pi * hertz * times)).astype(np.int16)


def loudness(samples: np.ndarray, hertz: float, *, rate: int = RATE) -> float:
    """How much of a frequency is in the samples, 0 to 1."""
    if not len(samples):
        return 0.0
    times = np.arange(len(samples)) / rate
    return float(2 * abs(np.mean(samples / 32767 * np.exp(-2j * np.pi * hertz * times))))


class Microphone(aiortc.MediaStreamTrack):
    """Says a tone of ``hertz`` in real time; 0 is silence."""

    kind = "audio"

    def __init__(self, hertz: float) -> None:
        super().__init__()
        self._samples = tone(hertz, 1.0)
        self._number = 0
        self._began = 0.0

    async def recv(self) -> av.AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        now = asyncio.get_running_loop().time()
        self._began = self._began or now
        await asyncio.sleep(max(0.0, self._began + self._number * 0.02 - now))
        start = self._number * FRAME % RATE
        frame = av.AudioFrame.from_ndarray(self._samples[start : start + FRAME].reshape(1, -1), "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._number * FRAME, Fraction(1, RATE)
        self._number += 1
        return frame


class Camera(aiortc.VideoStreamTrack):
    """One colour, in real time."""

    def __init__(self, luma: int, size: tuple[int, int] = (160, 120)) -> None:
        super().__init__()
        self.luma = luma
        self._size = size

    async def recv(self) -> av.VideoFrame:
        pts, time_base = await self.next_timestamp()
        width, height = self._size
        picture = np.full((height * 3 // 2, width), 128, dtype=np.uint8)
        picture[:height] = self.luma
        frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
        frame.pts, frame.time_base = pts, time_base
        return frame


def brightness(frame: av.VideoFrame) -> float:
    return float(frame.to_ndarray(format="gray").mean())


class Browser:
    """Joins as a page does, and keeps what it hears and sees."""

    def __init__(self, person: Person, *, hertz: float | None = 440.0, camera: Camera | None = None) -> None:
        self.person = person
        self.pc = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        self.channel: Any = self.pc.createDataChannel("events")
        self.messages: list[Any] = []
        self.channel.on("message", self.messages.append)
        self.heard = np.zeros(0, dtype=np.int16)
        self.seen: list[float] = []
        self._tasks: list[asyncio.Task[None]] = []
        if hertz is None:
            self.pc.addTransceiver("audio", direction="recvonly")
        else:
            self.pc.addTrack(Microphone(hertz))
        if camera is not None:
            self.pc.addTrack(camera)
        self.pc.on("track", self._on_track)

    def _on_track(self, track: Any) -> None:
        self._tasks.append(asyncio.create_task(self._read(track)))

    async def _read(self, track: Any) -> None:
        with suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if track.kind == "audio":
                    self.heard = np.concatenate((self.heard, frame.to_ndarray().reshape(-1, 2)[:, 0]))[-RATE * 10 :]
                else:
                    self.seen.append(brightness(frame))

    async def connect(self) -> None:
        await self.pc.setLocalDescription(await self.pc.createOffer())
        answer = await self.person.negotiate(self.pc.localDescription.sdp)
        await self.pc.setRemoteDescription(aiortc.RTCSessionDescription(answer, "answer"))

    def vanish(self) -> None:
        """Send nothing any more, and answer nothing: the cable is cut."""
        for transceiver in self.pc.getTransceivers():
            connection = transceiver.receiver.transport.transport._connection
            for protocol in connection._protocols:
                protocol.datagram_received = lambda data, addr: None
                protocol.send_stun = lambda message, addr: None
                protocol.transport.sendto = lambda data, addr=None: None

    async def close(self) -> None:
        await self.pc.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def browser(person: Person, **options: Any) -> AsyncIterator[Browser]:
    one = Browser(person, **options)
    try:
        await one.connect()
        yield one
    finally:
        person.leave()
        await one.close()


class Ears:
    """What an agent is told of people's audio and video."""

    def __init__(self, agent: Agent) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.heard: dict[str, np.ndarray] = {}
        self.frames: list[PcmData] = []

        async def on_track(event: Any) -> None:
            self.told.append((type(event).__name__, event.track_type.name, event.participant.user_id))

        async def on_audio(event: Any) -> None:
            user, pcm = event.participant.user_id, event.pcm_data
            if user not in self.heard:
                self.told.append((type(event).__name__, "", user))
            self.heard[user] = np.concatenate((self.heard.get(user, np.zeros(0, dtype=np.int16)), pcm.samples))
            self.frames.append(pcm)

        on_track.__annotations__["event"] = TrackAddedEvent | TrackRemovedEvent
        on_audio.__annotations__["event"] = AudioReceivedEvent
        agent.events.subscribe(on_track)
        agent.events.subscribe(on_audio)


async def speak(agent: Agent, hertz: float, seconds: float, *, rate: int = 24_000) -> None:
    """Write to the agent's track what its voice would."""
    assert agent.audio_track is not None
    samples = tone(hertz, seconds, rate=rate)
    for start in range(0, len(samples), rate // 50):
        await agent.audio_track.write(PcmData(rate, "s16", samples[start : start + rate // 50]))
    await agent.audio_track.write(PcmData(rate, "s16"), final=True)


async def next_event(person: Person, kind: type[Any], where: Callable[[Any], bool] = lambda event: True) -> Any:
    """The next event of a kind; what comes before it is read and forgotten."""
    async with asyncio.timeout(20):
        async for event in person:
            if isinstance(event, kind) and where(event):
                return event
    raise AssertionError(f"no {kind.__name__} came")
