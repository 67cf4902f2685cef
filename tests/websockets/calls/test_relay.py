"""A call's socket at one worker, its agent at another, Redis between them."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from tests.asgi_client import REMOTE
from tests.conftest import until
from tests.websockets.calls import relayed
from tests.websockets.calls.client import Socket
from tests.websockets.calls.conftest import Server
from tests.websockets.calls.relayed import Far
from visionagents_runner.auth.tokens import make_join_token
from visionagents_runner.edge import find_room
from visionagents_runner.models import AgentSession, Worker
from visionagents_runner.store import session_rows
from visionagents_runner.websockets import protocol
from visionagents_runner.websockets.calls import client, relocation
from visionagents_runner.websockets.calls.location import home_of
from visionagents_runner.websockets.calls.relay import Relay
from visionagents_runner.websockets.calls.relayed_client import MOVED, RelayedClient
from visionagents_runner.worker.current import current_worker

pytestmark = pytest.mark.slow

far, redis_layer, server = relayed.far, relayed.redis_layer, relayed.server

FRAMES = 60


def frame(number: int) -> bytes:
    return struct.pack("<h", number) * 960


def relayed_here() -> int:
    worker = current_worker()
    assert worker is not None
    return worker.services.get(Relay).lanes


async def token_for(session_id: str, **options: Any) -> str:
    row = await session_rows.get_session(session_id)
    assert row is not None
    return make_join_token(row, **options)


def guest(server: Server) -> Socket:
    return server.socket(peer=REMOTE, host="agents.example", scheme="wss")


async def test_somebody_types_to_an_agent_in_another_process_and_reads_its_answer(server: Server, far: Far) -> None:
    session_id = await far.start()
    async with server.socket() as socket:
        welcome = await socket.hello(name="Caller")
        assert (welcome["role"], welcome["name"], welcome["agents"]) == ("speaker", "Caller", ["default"])
        [told] = welcome["sessions"]
        assert told["session_id"] == session_id
        assert (await socket.hear("presence", is_agent=True))["session"] == told
        for number in range(5):  # in order, and nothing twice
            socket.send("say", id=number, text=f"hello {number}")
            words = await socket.hear("words", role="assistant", completed=True)
            assert words["text"] == f"You said: hello {number}"
        assert await far.people() == ["Caller"]
        assert find_room("default", "my-call") is None
        socket.send("say", id="empty", text=" ")
        assert (await socket.hear("error", id="empty"))["code"] == "bad_message"
        socket.send("leave")
        assert await socket.end() == ("", 1000)
    await far.until_people()
    await until(lambda: relayed_here() == 0)


async def test_people_at_both_workers_meet_and_see_each_other_go(server: Server, far: Far) -> None:
    await far.start()
    async with server.socket() as one:
        await one.hello(name="One")
        async with server.socket() as two:
            await two.hello(name="Two")
            assert (await one.hear("presence", name="Two"))["here"]
            two.send("mute", muted=True)
            assert (await one.hear("presence", name="Two", muted=True))["here"]
        assert not (await one.hear("presence", name="Two", here=False))["here"]
        await far.until_people("One")


async def test_what_a_client_may_not_send_ends_it_with_the_same_words(server: Server, far: Far) -> None:
    await far.start()
    async with server.socket() as socket:
        await socket.hello()
        socket.send("say", id=[1], text="hello")
        assert await socket.end() == ("bad_message", 4400)
    await far.until_people()


async def test_audio_arrives_whole_and_in_order_both_ways(server: Server, far: Far) -> None:
    await far.start()
    async with server.socket() as socket:
        await socket.hello(name="Caller")
        socket.send("pcm", on=True)
        await socket.hear("pcm", on=True)
        for number in range(FRAMES):
            socket.send_bytes(frame(1000 + number))
            await asyncio.sleep(0.015)  # as a microphone would
        heard = await far.until_heard(1000 + FRAMES - 1)
        assert heard == [1000 + number for number in range(FRAMES)]

        assert await far.tell(f"speak my-call {FRAMES}") == "spoken"
        frames = [struct.unpack("<960h", each) for each in socket.received if isinstance(each, bytes)]
        voices = [each[0] for each in frames if len(set(each)) == 1 and each[0]]
        assert voices == sorted(set(voices))
        assert len(voices) > FRAMES / 2  # what a room plays evens out when it came; no frame of it is lost after
        assert set(voices) <= set(range(5000, 5000 + FRAMES))


async def test_a_client_that_takes_no_audio_has_none_pile_up_and_hears_the_newest_later(
    server: Server, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "UNACKED_FRAMES", 10)
    await far.start()
    async with server.socket() as socket:
        await socket.hello(name="Caller")
        socket.send("pcm", on=True)
        await socket.hear("pcm", on=True)
        assert await far.tell("speak my-call 100") == "spoken"
        came = [each for each in socket.received if isinstance(each, bytes)]
        assert len(came) == 10
        socket.received.clear()
        await far.tell("speak my-call 1")
        voices: list[int] = []
        while len(voices) < 2:
            socket.ack()
            voice = struct.unpack("<h", (await socket.hear_frame())[:2])[0]
            voices += [voice] * bool(voice)  # a room that is held up plays silence between
        assert voices[1] > 5000 + 50  # one was on its way; of what was said after it, the end is left


async def test_a_listener_is_not_heard_there_either(server: Server, far: Far) -> None:
    token = await token_for(await far.start(), role="listener")
    async with guest(server) as socket:
        welcome = await socket.hello(token=token, name="Quiet")
        assert (welcome["role"], welcome["may_start"], welcome["name"]) == ("listener", False, "Quiet")
        assert "metadata" not in welcome["sessions"][0]
        socket.send("say", id=1, text="hello")
        assert (await socket.hear("error", id=1))["code"] == "not_allowed"
        socket.send("pcm", on=True)
        await socket.hear("pcm", on=True)
        socket.send_bytes(frame(7))
        socket.send("custom", data={"a": 1})  # behind the frame
        await socket.hear("error", code="not_allowed")
        assert await far.tell("heard") == []


async def test_an_invitation_leads_to_its_own_session_and_ends_with_it(server: Server, far: Far) -> None:
    await server.start()  # the first agent of the call is here
    token = await token_for(await far.start(), name="A guest")
    async with guest(server) as socket, server.socket() as other:
        welcome = await socket.hello(token=token)
        assert welcome["name"] == "A guest"
        assert welcome["sessions"][0]["models"] == {}  # what guests are told is judged where the agent is
        await other.hello(name="Other")
        assert await far.people() == ["A guest"]
        await far.tell("close my-call")
        assert (await socket.hear("session"))["end_reason"] == "requested"
        assert await socket.end() == ("void_token", 4410)
        assert other.closed is None
    async with guest(server) as socket:
        assert await socket.refused(token=token) == ("void_token", 4410)


async def test_people_meet_where_the_agent_was_first(server: Server, far: Far) -> None:
    await far.start()
    await server.start()
    async with server.socket() as socket:
        await socket.hello(name="Caller")
        assert await far.people() == ["Caller"]


async def test_an_agent_that_is_being_built_is_waited_for_where_it_is(server: Server, far: Far) -> None:
    await far.tell("slowly 1.0")
    starting = asyncio.create_task(far.start())
    while not await AgentSession.objects.filter(status="starting").aexists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    async with server.socket() as socket:
        assert [each["status"] for each in (await socket.hello())["sessions"]] == ["starting"]
        session_id = await starting
        assert (await socket.hear("presence", is_agent=True))["session"]["session_id"] == session_id


async def test_a_session_that_its_worker_does_not_know_yet_is_asked_for_again(
    server: Server, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    knock, knocked = Relay.knock, []

    def counted(self: Relay, *args: Any) -> Any:
        knocked.append(args)
        return knock(self, *args)

    monkeypatch.setattr(Relay, "knock", counted)
    await far.start("another")
    worker = await Worker.objects.exclude(pk=current_worker().id).aget()  # type: ignore[union-attr]
    # Claimed a moment ago; its worker is about to begin it.
    row = await AgentSession.objects.acreate(call_id="my-call", status="starting", worker=worker)
    async with server.socket() as socket:
        socket.send("hello", v=1)
        await until(lambda: len(knocked) >= 2)
        assert socket.received == []
        await far.start()
        assert len((await socket.hear("welcome"))["sessions"]) == 1
    await AgentSession.objects.filter(pk=row.pk).adelete()


async def test_a_session_that_its_worker_never_knows_keeps_people_out(server: Server, far: Far) -> None:
    await far.start("another")
    worker = await Worker.objects.exclude(pk=current_worker().id).aget()  # type: ignore[union-attr]
    row = await AgentSession.objects.acreate(call_id="my-call", status="active", worker=worker)
    async with server.socket() as socket:
        assert await socket.refused() == ("elsewhere", 4409)
    await AgentSession.objects.filter(pk=row.pk).adelete()


async def test_where_the_first_worker_of_a_call_does_not_answer_another_one_does(server: Server, far: Far) -> None:
    silent = await Worker.objects.acreate(hostname="another", pid=1)
    row = await AgentSession.objects.acreate(call_id="my-call", status="active", worker=silent)
    session_id = await far.start()
    async with server.socket() as socket:
        assert [each["session_id"] for each in (await socket.hello())["sessions"]] == [session_id]
    async with guest(server) as socket:
        assert await socket.refused(token=await token_for(str(row.pk))) == ("elsewhere", 4409)


async def test_a_call_that_ends_for_everybody_ends_for_those_who_are_relayed(server: Server, far: Far) -> None:
    await far.start()
    async with server.socket() as socket:
        await socket.hello()
        await far.tell("end_call my-call")
        assert (await socket.hear("session"))["end_reason"] == "finished"
        assert await socket.end() == ("call_ended", 4410)


# Rooms without an agent


async def test_who_waits_for_an_agent_follows_to_the_worker_where_it_comes(server: Server, far: Far) -> None:
    async with server.socket() as one, server.socket() as two:
        assert (await one.hello(name="One", moves=True))["sessions"] == []
        await two.hello(name="Two", moves=True)
        session_id = await far.start()
        for socket in (one, two):
            assert [each["session_id"] for each in (await socket.hear("welcome"))["sessions"]] == [session_id]
        await far.until_people("One", "Two")
        assert find_room("default", "my-call") is None
        one.send("say", id=1, text="hello")
        assert (await two.hear("words", role="assistant", completed=True))["text"] == "You said: hello"


async def test_a_client_that_knows_of_no_moves_is_told_to_come_again(server: Server, far: Far) -> None:
    async with server.socket() as socket:
        await socket.hello()
        await far.start()
        assert await socket.end() == ("going_away", 4503)
    async with server.socket() as socket:
        assert len((await socket.hello())["sessions"]) == 1


async def test_it_is_noticed_by_the_poll_too_and_there_and_back(
    server: Server, far: Far, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "POLL_INTERVAL": 0.2}
    monkeypatch.setattr(relocation, "get_link", lambda: None)
    async with server.socket() as socket:
        await socket.hello(name="Caller", moves=True)
        await far.start()
        assert len((await socket.hear("welcome"))["sessions"]) == 1
        await far.tell("close my-call")
        await socket.hear("session")
        assert await far.people() == ["Caller"]  # they wait there now
        session = await server.start()
        assert [each["session_id"] for each in (await socket.hear("welcome"))["sessions"]] == [session.id]
        await far.until_people()
        room = find_room("default", "my-call")
        assert room is not None
        assert len(room.people) == 1


async def on_the_way(far: Far, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Start an agent there, and return when somebody is on the way to it. They get there when the event is set."""
    go, going = asyncio.Event(), asyncio.Event()

    async def slow_home_of(*args: Any, **options: Any) -> Any:
        going.set()
        await go.wait()
        return await home_of(*args, **options)

    monkeypatch.setattr(client, "home_of", slow_home_of)
    await far.start()
    await going.wait()
    return go


async def test_what_is_said_on_the_way_is_said_when_they_are_there(
    server: Server, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server.socket() as socket:
        await socket.hello(moves=True)
        go = await on_the_way(far, monkeypatch)
        for number in range(3):
            socket.send("say", id=number, text=f"hello {number}")
        go.set()
        for number in range(3):
            assert (await socket.hear("words", role="user"))["text"] == f"hello {number}"


@pytest.mark.parametrize("kind", ["offer", "pcm"])
async def test_media_asked_for_on_the_way_are_not_begun_in_the_new_room(
    server: Server, far: Far, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async with server.socket() as socket:
        await socket.hello(moves=True)
        go = await on_the_way(far, monkeypatch)
        socket.send(kind, id="before", sdp="v=0", on=True)
        go.set()
        await socket.hear("welcome")
        socket.send(kind, id="after", sdp="v=0", on=False)

        def answers() -> list[tuple[Any, Any]]:
            found = [each for each in socket.received if each["type"] in {"pcm", "error", "answer"}]
            return [(each.get("id"), each.get("on")) for each in found]

        last = ("after", None) if kind == "offer" else (None, False)
        await until(lambda: last in answers())
        assert answers() == [last]


async def test_who_is_led_on_while_being_let_in_is_let_in_where_the_agent_is(
    server: Server, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead_on_at_once(monkeypatch)
    await far.start()
    async with server.socket() as socket:
        await socket.hello(name="Caller", moves=True)
        await socket.hear("welcome")
        socket.send("say", id=1, text="hello")
        assert (await socket.hear("words", role="assistant", completed=True))["text"] == "You said: hello"
        await far.until_people("Caller")
    await far.until_people()


async def test_who_is_led_on_while_moving_moves_on_and_loses_no_words(
    server: Server, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server.socket() as socket:
        await socket.hello(name="Caller", moves=True)
        lead_on_at_once(monkeypatch)
        await far.start()
        await socket.hear("welcome")
        await socket.hear("welcome")
        socket.send("say", id=1, text="hello")
        assert (await socket.hear("words", role="assistant", completed=True))["text"] == "You said: hello"
        await far.until_people("Caller")
    await far.until_people()


async def test_who_is_led_on_while_being_let_in_and_knows_of_no_moves_is_told_to_come_again(
    server: Server, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead_on_at_once(monkeypatch)
    await far.start()
    async with server.socket() as socket:
        assert await socket.refused() == ("going_away", 4503)
    await far.until_people()


def lead_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the next worker that lets somebody in from here say in the same breath that the agent is elsewhere now."""
    take_text, led = RelayedClient.take_text, []

    def take_text_and_go(self: RelayedClient, text: str) -> None:
        take_text(self, text)
        if not led:
            led.append(self)
            self.over(MOVED, "")

    monkeypatch.setattr(RelayedClient, "take_text", take_text_and_go)


async def test_nobody_looks_for_agents_elsewhere_while_there_is_one_here(server: Server, far: Far) -> None:
    await server.start()
    async with server.socket() as socket:
        await socket.hello(moves=True)
        follower = relocation.get_follower()
        assert follower._leave_group is None
        await far.start()
        socket.send("say", id=1, text="hello")
        await socket.hear("words", role="assistant", completed=True)
        assert await far.people() == []


async def test_a_worker_that_drains_waits_for_those_who_talk_through_it(server: Server, far: Far) -> None:
    await far.start()
    worker = current_worker()
    assert worker is not None
    async with server.socket() as socket:
        await socket.hello(name="Caller")
        draining = asyncio.create_task(worker.drain(60))
        await until(lambda: worker.draining)
        socket.send("say", id=1, text="still there?")
        assert (await socket.hear("words", role="assistant", completed=True))["text"] == "You said: still there?"
        assert not draining.done()
        socket.send("leave")
        await socket.end()
    await draining
