"""Frames of sound: what everything in a room is made of. Mono, signed 16 bit, 48 kHz, 20 ms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

RATE = 48_000
FRAME_SECONDS = 0.02
FRAME_SAMPLES = 960
FRAME_BYTES = 1920

Samples = npt.NDArray[np.int16]

SILENCE: Samples = np.zeros(FRAME_SAMPLES, dtype=np.int16)
SILENCE.setflags(write=False)

_FULL_SCALE = 32768.0


def _power_at(decibels: float) -> float:
    """Mean square of a signal of so many dB below full scale."""
    return float((_FULL_SCALE * 10 ** (decibels / 20)) ** 2)


OPENS_AT = _power_at(-45)
CLOSES_AT = _power_at(-50)


def power(samples: Samples) -> float:
    """Mean square of the samples."""
    wide = samples.astype(np.float32)
    return float(np.dot(wide, wide)) / len(wide)


def mix(frames: Sequence[Samples]) -> Samples:
    """The sum of frames, limited to what 16 bits hold; of a single frame, that frame itself and no copy."""
    if len(frames) == 1:
        return frames[0]
    total = frames[0].astype(np.int32)
    for frame in frames[1:]:
        total += frame
    return np.clip(total, -32768, 32767).astype(np.int16)


class Gate:
    """Tells whether somebody is audible. Opens after 40 ms above -45 dBFS, closes after 400 ms below -50 dBFS."""

    OPENS_AFTER = 2
    CLOSES_AFTER = 20

    def __init__(self) -> None:
        self.open = False
        self._count = 0

    @property
    def loud(self) -> bool:
        """Whether it is open and the latest frame was not one of those below, after which it closes."""
        return self.open and not self._count

    def feed(self, level: float) -> bool:
        """Take the `power` of the next frame; return whether the gate has opened or closed by it."""
        against = level < CLOSES_AT if self.open else level >= OPENS_AT
        self._count = self._count + 1 if against else 0
        if self._count < (self.CLOSES_AFTER if self.open else self.OPENS_AFTER):
            return False
        self.open = not self.open
        self._count = 0
        return True

    def shut(self) -> bool:
        """Close at once; return whether it was open."""
        was_open, self.open, self._count = self.open, False, 0
        return was_open


class Cutter:
    """Cuts sound of any length into frames of 20 ms."""

    def __init__(self) -> None:
        self._rest: Samples = SILENCE[:0]

    def feed(self, samples: Samples) -> list[Samples]:
        if not len(self._rest) and len(samples) == FRAME_SAMPLES:
            return [samples]
        together = np.concatenate((self._rest, samples)) if len(self._rest) else samples
        whole = len(together) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = together[whole:]
        return [together[start : start + FRAME_SAMPLES] for start in range(0, whole, FRAME_SAMPLES)]

    def finish(self) -> list[Samples]:
        """What is left, filled up with silence to one frame; nothing if nothing is."""
        if not len(self._rest):
            return []
        last = np.pad(self._rest, (0, FRAME_SAMPLES - len(self._rest)))
        self.clear()
        return [last]

    def clear(self) -> None:
        self._rest = SILENCE[:0]
