"""Recordings of people who speak, with what they say: Debian's package pocketsphinx-testdata."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from tests.machine.requirements import require

RATE = 16_000
BROWSER_RATE = 48_000

TRANSCRIPTS = {
    "goforward.raw": "go forward ten meters",
    "cards/001.wav": "ten of clubs",
    "cards/005.wav": "eight of spades four of clubs seven of hearts",
    "librivox/sense_and_sensibility_01_austen_64kb-0870.wav": (
        "and mister john dashwood had then leisure to consider how much there might be prudently in his power to do "
        "for them"
    ),
    "librivox/sense_and_sensibility_01_austen_64kb-0880.wav": "he was not an ill disposed young man",
    "librivox/sense_and_sensibility_01_austen_64kb-0890.wav": (
        "unless to be rather cold hearted and rather selfish is to be ill disposed"
    ),
    "librivox/sense_and_sensibility_01_austen_64kb-0930.wav": "he might even have been made amiable himself",
}

Samples = npt.NDArray[np.int16]


def recording(name: str) -> Samples:
    """Return the mono samples of a recording at 16 kHz."""
    path = Path(require("recordings")) / name
    data = path.read_bytes()
    if path.suffix == ".raw":
        return np.frombuffer(data, dtype="<i2")
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), dtype=np.int16)


def timeline(*parts: str | float) -> Samples:
    """Put recordings (names) and silences (seconds) one after the other, at 16 kHz."""
    return np.concatenate([recording(part) if isinstance(part, str) else silence(part) for part in parts])


def resampled(samples: Samples, rate: int, *, source: int = RATE) -> Samples:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate = source
    frames = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([part.to_ndarray().reshape(-1) for part in frames])


def write_wav(path: Path, samples: Samples, *, rate: int = RATE) -> Path:
    """Write mono samples for a browser's fake microphone (48 kHz)."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(BROWSER_RATE)
        file.writeframes(resampled(samples, BROWSER_RATE, source=rate).tobytes())
    return path
