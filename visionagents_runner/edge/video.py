"""Video: one reader a track, and everybody who watches gets the newest frame. Nothing queues."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from fractions import Fraction

from aiortc import VideoStreamTrack
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av.video.frame import VideoFrame

logger = logging.getLogger(__name__)

CLOCK = 90_000
TIME_BASE = Fraction(1, CLOCK)
MAX_OUT_FPS = 15
"""Frames a second that are encoded for each person: encoding is the dearest thing that a room does."""

MAX_READ_FPS = 60
"""A track that does not wait for real time is not read faster."""


class NewestFrame(VideoStreamTrack):
    """A track of which one frame at most waits to be taken: a newer one takes its place."""

    def __init__(self) -> None:
        super().__init__()
        self._frame: VideoFrame | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def recv(self) -> VideoFrame:
        while self._frame is None:
            if self.readyState != "live":
                raise MediaStreamError
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        frame, self._frame = self._frame, None
        return frame

    def _show(self, frame: VideoFrame) -> None:
        self._frame = frame
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class VideoFeed(NewestFrame):
    """What one watcher sees of a `VideoRelay`; of whichever it is subscribed to, one after the other."""

    def __init__(self, *, outlives_source: bool = False, max_fps: float | None = None) -> None:
        super().__init__()
        self.relay: VideoRelay | None = None
        self._outlives_source = outlives_source
        # A little shorter, or every second frame of a source of the same rate would be dropped.
        self._interval = 0.8 / max_fps if max_fps else 0.0
        self._taken_at = float("-inf")

    def stop(self) -> None:
        super().stop()
        relay, self.relay = self.relay, None
        if relay is not None:
            relay.unsubscribe(self)
        self._wake()

    # The relay's side

    def offer(self, frame: VideoFrame, now: float) -> None:
        if now - self._taken_at >= self._interval:
            self._taken_at = now
            self._show(frame)

    def source_ended(self) -> None:
        self.relay = None
        if not self._outlives_source:
            self.stop()


class VideoRelay:
    """Reads a track for all who watch it.

    ``always`` reads without watchers too, to know whether a camera is on.
    """

    def __init__(
        self, track: MediaStreamTrack, *, always: bool = False, on_frame: Callable[[], None] | None = None
    ) -> None:
        self.track = track
        self.frame_at = float("-inf")
        """When the last frame came, by the event loop's clock."""

        self.ended = False
        self._always = always
        self._on_frame = on_frame
        self._feeds: dict[VideoFeed, None] = {}
        self._reading: asyncio.Task[None] | None = None
        if always:
            self._start()

    def subscribe(self, feed: VideoFeed) -> VideoFeed:
        """Show this track on ``feed``, and no other any more."""
        if feed.relay is not None:
            feed.relay.unsubscribe(feed)
        if self.ended or feed.readyState != "live":
            feed.source_ended()
            return feed
        feed.relay = self
        self._feeds[feed] = None
        self._start()
        return feed

    def unsubscribe(self, feed: VideoFeed) -> None:
        self._feeds.pop(feed, None)
        if feed.relay is self:
            feed.relay = None
        if not self._feeds and not self._always:
            self._stop()

    def close(self) -> None:
        """Stop reading; the track itself is its owner's."""
        self._stop()
        self._end()

    def _start(self) -> None:
        if self._reading is None and not self.ended:
            self._reading = asyncio.create_task(self._read(), name=f"video-relay-{self.track.id}")

    def _stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _end(self) -> None:
        self.ended = True
        self._on_frame = None
        feeds, self._feeds = self._feeds, {}
        for feed in feeds:
            feed.source_ended()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            while True:
                frame = await self.track.recv()
                if not isinstance(frame, VideoFrame):
                    continue
                now = loop.time()
                if not self._always:
                    # Several tracks may follow each other on one feed: their times must not jump.
                    frame.pts, frame.time_base = int(now * CLOCK), TIME_BASE
                self.frame_at = now
                if self._on_frame is not None:
                    self._on_frame()
                for feed in tuple(self._feeds):
                    feed.offer(frame, now)
                if not self._always and now - began < 1 / MAX_READ_FPS:
                    await asyncio.sleep(1 / MAX_READ_FPS - (now - began))
                began = loop.time()
        except MediaStreamError:
            pass
        except Exception:
            logger.exception("A video track failed: it is not seen any more")
        self._reading = None
        self._end()
