"""What a client may not do, and what becomes of one that is malformed, too fast, too slow, silent or gone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.conftest import until
from tests.websockets.calls.client import Socket
from tests.websockets.calls.conftest import Server
from visionagents_runner.edge import find_room
from visionagents_runner.websockets import protocol
from visionagents_runner.websockets.calls import member
from visionagents_runner.websockets.protocol import Code, Fatal
from visionagents_runner.websockets.socket import CallSocket

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    """Whatever a client does, its tasks end with it."""
    yield
    assert not member._saying


def our_tasks() -> list[str]:
    names = (task.get_name() for task in asyncio.all_tasks())
    return [name for name in names if name.startswith(("call-socket", "call-member"))]


# Malformed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '"hello"',
        "{}",
        '{"type": 1}',
        '{"type": "hello"}',
        '{"type": "hello", "v": 2}',
        '{"type": "hello", "v": 1, "token": 1}',
        '{"type": "hello", "v": 1, "name": []}',
        '{"type": "hello", "v": 1, "name": "\\ud800"}',
        '{"type": "hello", "v": 1, "name": "a\\u0000b"}',
        '{"type": "hello", "v": NaN}',
        '{"type": "say", "text": "before the hello"}',
        '{"type": "ack", "n": 1}',
        '{"type": "ack", "n": -1}',
        '{"type": "ack", "n": true}',
        '{"type": "ack"}',
        '{"type": "hello", "v": 1, "x": ' + "[" * 40 + "]" * 40 + "}",
        "[" * 60_000,
        '{"type": "hello", "v": 1, "x": [' + "[]," * 20_000 + "[]]}",
        '{"type": "hello", "v": 1, "v": 1}',
    ],
)
async def test_what_makes_no_sense_ends_the_connection(server: Server, text: str) -> None:
    async with server.socket() as socket:
        socket.send_text(text)
        assert await socket.end() == ("bad_message", 4400)
    assert not our_tasks()


async def test_hello_is_said_once(server: Server) -> None:
    async with server.socket() as socket:
        socket.send("hello", v=1)
        socket.send("hello", v=1)
        assert await socket.end() == ("bad_message", 4400)
    assert find_room("default", "my-call") is None


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "dance"}, "bad_message"),
        ({"type": "say"}, "bad_message"),
        ({"type": "say", "text": " \n"}, "bad_message"),
        ({"type": "say", "text": 1}, "bad_message"),
        ({"type": "say", "text": "x" * 4001}, "too_large"),
        ({"type": "offer"}, "bad_offer"),
        ({"type": "offer", "sdp": ""}, "bad_offer"),
        ({"type": "offer", "sdp": "v=0"}, "bad_offer"),
        ({"type": "pcm"}, "bad_message"),
        ({"type": "pcm", "on": 1}, "bad_message"),
        ({"type": "custom"}, "bad_message"),
        ({"type": "custom", "data": [1]}, "bad_message"),
        ({"type": "mute", "muted": "yes"}, "bad_message"),
    ],
)
async def test_what_cannot_be_done_is_said_and_the_call_goes_on(
    server: Server, message: dict[str, Any], code: str
) -> None:
    async with server.socket() as socket:
        await socket.hello()
        socket.send(**{**message, "kind": message["type"], "id": 7})
        problem = await socket.hear("error")
        assert (problem["code"], problem["fatal"], problem["id"]) == (code, False, 7)
        assert problem["detail"]
        assert socket.closed is None


@pytest.mark.parametrize("reference", [[], {}, 1.5, "x" * 65, 2**60])
async def test_a_reference_is_a_short_text_or_a_number(server: Server, reference: Any) -> None:
    async with server.socket() as socket:
        await socket.hello()
        socket.send("say", id=reference, text="hello")
        assert await socket.end() == ("bad_message", 4400)


async def test_what_is_too_large_ends_the_connection(server: Server) -> None:
    for text in ("x" * (protocol.MESSAGE_BYTES + 1), "\N{EURO SIGN}" * (protocol.MESSAGE_BYTES // 2)):
        async with server.socket() as socket:
            socket.send_text(text)
            assert await socket.end() == ("too_large", 4413)


@pytest.mark.parametrize(
    ("size", "answer"),
    [(0, ("bad_message", 4400)), (1919, ("bad_message", 4400)), (10**6, ("too_large", 4413))],
)
async def test_a_frame_has_one_size(server: Server, size: int, answer: tuple[str, int]) -> None:
    async with server.socket() as socket:
        await socket.hello()
        socket.send_bytes(bytes(size))
        assert await socket.end() == answer


# Too fast


async def test_a_flood_of_messages_ends_the_connection(server: Server) -> None:
    async with server.socket() as socket:
        await socket.hello()
        for _ in range(protocol.MESSAGE_BURST + 1):
            socket.send("mute", muted=True)
        assert await socket.end() == ("too_fast", 4429)
    assert find_room("default", "my-call") is None


async def test_a_flood_of_frames_is_dropped_and_a_worse_one_ends_the_connection(server: Server) -> None:
    async with server.socket() as socket:
        await socket.hello()
        for _ in range(protocol.FRAME_BURST * 2):
            socket.send_bytes(bytes(1920))
        socket.send("dance")
        await socket.hear("error")
        assert socket.closed is None
        for _ in range(protocol.FLOOD_BURST):
            socket.send_bytes(bytes(1920))
        assert await socket.end() == ("too_fast", 4429)


async def test_only_so_much_is_asked_of_the_agents_at_once(
    server: Server, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "LIMITS": {"turns_per_person": "9/s"}}
    released = asyncio.Event()

    async def say(self: Any, person: Any, text: str) -> None:
        await released.wait()

    monkeypatch.setattr("visionagents_runner.edge.Room.say", say)
    async with server.socket() as socket:
        await socket.hello()
        for number in range(9):
            socket.send("say", id=number, text="hello")
        problem = await socket.hear("error")
        assert (problem["code"], problem["id"], problem["fatal"]) == ("too_fast", 8, False)
        released.set()
        for number in range(8):
            assert (await socket.hear("said"))["id"] == number


async def test_what_no_agent_takes_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def say(self: Any, person: Any, text: str) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("visionagents_runner.edge.Room.say", say)
    async with server.socket() as socket:
        await socket.hello()
        socket.send("say", id="a", text="hello")
        problem = await socket.hear("error", id="a")
        assert (problem["code"], problem["fatal"]) == ("say_failed", False)
        assert "secret" not in problem["detail"]


# Silent


async def test_who_says_no_hello_is_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HELLO_SECONDS", 0.05)
    async with server.socket() as socket:
        assert await socket.end() == ("silent", 4408)


async def test_who_acknowledges_nothing_is_closed_and_leaves(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "SILENCE_SECONDS", 0.1)
    async with server.socket() as socket:
        await socket.hello()
        assert await socket.end() == ("silent", 4408)
        await until(lambda: find_room("default", "my-call") is None)
    assert not our_tasks()


async def test_who_answers_no_ping_is_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "PING_SECONDS", 0.02)
    monkeypatch.setattr(protocol, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(protocol, "MESSAGE_BURST", 10**6)
    async with server.socket() as socket:
        await socket.hello()

        async def acknowledge() -> None:
            while socket.closed is None:
                socket.ack()
                await asyncio.sleep(0.01)

        acknowledging = asyncio.create_task(acknowledge())
        assert await socket.end() == ("silent", 4408)
        await acknowledging


async def test_a_pong_tells_how_far_away_the_client_is(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "PING_SECONDS", 0.02)
    async with server.socket() as socket:
        await socket.hello()
        ping = await socket.hear("ping")
        assert ping["rtt_ms"] is None
        socket.send("pong", t="nonsense")
        socket.send("pong", t=ping["t"])
        async with asyncio.timeout(10):
            while (ping := await socket.hear("ping"))["rtt_ms"] is None:
                pass
        assert 0 <= ping["rtt_ms"] < 5000


# Behind


class Silent:
    """A handler for a socket without a call."""

    greeted = True

    def on_message(self, kind: str, message: dict[str, Any]) -> None:
        raise AssertionError(kind)

    def on_frame(self, frame: bytes) -> None:
        raise AssertionError


class Bare:
    """A served `CallSocket`, whose client reads what it sent and says what it likes."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.from_client: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.socket = CallSocket(self.from_client.get, self._send)
        self.serving = asyncio.create_task(self.socket.serve(Silent()))

    async def _send(self, event: dict[str, Any]) -> None:
        self.sent.append(event)

    async def ack(self, count: int) -> None:
        self.from_client.put_nowait({"type": "websocket.receive", "text": json.dumps({"type": "ack", "n": count})})
        await settle()

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(event["text"]) for event in self.sent if event.get("text")]

    async def leave(self) -> None:
        self.from_client.put_nowait({"type": "websocket.disconnect"})
        await self.serving


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_client_that_is_behind_gets_the_newest_words_only() -> None:
    bare = Bare()
    for number in range(protocol.UNACKED_MESSAGES + 10):
        bare.socket.post({"type": "custom", "n": number})
    await settle()
    assert len(bare.sent) == protocol.UNACKED_MESSAGES
    for number in range(1000):
        bare.socket.post({"type": "words", "text": "x" * number}, key=("words", 1))
        bare.socket.post({"type": "words", "text": "y" * number}, key=("words", 2))
    await bare.ack(protocol.UNACKED_MESSAGES)
    last = bare.messages()[protocol.UNACKED_MESSAGES :]
    assert [each.get("n") for each in last[:10]] == list(
        range(protocol.UNACKED_MESSAGES, protocol.UNACKED_MESSAGES + 10)
    )
    assert [each["text"] for each in last[10:]] == ["x" * 999, "y" * 999]
    await bare.leave()


async def test_a_client_that_is_too_far_behind_begins_anew() -> None:
    bare = Bare()
    for number in range(protocol.UNACKED_MESSAGES):
        bare.socket.post({"type": "custom", "n": number})
    await settle()
    for number in range(protocol.OUTBOX_SIZE + 1):
        bare.socket.post({"type": "custom", "n": number})
    with pytest.raises(Fatal) as failure:
        await bare.serving
    assert failure.value.code is Code.SILENT
    await bare.socket.close(failure.value)
    assert bare.messages()[-1]["code"] == "silent"
    assert bare.sent[-1] == {"type": "websocket.close", "code": 4408}
    assert len(bare.sent) == protocol.UNACKED_MESSAGES + 2


async def test_audio_waits_for_room_and_does_not_hold_up_messages() -> None:
    bare = Bare()
    frame = bytes(protocol.FRAME_BYTES)

    async def speak() -> None:
        while True:
            await bare.socket.send_frame(frame)

    speaking = asyncio.create_task(speak())
    await settle()
    assert len(bare.sent) == protocol.UNACKED_FRAMES
    bare.socket.post({"type": "words", "text": "a"})
    await settle()
    assert bare.messages() == [{"type": "words", "text": "a"}]
    await bare.ack(10)
    assert len(bare.sent) == protocol.UNACKED_FRAMES + 11
    speaking.cancel()
    await bare.leave()


async def test_a_server_that_cannot_send_any_more_ends_it_quietly() -> None:
    bare = Bare()

    async def broken(event: dict[str, Any]) -> None:
        raise OSError("closed")

    bare.socket._send = broken
    bare.socket.post({"type": "words"})
    await bare.serving
    await bare.socket.close(Fatal(Code.GOING_AWAY, "x"))


async def test_a_server_that_never_sends_does_not_keep_the_socket_from_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visionagents_runner.websockets.socket._LAST_SECONDS", 0.02)
    monkeypatch.setattr(protocol, "SILENCE_SECONDS", 0.05)
    bare = Bare()

    async def stuck(event: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    bare.socket._send = stuck
    bare.socket.post({"type": "words"})
    with pytest.raises(Fatal):
        await bare.serving
    await bare.socket.close(Fatal(Code.SILENT, "x"))
    assert not our_tasks()


# Gone


async def test_a_server_that_goes_away_says_so(server: Server) -> None:
    async with server.socket() as socket:
        await socket.hello()
        socket.task.cancel()
        assert await socket.end() == ("going_away", 4503)
        assert find_room("default", "my-call") is None
        with pytest.raises(asyncio.CancelledError):
            await socket.task
        socket.task = asyncio.create_task(asyncio.sleep(0))


async def test_who_vanishes_while_joining_leaves_nothing(server: Server) -> None:
    for after in range(12):
        socket: Socket
        async with server.socket() as socket:
            socket.send("hello", v=1)
            for _ in range(after):
                await asyncio.sleep(0)
    assert not our_tasks()
    assert find_room("default", "my-call") is None


async def test_fifty_clients_come_and_vanish_and_nothing_is_left(server: Server) -> None:
    await server.start()
    before = len(asyncio.all_tasks())
    for _ in range(50):
        async with server.socket() as socket:
            await socket.hello()
            socket.send("say", id=1, text="hello")
    await until(lambda: not our_tasks())
    await until(lambda: len(asyncio.all_tasks()) <= before)
    room = find_room("default", "my-call")
    assert room is not None
    assert not room.people
