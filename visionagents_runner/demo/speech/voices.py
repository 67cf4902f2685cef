"""The voices: Piper's, and eSpeak's where Piper is not."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .models import ESPEAK, SpeechUnavailable, downloads, telling_progress, voice_model
from .shared import Shared, stop_if_process_ends

Sound = npt.NDArray[np.int16]
"""Mono."""

_AUDIBLE = 330
"""Peak of what can be heard, -40 dB."""

_LEAD_SECONDS = 0.03


class Voice(Protocol):
    name: str
    sample_rate: int

    def speak(self, text: str) -> Sound:
        """Return ``text`` as sound. Blocks; one thread at a time."""


class PiperVoice:
    """A voice of Piper, a neural one, through onnxruntime."""

    def __init__(self, file: str) -> None:
        import onnxruntime
        from piper import PiperConfig
        from piper import PiperVoice as Piper

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(2, os.cpu_count() or 1)
        options.inter_op_num_threads = 1
        # Threads that spin while they wait would burn a core between two sentences.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        config = PiperConfig.from_dict(json.loads(Path(f"{file}.json").read_text("utf-8")))
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._piper: Any = Piper(config=config, session=session)
        self.name = f"piper-{Path(file).stem}"
        self.sample_rate: int = config.sample_rate

    def speak(self, text: str) -> Sound:
        pieces = [chunk.audio_int16_array for chunk in self._piper.synthesize(text)]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)


_espeak = threading.Lock()
"""libespeak-ng is one for the whole process, state and callback included."""


class EspeakVoice:
    """eSpeak NG: a machine's voice, but in 1 MB and at once."""

    name = "espeak-ng"
    _SYNCHRONOUS = 2
    _UTF8 = 1

    def __init__(self, voice: str = "en-us") -> None:
        import espeakng_loader

        self._voice = voice.encode()
        self._pieces: list[Sound] = []
        callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = callback_type(self._take)  # kept: the library holds only its address
        with _espeak:
            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
            rate = self._library.espeak_Initialize(self._SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
            if rate <= 0:
                raise SpeechUnavailable(f"eSpeak NG could not start (error {rate}): reinstall espeakng-loader")
            self.sample_rate: int = rate

    def speak(self, text: str) -> Sound:
        encoded = text.replace("\0", " ").encode() + b"\0"
        with _espeak:
            self._pieces = []
            self._library.espeak_SetSynthCallback(self._callback)
            self._library.espeak_SetVoiceByName(self._voice)
            self._library.espeak_Synth(encoded, len(encoded), 0, 0, 0, self._UTF8, None, None)
            self._library.espeak_Synchronize()
            pieces, self._pieces = self._pieces, []
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)

    def _take(self, sound: Any, count: int, events: Any) -> int:
        if sound and count > 0:
            self._pieces.append(np.ctypeslib.as_array(sound, (count,)).copy())
        return 0


def without_lead(sound: Sound, sample_rate: int) -> Sound:
    """Take off the silence before the first word: it would be waited for."""
    loud = np.flatnonzero(np.abs(sound) > _AUDIBLE)
    if not len(loud):
        return sound
    return sound[max(0, int(loud[0]) - int(_LEAD_SECONDS * sample_rate)) :]


def _load() -> Voice:
    named = voice_model()
    voice: Voice
    if named == ESPEAK:
        voice = EspeakVoice()
    else:
        try:
            import piper  # noqa: F401
        except ImportError as error:
            raise SpeechUnavailable("The voice needs piper-tts: pip install piper-tts, or espeakng-loader") from error
        stop_if_process_ends()
        file = named if named.endswith(".onnx") else _downloaded(named)
        try:
            voice = PiperVoice(file)
        except Exception as error:
            raise SpeechUnavailable(f"The voice {file} cannot be loaded: {error}") from error
    stop_if_process_ends()
    voice.speak("Hello, I can speak.")  # the first time is slow
    return voice


def _downloaded(name: str) -> str:
    from piper.download_voices import download_voice

    folder = downloads() / "piper"
    file = folder / f"{name}.onnx"
    if not (file.is_file() and Path(f"{file}.json").is_file()):
        with telling_progress(f"the voice {name}", folder):
            download_voice(name, folder)
    return str(file)


shared_voice: Shared[Voice] = Shared("voice", _load)
"""The voice of this process."""
