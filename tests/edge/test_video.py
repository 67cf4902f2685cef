"""Video: cameras to the agents that look, an agent's video to everybody."""

from __future__ import annotations

import asyncio

from vision_agents.core.processors import VideoProcessor, VideoPublisher
from vision_agents.core.utils.video_track import QueuedVideoTrack

from tests.conftest import until
from tests.edge.browser import Browser, Camera, Ears, brightness, browser, next_event
from visionagents_runner.edge import BrowserEdge, Media, Presence, Renegotiate, join_room
from visionagents_runner.testing import stub_agent


class Eye(VideoProcessor):
    """Keeps how bright the last picture is that the agent saw."""

    name = "eye"

    def __init__(self):
        super().__init__()
        self.seen = []
        self._forwarder = None

    async def process_video(self, track, participant_id, shared_forwarder=None):
        await self.stop_processing()
        self._forwarder = shared_forwarder
        shared_forwarder.add_frame_handler(self._on_frame, fps=10, name="eye")

    async def _on_frame(self, frame):
        self.seen.append(brightness(frame))

    async def stop_processing(self):
        if self._forwarder is not None:
            await self._forwarder.remove_frame_handler(self._on_frame)
            self._forwarder = None

    async def close(self):
        await self.stop_processing()


class Screen(VideoPublisher):
    """Publishes one colour."""

    name = "screen"

    def __init__(self, luma):
        super().__init__()
        self.track = QueuedVideoTrack(width=160, height=120, fps=15)
        self._camera = Camera(luma)

    def publish_video_track(self):
        return self.track

    async def show(self):
        while True:
            await self.track.add_frame(await self._camera.recv())

    async def close(self):
        self.track.stop()


async def renewed(page):
    await next_event(page.person, Renegotiate)
    await page.connect()


async def test_an_agent_that_looks_sees_cameras_and_learns_when_they_go(on_call):
    eye = Eye()
    agent = await on_call(stub_agent(edge=BrowserEdge(), processors=[eye]))
    ears = Ears(agent)
    caller = join_room("default", "c", "caller")
    async with browser(caller, camera=Camera(200)) as page:
        told = await next_event(caller, Presence, lambda event: event.is_agent)
        assert (told.wants_video, told.publishes_video, told.publishes_audio) == (True, False, True)
        await until(lambda: bool(eye.seen) and eye.seen[-1] > 150)
        page.pc.getTransceivers()[1].direction = "inactive"
        await page.connect()
        await until(lambda: ("TrackRemovedEvent", "VIDEO", "caller") in ears.told)
        page.pc.getTransceivers()[1].direction = "sendrecv"
        await page.connect()
        await until(lambda: ears.told.count(("TrackAddedEvent", "VIDEO", "caller")) == 2)
    await until(lambda: ears.told.count(("TrackRemovedEvent", "VIDEO", "caller")) == 2)


async def test_a_camera_that_nobody_looks_at_is_declined(on_call):
    agent = await on_call()
    ears = Ears(agent)
    caller = join_room("default", "c", "caller")
    async with browser(caller, camera=Camera(200)) as page:
        await next_event(caller, Media, lambda event: event.state == "connected")
        assert page.pc.getTransceivers()[1].currentDirection == "inactive"
        await until(lambda: "caller" in ears.heard)
    assert not [told for told in ears.told if told[1] == "VIDEO"]


async def test_an_agent_that_comes_later_sees_the_camera_after_renegotiation(on_call):
    caller = join_room("default", "c", "caller")
    async with browser(caller, camera=Camera(200)) as page:
        await next_event(caller, Media, lambda event: event.state == "connected")
        eye = Eye()
        await on_call(stub_agent(edge=BrowserEdge(), processors=[eye]))
        await renewed(page)
        await until(lambda: bool(eye.seen) and eye.seen[-1] > 150)
        second = Eye()
        await on_call(stub_agent(edge=BrowserEdge(), processors=[second]))
        await until(lambda: bool(second.seen) and second.seen[-1] > 150)


async def test_a_second_camera_is_seen_when_the_first_has_gone(on_call):
    eye = Eye()
    agent = await on_call(stub_agent(edge=BrowserEdge(), processors=[eye]))
    ears = Ears(agent)
    caller, guest = join_room("default", "c", "caller"), join_room("default", "c", "guest")
    async with browser(guest, camera=Camera(60)):
        async with browser(caller, camera=Camera(220)):
            await until(lambda: {told[2] for told in ears.told if told[1] == "VIDEO"} == {"caller", "guest"})
        await until(lambda: bool(eye.seen) and eye.seen[-1] < 100)


async def test_everybody_sees_what_an_agent_shows_until_it_leaves(on_call):
    caller, guest = join_room("default", "c", "caller"), join_room("default", "c", "guest")
    first, second = Browser(caller, camera=Camera(10)), Browser(guest, hertz=None)
    second.pc.addTransceiver("video", direction="recvonly")
    await first.connect()
    await second.connect()
    screen = Screen(180)
    agent = stub_agent(edge=BrowserEdge(), processors=[screen])
    call = await agent.create_call("default", "c")
    showing = asyncio.create_task(screen.show())
    async with agent.join(call, participant_wait_timeout=0):
        await asyncio.gather(renewed(first), renewed(second))
        await until(lambda: all(page.seen and 150 < page.seen[-1] < 210 for page in (first, second)))
    await asyncio.gather(renewed(first), renewed(second))
    showing.cancel()
    for page in (first, second):
        page.person.leave()
        await page.close()
