"""`PictureTrack`: video made of pictures that come when they come."""

from __future__ import annotations

import asyncio
from fractions import Fraction

from aiortc import VideoStreamTrack
from aiortc.mediastreams import MediaStreamError
from av.video.frame import VideoFrame

from .picture import Picture

_CLOCK = 90_000
_TIME_BASE = Fraction(1, _CLOCK)
_REPEAT_SECONDS = 1.0
"""How often a picture that stays is shown again, for those who came after it."""


class PictureTrack(VideoStreamTrack):
    """Shows every reader the next picture as soon as there is one, and the last one again while none comes."""

    def __init__(self, first: Picture) -> None:
        super().__init__()
        self._picture = first
        self._waiters: set[asyncio.Future[None]] = set()
        self._fresh = True

    def show(self, picture: Picture) -> None:
        """Show ``picture``, height and width of which must be even, from now on."""
        self._picture = picture
        self._fresh = True
        self._wake()

    async def recv(self) -> VideoFrame:
        if self.readyState == "live" and not self._fresh:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait({waiter}, timeout=_REPEAT_SECONDS)
            finally:
                self._waiters.discard(waiter)
        if self.readyState != "live":
            raise MediaStreamError
        self._fresh = False
        # A frame of its own for each reader: who reads it stamps it, and encodes it in a thread.
        frame = VideoFrame.from_ndarray(self._picture, format="bgr24")
        frame.pts, frame.time_base = int(asyncio.get_running_loop().time() * _CLOCK), _TIME_BASE
        return frame

    def stop(self) -> None:
        super().stop()
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
