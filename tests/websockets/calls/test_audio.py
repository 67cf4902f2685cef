"""Audio over the WebSocket, with the room's real mix: frames up, frames down, offers passed on."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest

from tests.conftest import until
from tests.websockets.calls.conftest import Server
from visionagents_runner.edge import BadOffer, BrowserCustomEvent, NoMedia, find_room
from visionagents_runner.edge.people import Person

TONE = b"".join(struct.pack("<h", int(12000 * math.sin(i * 0.06))) for i in range(960))


def loud(frame: bytes) -> bool:
    return max(abs(value) for (value,) in struct.iter_unpack("<h", frame)) > 3000


async def test_people_hear_each_other(server: Server) -> None:
    async with server.socket() as one, server.socket() as two:
        mine = await one.hello(name="One")
        await two.hello(name="Two")
        for socket in (one, two):
            socket.send("pcm", on=True)
            await socket.hear("pcm", on=True)
        for _ in range(25):
            one.send_bytes(TONE)
        while not loud(await two.hear_frame()):
            pass
        speaking = await two.hear("speaking", participant_id=mine["participant_id"])
        assert speaking["speaking"]
        one.send("pcm", on=False)
        await one.hear("pcm", on=False)
        one.send_bytes(TONE)  # still on its way
        one.send("pcm", on=True)
        await one.hear("pcm", on=True)


async def test_the_others_learn_who_is_muted(server: Server) -> None:
    async with server.socket() as one, server.socket() as two:
        mine = await one.hello(name="One")
        await two.hello(name="Two")
        one.send("mute", muted=True)
        assert (await two.hear("presence", muted=True))["participant_id"] == mine["participant_id"]


async def test_an_offer_is_answered_under_its_id(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def negotiate(self: Person, offer_sdp: str) -> str:
        if offer_sdp == "bad":
            raise BadOffer("The offer is bad")
        if offer_sdp == "closed":
            raise NoMedia("UDP is closed")
        if offer_sdp == "bug":
            raise ZeroDivisionError("secret")
        return f"answer to {offer_sdp}"

    monkeypatch.setattr(Person, "negotiate", negotiate)
    async with server.socket() as socket:
        await socket.hello()
        for reference in (1, 2):
            socket.send("offer", id=reference, sdp=f"offer {reference}")
        for reference in (1, 2):
            assert (await socket.hear("answer", id=reference))["sdp"] == f"answer to offer {reference}"
        for sdp, code, detail in (
            ("bad", "bad_offer", "The offer is bad"),
            ("closed", "no_media", "UDP is closed"),
            ("bug", "no_media", "No connection for media could be prepared"),
        ):
            socket.send("offer", id=sdp, sdp=sdp)
            problem = await socket.hear("error", id=sdp)
            assert (problem["code"], problem["detail"], problem["fatal"]) == (code, detail, False)


async def test_a_real_offer_is_answered(server: Server) -> None:
    from aiortc import RTCConfiguration, RTCPeerConnection

    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        peer.addTransceiver("audio")
        await peer.setLocalDescription(await peer.createOffer())
        async with server.socket() as socket:
            await socket.hello()
            socket.send("offer", id="a", sdp=peer.localDescription.sdp)
            assert (await socket.hear("media"))["transport"] == "webrtc"
            assert (await socket.hear("answer", id="a"))["sdp"].startswith("v=0")
    finally:
        await peer.close()


async def test_a_full_call_is_refused(server: Server, settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "MAX_PEOPLE_PER_CALL": 1}
    async with server.socket() as one:
        await one.hello()
        async with server.socket() as two:
            assert await two.refused() == ("full", 4429)


async def test_what_a_page_sends_reaches_the_agent_and_what_an_agent_sends_the_page(server: Server) -> None:
    session = await server.start()
    heard: list[dict[str, Any]] = []

    async def on_custom(event: BrowserCustomEvent) -> None:
        heard.append(event.data)

    session.agent.edge.events.subscribe(on_custom)
    async with server.socket() as socket:
        await socket.hello()
        socket.send("custom", data={"colour": "red"})
        await until(lambda: bool(heard))
        await session.agent.edge.send_custom_event({"colour": "blue"})
        custom = await socket.hear("custom")
        assert (custom["data"], custom["agent_id"]) == ({"colour": "blue"}, session.agent.id)
        socket.send("custom", id=1, data={"a": "x" * 6000})
        assert (await socket.hear("error", id=1))["code"] == "too_large"
    assert find_room("default", "my-call") is not None
