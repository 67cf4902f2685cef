"""``--video-track-override``: a file that every agent that takes video sees, with or without anybody's camera."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from vision_agents.core.processors import VideoProcessor

from tests.conftest import until
from tests.processes import ROOT, environment
from visionagents_runner.edge import BrowserEdge
from visionagents_runner.exceptions import RunnerConfigurationError
from visionagents_runner.sessions.video import check_video
from visionagents_runner.testing import join_call, stub_agent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two seconds in which a white square crosses a grey picture."""
    path = str(tmp_path_factory.mktemp("video") / "square.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=15)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(30):
            picture = np.full((240, 320, 3), 90, np.uint8)
            picture[90:150, number * 8 : number * 8 + 60] = 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


class Watching(VideoProcessor):
    """Only takes video, and so publishes none."""

    name = "watching"

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[tuple[int, int]] = set()

    async def process_video(self, track: Any, participant_id: Any, shared_forwarder: Any = None) -> None:
        shared_forwarder.add_frame_handler(lambda frame: self.sizes.add((frame.width, frame.height)))

    async def stop_processing(self) -> None:
        """Nothing is held."""


async def test_an_agent_that_takes_video_sees_the_file_with_nobody_there(
    launch: Callable[..., Any], video: str
) -> None:
    threads = set(threading.enumerate())
    processor = Watching()

    async def create_agent() -> Any:
        return stub_agent(edge=BrowserEdge(), processors=[processor])  # type: ignore[arg-type]

    launcher = await launch(create_agent, join_call)
    session = await launcher.start_session("call", video_track_override_path=video)
    await until(lambda: processor.sizes == {(320, 240)})
    await launcher.close_session(session.id, wait=True)
    await until(lambda: not [thread for thread in set(threading.enumerate()) - threads if _of_video(thread)])


def _of_video(thread: threading.Thread) -> bool:
    return thread.name.startswith("ThreadPoolExecutor")


async def test_the_agent_of_the_vision_demo_tells_what_moves_in_the_file(
    launch: Callable[..., Any], video: str
) -> None:
    from visionagents_runner.demo.vision.processor import OutlineProcessor

    seen: list[OutlineProcessor] = []

    async def create_agent() -> Any:
        seen.append(OutlineProcessor())
        return stub_agent(edge=BrowserEdge(), processors=[seen[-1]])  # type: ignore[arg-type]

    launcher = await launch(create_agent, join_call)
    session = await launcher.start_session("call", video_track_override_path=video)
    await until(lambda: (sight := seen[-1].sight) is not None and sight.seen.moving_things >= 1)
    await launcher.close_session(session.id, wait=True)


async def test_an_agent_that_takes_no_video_is_named(launch: Callable[..., Any], video: str, caplog: Any) -> None:
    async def create_agent() -> Any:
        return stub_agent()

    launcher = await launch(create_agent, join_call)
    session = await launcher.start_session("call", video_track_override_path=video)
    await launcher.close_session(session.id, wait=True)
    assert "takes no video" in caplog.text


def test_what_cannot_be_played_is_a_sentence(tmp_path: Path, video: str) -> None:
    assert check_video(video) == video
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
    for path, message in ((text, "cannot be played"), (sound, "no pictures"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(RunnerConfigurationError, match=f"{message}.*--video-track-override"):
            check_video(str(path))


@pytest.mark.django_db(transaction=True)
def test_the_command_refuses_a_file_that_is_no_video_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("no video")
    done = subprocess.run(
        [sys.executable, "-m", "django", "runagent", "--no-splash", "--video-track-override", str(path)],
        cwd=ROOT,
        env=environment(NO_COLOR="1"),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "cannot be played" in done.stderr
