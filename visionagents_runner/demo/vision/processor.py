"""`OutlineProcessor`: looks at a camera in a thread and shows the call what it found."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import aiortc
import numpy as np
from av.video.frame import VideoFrame
from vision_agents.core.processors import VideoProcessorPublisher
from vision_agents.core.utils.video_forwarder import VideoForwarder

from .picture import MAX_WIDTH, Picture, Seen, Watcher, notice
from .track import PictureTrack

logger = logging.getLogger(__name__)

MAX_FPS = 12.0
"""Pictures a second that are looked at."""
_FRESH_SECONDS = 3.0
_WAITING = "I see no camera yet: press Camera"
_OFF = "The camera is off: press Camera"


@dataclass(frozen=True, slots=True)
class Sight:
    """What the last picture showed, and how many seconds ago it came."""

    seen: Seen
    age: float

    @property
    def fresh(self) -> bool:
        return self.age < _FRESH_SECONDS


class OutlineProcessor(VideoProcessorPublisher):
    """Draws outlines around what moves, and faces, on the camera picture of whoever shares one.

    The newest picture is looked at, those that came meanwhile are left out, so that nothing lags behind on a slow
    machine. Nothing of it runs on the event loop.
    """

    name = "outlines"

    def __init__(self) -> None:
        super().__init__()
        self._track = PictureTrack(notice(_WAITING))
        self._watcher = Watcher()
        self._forwarder: VideoForwarder | None = None
        self._own_forwarder = False
        self._newest: VideoFrame | None = None
        self._came = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._seen: Seen | None = None
        self._seen_at = 0.0
        self._had_camera = False

    @property
    def sight(self) -> Sight | None:
        """What it sees now; None without a camera, or before its first picture."""
        return None if self._seen is None else Sight(self._seen, time.monotonic() - self._seen_at)

    @property
    def had_camera(self) -> bool:
        """Whether there ever was a camera."""
        return self._had_camera

    def publish_video_track(self) -> aiortc.VideoStreamTrack:
        return self._track

    async def process_video(
        self,
        track: aiortc.VideoStreamTrack,
        participant_id: str | None,
        shared_forwarder: VideoForwarder | None = None,
    ) -> None:
        """Look at ``track`` from now on, and at no other."""
        if shared_forwarder is not None and shared_forwarder is self._forwarder:
            return  # another track came or went
        await self._let_go()
        self._had_camera = True
        self._own_forwarder = shared_forwarder is None
        self._forwarder = shared_forwarder or VideoForwarder(track, max_buffer=1, name="outlines")
        self._watcher = Watcher()
        # Taken as they come and throttled below: the forwarder's own throttle would look at old ones first.
        self._forwarder.add_frame_handler(self._take)
        self._looking = asyncio.create_task(self._look_on(), name="vision-demo")

    async def stop_processing(self) -> None:
        """Forget the camera, and show that there is none."""
        await self._let_go()
        if self._had_camera:
            self._track.show(notice(_OFF))

    async def close(self) -> None:
        await self._let_go()
        self._track.stop()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    def _take(self, frame: VideoFrame) -> None:
        self._newest = frame
        self._came.set()

    async def _let_go(self) -> None:
        forwarder, self._forwarder = self._forwarder, None
        if forwarder is not None:
            await forwarder.remove_frame_handler(self._take)
            if self._own_forwarder:
                await forwarder.stop()
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        self._newest = self._seen = None
        self._came.clear()

    async def _look_on(self) -> None:
        loop = asyncio.get_running_loop()
        if self._thread is None:
            # One of its own: the loop's few threads are for others, and OpenCV's state for one thread at a time.
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="visionagents-vision")
        watcher = self._watcher
        failed = False
        while True:
            await self._came.wait()
            self._came.clear()
            frame, self._newest = self._newest, None
            began = loop.time()
            if frame is not None:
                try:
                    picture, seen = await loop.run_in_executor(self._thread, _look, watcher, frame)
                except Exception:
                    if not failed:
                        logger.exception("A camera picture could not be looked at; the next ones are tried")
                    failed = True
                else:
                    failed = False
                    self._seen, self._seen_at = seen, time.monotonic()
                    self._track.show(picture)
            await asyncio.sleep(max(0.0, began + 1 / MAX_FPS - loop.time()))


def _look(watcher: Watcher, frame: VideoFrame) -> tuple[Picture, Seen]:
    picture = _picture_of(frame)
    return picture, watcher.look(picture)


def _picture_of(frame: VideoFrame) -> Picture:
    """Return the frame as a picture at most MAX_WIDTH wide; encoders want even numbers of rows and columns."""
    scale = min(1.0, MAX_WIDTH / frame.width)
    width, height = (max(2, int(side * scale) // 2 * 2) for side in (frame.width, frame.height))
    return np.asarray(frame.reformat(width=width, height=height, format="bgr24").to_ndarray(), np.uint8)
