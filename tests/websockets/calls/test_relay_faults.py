"""What people learn, and what is left of them, when a worker or the layer between two goes away."""

from __future__ import annotations

import asyncio
import json
import signal
import struct
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.conftest import until
from tests.machine.requirements import require
from tests.machine.servers import RedisServer, running_redis
from tests.processes import freeze
from tests.server.test_signals import EMBEDDED, running
from tests.websockets.calls import relayed
from tests.websockets.calls.conftest import Serve, Server, allow_local
from tests.websockets.calls.relayed import Far, far_process
from visionagents_runner.edge import find_room
from visionagents_runner.messaging.layer import deliver, get_layer, get_link, worker_group
from visionagents_runner.websockets import protocol
from visionagents_runner.websockets.calls import other_worker, relay
from visionagents_runner.websockets.calls.relay import Relay
from visionagents_runner.worker.current import current_worker

pytestmark = pytest.mark.slow

__all__ = ["allow_local"]

far, redis_layer, server = relayed.far, relayed.redis_layer, relayed.server


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """This worker gives others up sooner."""
    monkeypatch.setattr(relay, "BEAT_SECONDS", 0.5)
    monkeypatch.setattr(relay, "SILENCE_SECONDS", 3.5)


async def test_who_talks_to_a_worker_that_is_killed_is_told_so(server: Server, far: Far) -> None:
    await far.start()
    async with server.socket() as socket:
        await socket.hello()
        far.process.process.kill()
        assert await socket.end() == ("going_away", 4503)
    async with server.socket() as socket:  # either its row says that it lives, and nobody answers, or it is known dead
        socket.send("hello", v=1)
        await until(lambda: bool(socket.received))
        assert socket.received[0]["type"] == "welcome" or socket.received[0]["code"] == "elsewhere"


async def test_a_worker_that_does_not_answer_lets_nobody_in_until_it_does(server: Server, far: Far) -> None:
    await far.start()
    async with server.socket() as socket:
        await socket.hello(name="Before")
        freeze(far.process.process)
        async with server.socket() as late:
            assert await late.refused() == ("elsewhere", 4409)
        assert await socket.end() == ("going_away", 4503)
        far.process.process.send_signal(signal.SIGCONT)
    await far.until_people()  # nor does anybody stay there who gave up
    async with server.socket() as socket:
        await socket.hello(name="After")
        assert await far.people() == ["After"]


async def test_a_worker_that_drains_ends_its_sessions_and_sends_people_away(server: Server, far: Far) -> None:
    await far.start()
    async with server.socket() as socket:
        await socket.hello()
        assert await far.tell("drain") == "draining"
        assert (await socket.hear("session"))["end_reason"] == "drained"
        assert await socket.end() == ("going_away", 4503)


async def test_when_the_worker_of_the_sockets_stops_they_leave_the_room_of_the_other(server: Server, far: Far) -> None:
    await far.start()
    async with server.socket() as socket:
        await socket.hello(name="Caller")
        worker = current_worker()
        assert worker is not None
        await worker.stop()
        assert await socket.end() == ("going_away", 4503)
        await far.until_people()
        assert await far.tell("relayed") == 0


async def welcomed(port: int) -> ClientConnection | None:
    socket = await connect(f"ws://127.0.0.1:{port}/ws/calls/default/my-call/")
    await socket.send(json.dumps({"type": "hello", "v": 1, "name": "Caller"}))
    if json.loads(await socket.recv())["type"] == "welcome":
        return socket
    await socket.close()
    return None


async def test_when_the_worker_of_the_sockets_is_killed_the_room_empties(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.start()
    room = find_room("default", "my-call")
    assert room is not None
    monkeypatch.setenv("REDIS_URL", require("redis"))
    starting = running(EMBEDDED["daphne"], RUNNER="tests.websockets.calls.agents.runner")
    other = await asyncio.to_thread(starting.__enter__)
    try:
        async with asyncio.timeout(30):
            while (socket := await welcomed(other.port)) is None:
                pass  # its link is not up yet
        async with socket:
            assert [person.name for person in room.people.values()] == ["Caller"]
            other.send(signal.SIGKILL)
            await until(lambda: not room.people)
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


async def test_when_the_layer_is_gone_people_are_told_and_come_again_when_it_is_back(
    own_redis: RedisServer, serve: Serve, allow_local: None
) -> None:
    server = await serve()
    async with far_process(own_redis.url) as far:
        await far.start()
        async with server.socket() as socket:
            await socket.hello(name="Before")
            await own_redis.stop()
            assert await socket.end() == ("going_away", 4503)
        async with server.socket() as socket:
            assert await socket.refused() == ("elsewhere", 4409)
        await far.until_people()
        await own_redis.start()
        async with asyncio.timeout(20):
            while await refused(server):
                pass
        async with server.socket() as socket:
            await socket.hello(name="After")
            assert await far.people() == ["After"]


async def refused(server: Server) -> bool:
    async with server.socket() as socket:
        socket.send("hello", v=1)
        await until(lambda: bool(socket.received))
        return bool(socket.received[0]["type"] == "error")


@pytest.fixture
async def own_redis(settings: Any, tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with running_redis(tmp_path) as redis:
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [redis.url]}}
        }
        yield redis


async def test_a_lost_message_ends_the_relay_instead_of_being_passed_over(
    server: Server, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    await far.start()
    async with server.socket() as socket:
        await socket.hello()
        link = get_link()
        assert link is not None
        send = link.send
        lost: list[dict[str, Any]] = []

        def lossy(group: str, message: dict[str, Any]) -> bool:
            if message.get("lanes") and not lost:
                lost.append(message)
                return True
            return send(group, message)

        monkeypatch.setattr(link, "send", lossy)
        socket.send("say", id=1, text="never heard")
        assert await socket.end() == ("going_away", 4503)
        assert lost
    await far.until_people()


class Nowhere:
    """The end of a lane that leads to nobody."""

    def __init__(self) -> None:
        self.why = ""

    def take_text(self, text: str) -> None:
        raise AssertionError

    def take_frame(self, frame: bytes) -> None:
        raise AssertionError

    def over(self, code: str, detail: str) -> None:
        raise AssertionError

    def broken(self, why: str) -> None:
        self.why = why


async def test_a_worker_that_takes_nothing_has_nothing_pile_up_for_it(server: Server) -> None:
    link = get_link()
    assert link is not None
    other = other_worker.OtherWorker(link, uuid.uuid4(), uuid.uuid4())
    lane = other.open("key", Nowhere(), confirmed=True)
    posted = 0
    while lane.post(json.dumps("x" * 1000)):
        posted += 1
        await asyncio.sleep(0)
    assert posted < (other_worker.WINDOW + 1) * protocol.OUTBOX_SIZE
    assert len(lane._texts) == protocol.OUTBOX_SIZE
    for _ in range(1000):
        lane.send_frame(bytes(1920))
    assert lane.dropped >= 1000 - 2 * other_worker.FRAMES_WAITING
    assert len(lane._frames) <= other_worker.FRAMES_WAITING
    lane.close()
    other.dispose()
    assert worker_group(other.id) not in link._entered


async def test_what_was_said_last_arrives_before_the_word_that_a_worker_ends(server: Server) -> None:
    link, worker, layer = get_link(), current_worker(), get_layer()
    assert link is not None
    assert worker is not None
    other, came = uuid.uuid4(), list[dict[str, Any]]()
    leave = link.join(worker_group(other), came.append)
    mine = worker_group(worker.id)
    await until(lambda: {mine, worker_group(other)} <= link._entered)
    await server.start()
    admission = {"role": "speaker", "user_id": "somebody", "name": "", "judged": None}
    told = {"call": ["default", "my-call"], "admission": admission, "name": "Caller", "agents": []}
    await deliver(layer, mine, {"type": "relay.open", "key": "a", "from": str(other), **told})
    await until(lambda: any(each.get("lanes") for each in came))
    [lane] = worker.services.get(Relay)._others[other].lanes.values()
    for number in range(50):
        lane.post(f"last {number}")
    await worker.services.get(Relay).close()
    await until(lambda: any(each["type"] == "relay.bye" for each in came))
    kinds = [each["type"] for each in came]
    before = came[: kinds.index("relay.bye")]
    texts = [text for each in before for _, _, texts, _ in each.get("lanes", ()) for text in texts]
    assert texts[-50:] == [f"last {number}" for number in range(50)]
    leave()


# What the layer delivers twice


async def test_what_the_layer_delivers_twice_counts_once(
    server: Server, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = get_link()
    assert link is not None
    send = link.send
    monkeypatch.setattr(link, "send", lambda group, message: send(group, message) and send(group, message))
    await far.start()
    async with server.socket() as socket:
        await socket.hello(name="Caller")
        assert await far.people() == ["Caller"]
        socket.send("pcm", on=True)
        await socket.hear("pcm", on=True)
        for number in range(30):
            socket.send_bytes(struct.pack("<h", 1000 + number) * 960)
        for number in range(5):
            socket.send("say", id=number, text=f"hello {number}")
            assert (await socket.hear("words", role="assistant", completed=True))["text"] == f"You said: hello {number}"
        heard = await far.until_heard(1029)
        assert heard == [each for each in range(1000, 1030) if each in set(heard)]
    await far.until_people()


async def test_who_has_left_does_not_come_back_when_the_layer_delivers_their_coming_again(
    server: Server, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = get_link()
    assert link is not None
    send = link.send
    came: list[tuple[str, dict[str, Any]]] = []

    def noted(group: str, message: dict[str, Any]) -> bool:
        if message["type"] == "relay.open":
            came.append((group, message))
        return send(group, message)

    monkeypatch.setattr(link, "send", noted)
    await far.start()
    async with server.socket() as socket:
        await socket.hello(name="Before")
    await far.until_people()
    [again] = came
    send(*again)
    async with server.socket() as socket:
        await socket.hello(name="After")
        assert await far.people() == ["After"]
        assert await far.tell("relayed") == 1


# Workers of other versions


async def test_a_worker_of_another_version_may_say_more_of_somebody_than_is_known_here(
    server: Server, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newer(message: dict[str, Any]) -> dict[str, Any]:
        return {**message, "colour": "red", "admission": {**message["admission"], "may_paint": True}}

    change_opens(monkeypatch, newer)
    await far.start()
    async with server.socket() as socket:
        assert (await socket.hello(name="Caller"))["name"] == "Caller"
        assert await far.people() == ["Caller"]


@pytest.mark.parametrize("missing", ["admission", "call", "name", "user_id", "role"])
async def test_somebody_who_is_not_understood_there_is_told_to_come_again(
    server: Server, far: Far, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def other(message: dict[str, Any]) -> dict[str, Any]:
        admission = {key: value for key, value in message["admission"].items() if key != missing}
        return {key: value for key, value in {**message, "admission": admission}.items() if key != missing}

    change_opens(monkeypatch, other)
    await far.start()
    async with server.socket() as socket:
        assert await socket.refused() == ("going_away", 4503)
    assert await far.people() == []
    assert await far.tell("relayed") == 0


async def test_it_is_logged_when_somebody_is_not_understood(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    link, worker = get_link(), current_worker()
    assert link is not None
    assert worker is not None
    answers: list[dict[str, Any]] = []
    monkeypatch.setattr(link, "send", lambda group, message: not answers.append(message))
    opening = {"type": "relay.open", "from": str(uuid.uuid4()), "key": "a key"}
    await until(lambda: worker_group(worker.id) in link._entered)
    await deliver(get_layer(), worker_group(worker.id), opening)
    await until(lambda: bool(answers))
    [answer] = answers
    assert (answer["type"], answer["key"], answer["code"]) == ("relay.over", "a key", "going_away")
    assert f"Worker {opening['from']} sent somebody" in caplog.text
    assert "could not be taken" not in caplog.text


async def test_an_end_for_a_reason_that_is_not_known_here_sends_the_client_back(server: Server, far: Far) -> None:
    await far.start()
    worker = current_worker()
    assert worker is not None
    async with server.socket() as socket:
        await socket.hello()
        [(theirs, other)] = worker.services.get(Relay)._others.items()
        [key] = other.lanes
        over = {"type": "relay.over", "from": str(theirs), "key": key, "code": "full_moon", "detail": "Come again"}
        await deliver(get_layer(), worker_group(worker.id), over)
        assert await socket.end() == ("going_away", 4503)
    await far.until_people()


def change_opens(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    link = get_link()
    assert link is not None
    send = link.send
    monkeypatch.setattr(
        link,
        "send",
        lambda group, message: send(group, change(message) if message["type"] == "relay.open" else message),
    )
