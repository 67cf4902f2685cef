"""What one person says, evened out for the others."""

from __future__ import annotations

from collections import deque

from .audio import Samples

DEPTH = 3
"""Frames that wait before playing starts: 60 ms."""

LIMIT = 5
"""Frames that may wait at all, 100 ms; the oldest go first. It also evens out clocks that run apart."""


class Playout:
    """A jitter buffer that plays only what is audible.

    While the speaker is silent it keeps the last 60 ms unplayed. They are what playing starts with, so the beginning of
    a word is not lost to the gate, and the buffer is filled without further delay.
    """

    def __init__(self) -> None:
        self._frames: deque[Samples] = deque(maxlen=LIMIT)
        self._playing = False

    @property
    def playing(self) -> bool:
        return self._playing

    def push(self, frame: Samples, *, audible: bool) -> None:
        self._frames.append(frame)
        if self._playing:
            return
        if not audible:
            while len(self._frames) > DEPTH:
                self._frames.popleft()
        elif len(self._frames) >= DEPTH:
            self._playing = True

    def take(self) -> Samples | None:
        """The next frame to play; None if there is none."""
        if not self._playing:
            return None
        if not self._frames:
            self._playing = False
            return None
        return self._frames.popleft()

    def settle(self) -> None:
        """The speaker is silent now: stop playing, keep no more than the start of what comes next."""
        self._playing = False
        while len(self._frames) > DEPTH:
            self._frames.popleft()

    def clear(self) -> None:
        self._playing = False
        self._frames.clear()
