"""When somebody begins to speak, and when their turn is over: decided from 32 ms at a time."""

from __future__ import annotations

import re
from collections import deque
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from .vad import CHUNK_MS

Samples = npt.NDArray[np.float32]

SPEECH, SILENCE = 0.5, 0.35
"""Probabilities above and below which a chunk counts as the one or the other; between, it counts as neither."""

START_CHUNKS = 6
"""Speech after which somebody is taken to be speaking, 190 ms: a cough or a click is shorter."""

ABANDON_CHUNKS = 10
"""Silence after which a sound that was shorter than that is forgotten."""

GUESS_CHUNKS = 5
"""Silence, 160 ms, after which the words are recognised in case the turn is over."""

FINISHED_CHUNKS, NEUTRAL_CHUNKS, UNFINISHED_CHUNKS = 12, 16, 28
"""Silence that ends the turn after words that make a sentence (384 ms), may (512 ms), or cannot yet (896 ms)."""

BEFORE_CHUNKS = 10
"""What is kept of the sound before somebody is heard: the first consonant is quiet."""

PIECE_CHUNKS = 28_000 // 32
"""A longer utterance is recognised in pieces, cut where it is quietest."""

MAX_PIECES = 10
"""After five minutes of speech the turn is over, whatever is said."""

_UNFINISHED = re.compile(
    r"(?:,|-|\.\.\.|…|\b(?:a|an|the|and|or|but|so|because|if|when|that|which|to|of|in|on|at|for|with|from|my|your|is|are|"
    r"was|i'm|um|uh|er|erm|like))$",
    re.IGNORECASE,
)
_FINISHED = re.compile(r"[.?!]$")


class Heard(Enum):
    """What a chunk changed."""

    NOTHING = auto()
    STARTED = auto()
    """Somebody is speaking."""
    PAUSED = auto()
    """They may be done: time to recognise."""
    RESUMED = auto()
    """They were not."""
    PIECE = auto()
    """The utterance is too long to recognise in one: see `Utterance.cut`."""
    FORGOTTEN = auto()
    """It was a noise."""


class Utterance:
    """What one person is saying. It begins with a chunk that sounds like speech."""

    def __init__(self, before: deque[Samples]) -> None:
        self.chunks: list[Samples] = list(before)
        self.probabilities: list[float] = [0.0] * len(self.chunks)
        self.started = False
        self.silent_chunks = 0
        self.spoken_chunks = 0
        self.all_chunks = 0
        self._paused = False

    @property
    def silence_ms(self) -> float:
        return self.silent_chunks * CHUNK_MS

    @property
    def duration_ms(self) -> float:
        """From the first sound to the last."""
        return (self.all_chunks - self.silent_chunks) * CHUNK_MS

    def add(self, chunk: Samples, probability: float) -> Heard:
        self.chunks.append(chunk)
        self.probabilities.append(probability)
        self.all_chunks += 1
        if probability >= SPEECH:
            self.spoken_chunks += 1
            self.silent_chunks = 0
        elif probability < SILENCE or self.silent_chunks:
            self.silent_chunks += 1
        if not self.started:
            if self.spoken_chunks >= START_CHUNKS:
                self.started = True
                return Heard.STARTED
            return Heard.FORGOTTEN if self.silent_chunks >= ABANDON_CHUNKS else Heard.NOTHING
        if self._paused and not self.silent_chunks:
            self._paused = False
            return Heard.RESUMED
        if not self._paused and self.silent_chunks >= GUESS_CHUNKS:
            self._paused = True
            return Heard.PAUSED
        return Heard.PIECE if len(self.chunks) >= PIECE_CHUNKS and not self._paused else Heard.NOTHING

    def samples(self) -> Samples:
        """All of it, but for the silence after what is needed to hear that it ended."""
        surplus = max(0, self.silent_chunks - GUESS_CHUNKS)
        return np.concatenate(self.chunks[: len(self.chunks) - surplus])

    def cut(self) -> Samples:
        """Take off and return the beginning, up to the quietest moment of the last few seconds."""
        latest = self.probabilities[-100:]
        at = len(self.chunks) - len(latest) + int(np.argmin(latest)) + 1
        piece = np.concatenate(self.chunks[:at])
        del self.chunks[:at], self.probabilities[:at]
        return piece


def chunks_to_end(text: str | None) -> int:
    """How much silence ends the turn in which ``text`` was recognised; None while it is not known."""
    if text is None:
        return NEUTRAL_CHUNKS
    # Before the sign at the end, which Whisper puts after half a sentence as well.
    if _UNFINISHED.search(text) or _UNFINISHED.search(text.rstrip(".")):
        return UNFINISHED_CHUNKS
    return FINISHED_CHUNKS if _FINISHED.search(text) else NEUTRAL_CHUNKS
