"""Audio as plain frames, for a transport of any kind: a WebSocket where WebRTC finds no way."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from .audio import FRAME_BYTES, Samples

if TYPE_CHECKING:
    from .media import PersonMedia


class PcmLink:
    """Frames of 1920 bytes both ways: signed 16 bit little endian, mono, 48 kHz, 20 ms.

    Iterate over it (one reader at a time) for what the person is to hear. The iteration ends when the link is closed,
    by either side. Frames that nobody reads in time are dropped, the oldest first.
    """

    LIMIT = 25

    def __init__(self, media: PersonMedia) -> None:
        self._media = media
        self._frames: deque[bytes] = deque(maxlen=self.LIMIT)
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def receive(self, frame: bytes) -> None:
        """Take 20 ms of what the person says; more than 60 frames a second are dropped.

        Raises:
            ValueError: it is no frame of 1920 bytes.
            PermissionError: the person may only listen.
        """
        if len(frame) != FRAME_BYTES:
            raise ValueError(f"A frame of audio has {FRAME_BYTES} bytes (20 ms), this one has {len(frame)}")
        if not self._closed:
            self._media.receive(np.frombuffer(frame, dtype="<i2").astype(np.int16))

    def close(self) -> None:
        """Close it; closing twice does nothing."""
        if not self._closed:
            self.shut()
            self._media.link_closed(self)

    def __aiter__(self) -> PcmLink:
        return self

    async def __anext__(self) -> bytes:
        while not self._frames:
            if self._closed:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._frames.popleft()

    # The room's side

    def push(self, samples: Samples, number: int) -> None:
        self._frames.append(samples.astype("<i2", copy=False).tobytes())
        self._wake()

    def trim(self, frames: int) -> None:
        """Forget all but the oldest ``frames``, which go out next."""
        while len(self._frames) > frames:
            self._frames.pop()

    def shut(self) -> None:
        self._closed = True
        self._frames.clear()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
