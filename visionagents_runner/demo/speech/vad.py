"""Is somebody speaking? Silero's model, 32 ms at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .models import activity_model
from .shared import Shared

Samples = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000
CHUNK = 512
"""Samples that are judged at a time."""

CHUNK_MS = 32.0
_CONTEXT = 64
_INAUDIBLE = 3e-4
"""Root mean square of samples that nobody could hear, -70 dB: a muted microphone is never worth a look."""


class VoiceActivity:
    """The model, which everybody shares. Each stream of audio has an `ActivityStream` of its own."""

    def __init__(self, path: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # More threads than one would spin between two chunks: an idle listener would burn a core.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False  # a fifth quicker without, for tensors this small
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._rate = np.array(SAMPLE_RATE, dtype=np.int64)

    def run(self, samples: Samples, state: Samples) -> tuple[float, Samples]:
        probability, state = self._session.run(None, {"input": samples, "state": state, "sr": self._rate})
        return float(probability[0, 0]), state


class ActivityStream:
    """How likely it is, chunk after chunk of one person's audio, that they speak."""

    def __init__(self, model: VoiceActivity) -> None:
        self._model = model
        self._input = np.zeros((1, _CONTEXT + CHUNK), np.float32)
        self._state: Samples = np.zeros((2, 1, 128), np.float32)
        self._fresh = True

    def probability(self, chunk: Samples) -> float:
        """Return 0 to 1 for the next `CHUNK` samples. Takes about 0.2 ms, and next to nothing for silence."""
        if np.dot(chunk, chunk) < _INAUDIBLE * _INAUDIBLE * CHUNK:
            self.reset()
            return 0.0
        self._fresh = False
        self._input[0, :_CONTEXT] = self._input[0, -_CONTEXT:]
        self._input[0, _CONTEXT:] = chunk
        probability, self._state = self._model.run(self._input, self._state)
        return probability

    def reset(self) -> None:
        """Forget what came before."""
        if not self._fresh:
            self._input[:] = 0.0
            self._state = np.zeros((2, 1, 128), np.float32)
            self._fresh = True


def _load() -> VoiceActivity:
    model = VoiceActivity(activity_model())
    ActivityStream(model).probability(np.full(CHUNK, 0.1, np.float32))  # the first time is slow
    return model


activity: Shared[VoiceActivity] = Shared("voice activity model", _load)
"""The voice activity model of this process."""
