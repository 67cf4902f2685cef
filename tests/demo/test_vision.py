"""The agent that looks at the camera: what it finds on pictures, and what it says and shows on a call."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import av
import cv2
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from tests.conftest import until
from tests.edge.browser import Browser, Camera
from tests.edge.conftest import no_room_is_left_over, on_call
from visionagents_runner.demo import vision
from visionagents_runner.demo.llm import ScriptedLLM
from visionagents_runner.demo.vision.agent import create_agent
from visionagents_runner.demo.vision.picture import Picture, Watcher, face_detector
from visionagents_runner.demo.vision.processor import OutlineProcessor
from visionagents_runner.demo.vision.rules import CAMERA_OFF, NO_CAMERA, NO_FACES, add_vision
from visionagents_runner.edge import BrowserEdge, join_room
from visionagents_runner.testing import stub_agent

pytestmark = pytest.mark.slow

__all__ = ["no_room_is_left_over", "on_call"]

OUTLINE = (80, 220, 60)
WIDTH, HEIGHT = 640, 480
SIDE = 80


def room(seed: int = 1) -> Picture:
    """A picture of nothing in particular."""
    noise = np.random.default_rng(seed).integers(60, 180, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (31, 31), 0)  # type: ignore[return-value]


def noisy(picture: Picture, seed: int) -> Picture:
    """The same, as a camera sees it twice."""
    noise = np.random.default_rng(seed).normal(0, 5, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def with_square(picture: Picture, x: int, y: int = 200) -> Picture:
    picture = picture.copy()
    picture[y : y + SIDE, x : x + SIDE] = (0, 0, 220)
    return picture


def outlined(picture: Picture) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is drawn in the outline's colour above the legend."""
    rows, columns = np.nonzero((np.abs(picture[:400].astype(int) - OUTLINE) < 25).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


# Pictures


def test_a_moving_square_is_found_and_outlined():
    watcher, background = Watcher(), room()
    for number in range(12):
        watcher.look(noisy(background, number))
    for number in range(20):
        x = 100 + 8 * number
        picture = with_square(noisy(background, number), x)
        seen = watcher.look(picture)
        assert (seen.moving_things, seen.motion) == (1, "a little")
    assert np.abs(np.subtract(outlined(picture), (x, 200, x + SIDE, 200 + SIDE))).max() < 20


def test_two_squares_are_two_things():
    watcher, background = Watcher(), room()
    for number in range(12):
        watcher.look(noisy(background, number))
    picture = with_square(with_square(noisy(background, 20), 50), 400)
    assert watcher.look(picture).moving_things == 2


def test_a_still_picture_does_not_move():
    watcher, background = Watcher(), room()
    seen = [watcher.look(noisy(background, number)) for number in range(40)]
    assert {(each.moving_things, each.motion) for each in seen} == {(0, "none")}


def test_what_came_to_rest_is_still_after_some_seconds():
    watcher, background = Watcher(), room()
    for number in range(12):
        watcher.look(noisy(background, number))
    assert watcher.look(with_square(background, 100)).moving_things == 1
    for number in range(60):
        seen = watcher.look(noisy(with_square(background, 100), number))
    assert seen.moving_things == 0


def test_a_light_that_is_switched_on_is_nothing_that_moves():
    watcher, background = Watcher(), room()
    for number in range(12):
        watcher.look(noisy(background, number))
    assert watcher.look(np.clip(background.astype(int) + 70, 0, 255).astype(np.uint8)).motion == "none"


def test_it_tells_brightness_and_colour():
    dark, red = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.full((HEIGHT, WIDTH, 3), (20, 20, 230), np.uint8)
    assert (Watcher().look(dark).brightness, Watcher().look(red).colour) == ("dark", "red")
    assert Watcher().look(room()).colour == ""


def test_faces_are_counted_only_where_opencv_has_a_detector():
    seen = Watcher().look(room())
    assert seen.faces == (None if face_detector() is None else 0)


def test_a_camera_may_change_its_size():
    watcher = Watcher()
    for size in ((480, 640), (640, 480), (90, 120)):
        assert watcher.look(np.zeros((*size, 3), np.uint8)).moving_things == 0


# On a call


class Street(Camera):
    """A camera before which a square passes again and again."""

    def __init__(self) -> None:
        super().__init__(0)
        self._picture = room()
        self._number = 0
        self.moving = True

    async def recv(self) -> av.VideoFrame:
        pts, time_base = await self.next_timestamp()
        self._number += 3 * self.moving
        frame = av.VideoFrame.from_ndarray(with_square(self._picture, self._number % (WIDTH - SIDE)), format="bgr24")
        frame.pts, frame.time_base = pts, time_base
        return frame


class Page(Browser):
    """Keeps the last picture that it saw."""

    picture: Picture | None = None

    async def _read(self, track: Any) -> None:
        try:
            while True:
                frame = await track.recv()
                if track.kind == "video":
                    self.picture = frame.to_ndarray(format="bgr24")
        except MediaStreamError:
            pass


def agent_with_eyes() -> tuple[Any, OutlineProcessor]:
    eyes, llm = OutlineProcessor(), ScriptedLLM()
    add_vision(llm, eyes)
    return stub_agent(edge=BrowserEdge(), llm=llm, processors=[eyes]), eyes


async def ask(agent: Any, text: str) -> str:
    return "".join([event.delta async for event in agent.llm.simple_response(text) if hasattr(event, "delta")])


async def test_camera_in_outlined_video_out_and_it_can_be_asked(on_call):
    agent, eyes = agent_with_eyes()
    await on_call(agent)
    assert await ask(agent, "What do you see?") == NO_CAMERA
    caller = join_room("default", "c", "caller")
    camera = Street()
    page = Page(caller, hertz=None, camera=camera)
    try:
        await page.connect()
        await until(lambda: eyes.sight is not None and eyes.sight.seen.moving_things == 1, 20)
        answer = await ask(agent, "what do you see")
        assert "One thing moves, a little." in answer
        assert await ask(agent, "Is anything moving?") == "One thing moves, a little."
        assert "red" in await ask(agent, "What colour is it?")
        if face_detector() is None:
            assert await ask(agent, "How many faces do you see?") == NO_FACES

        def outline_arrived() -> bool:
            # The encoder blurs colours: more green than anything that the camera shows.
            picture = page.picture
            if picture is None or picture.shape[1] != WIDTH:
                return False
            blue, green, red = (picture[:400, :, channel].astype(int) for channel in range(3))
            return bool(((green - blue > 40) & (green - red > 40)).sum() > 100)

        await until(outline_arrived, 20)
    finally:
        caller.leave()
        await page.close()
    await until(lambda: eyes.sight is None)
    assert await ask(agent, "what do you see?") == CAMERA_OFF


async def test_it_works_off_the_loop_and_leaves_nothing(on_call):
    tasks = asyncio.all_tasks()
    agent, eyes = agent_with_eyes()
    camera = Street()
    track = eyes.publish_video_track()
    await eyes.process_video(camera, "caller")
    await until(lambda: eyes.sight is not None)
    assert [thread.name for thread in threading.enumerate() if "visionagents-vision" in thread.name]
    first = await track.recv()
    assert (first.width, first.height) == (WIDTH, HEIGHT)
    await agent.close()
    with pytest.raises(MediaStreamError):
        await track.recv()
    await until(lambda: asyncio.all_tasks() <= tasks)
    await until(lambda: not [thread for thread in threading.enumerate() if "visionagents-vision" in thread.name])


async def test_a_picture_that_comes_while_one_is_looked_at_replaces_those_that_wait():
    eyes = OutlineProcessor()
    camera = Street()
    await eyes.process_video(camera, None)
    await until(lambda: eyes.sight is not None)
    began = asyncio.get_running_loop().time()
    looked = 0
    track = eyes.publish_video_track()
    while asyncio.get_running_loop().time() < began + 1:
        await track.recv()
        looked += 1
    await eyes.close()
    assert 2 <= looked <= 14


async def test_without_a_camera_its_video_says_so():
    eyes = OutlineProcessor()
    frame = await eyes.publish_video_track().recv()
    assert frame.to_ndarray(format="gray").max() > 200  # letters on a dark ground
    await eyes.stop_processing()
    await eyes.close()


async def test_the_recipe_makes_an_agent_that_takes_and_gives_video():
    agent = await create_agent()
    assert agent._needs_video()
    assert agent.publish_video
    await agent.close()


def test_naming_it_in_a_project_loads_neither_opencv_nor_vision_agents():
    code = (
        "import sys; from visionagents_runner.demo.vision import create_agent, installed; assert installed();"
        "sys.exit('cv2' in sys.modules or 'vision_agents' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_without_opencv_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(vision, "installed", lambda: False)
    with pytest.raises(RuntimeError, match=r"visionagents-runner\[demo\]"):
        await vision.create_agent()
