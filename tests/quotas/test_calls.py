"""What one person, invitation, user or call may have of a call: places, and what is sent to it."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

import pytest

from tests.asgi_client import REMOTE
from tests.conftest import until
from tests.websockets.calls import relayed
from tests.websockets.calls.client import Socket
from tests.websockets.calls.conftest import Serve, Server, allow_local, serve, server
from tests.websockets.feeds.conftest import cookie
from visionagents_runner import quotas
from visionagents_runner.auth.tokens import make_join_token
from visionagents_runner.edge import BrowserCustomEvent, Person, find_room, join_room
from visionagents_runner.exceptions import TooMany
from visionagents_runner.quotas import holdings
from visionagents_runner.websockets.calls.access import Admission
from visionagents_runner.websockets.calls.relay import _read_guest

pytestmark = pytest.mark.slow

__all__ = ["allow_local", "serve", "server"]

redis_layer, far = relayed.redis_layer, relayed.far


async def full(socket: Socket, **hello: Any) -> str:
    """Say hello; return why there is no place."""
    assert await socket.refused(**hello) == ("full", 4429)
    return str(socket.received[-1]["detail"])


async def sent(socket: Socket, times: int, kind: str, **message: Any) -> list[str]:
    """Send a message so often, one after the other is answered; return the codes of what was refused."""
    codes = []
    for number in range(times):
        socket.send(kind, id=number, **message)
        await socket._until(lambda n=number: any(_answers(each, n) for each in socket.received))
        answer = next(each for each in socket.received if _answers(each, number))
        socket.received.clear()
        if answer["type"] == "error":
            assert not answer["fatal"]
            codes.append(answer["code"])
    return codes


def _answers(message: Any, reference: int) -> bool:
    return isinstance(message, dict) and message.get("id") == reference


# Places


async def test_all_who_come_with_one_invitation_share_its_places(server: Server, limit: Any) -> None:
    limit(seats_per_identity=2)
    session = await server.start()
    first, second = make_join_token(session), make_join_token(session, name="Other")
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(server.socket()) for _ in range(2)]
        for socket in sockets:
            await socket.hello(token=first)
        async with server.socket() as socket:
            assert "All places of this invitation are taken (2)" in await full(socket, token=first)
        async with server.socket() as socket:
            await socket.hello(token=second)
        sockets[0].vanish()
        await sockets[0].task
        async with server.socket() as socket:
            await socket.hello(token=first)
    assert quotas.refused()["seats", "invitation"] == 1


async def test_an_invitation_may_be_for_more_or_fewer(server: Server, limit: Any) -> None:
    limit(seats_per_identity=2)
    session = await server.start()
    for seats in (1, 3):
        token = make_join_token(session, seats=seats)
        async with AsyncExitStack() as stack:
            for _ in range(seats):
                await (await stack.enter_async_context(server.socket())).hello(token=token)
            async with server.socket() as socket:
                assert f"({seats})" in await full(socket, token=token)


async def test_a_user_has_so_many_places_from_wherever_they_come(serve: Serve, limit: Any) -> None:
    limit(seats_per_identity=1)
    server = await serve()
    for name, others in (("one", ()), ("two", ("view_agentsession",))):
        _, sent = await cookie("start_agentsession", *others, name=name)
        headers = {"cookie": sent, "origin": "http://localhost:8000"}
        async with server.socket(peer=REMOTE, headers=headers) as first, server.socket(headers=headers) as second:
            await first.hello()
            assert "One user has 1 places on a call" in await full(second)
            async with server.socket("/ws/calls/default/other/", headers=headers) as elsewhere:
                await elsewhere.hello()


async def test_guests_leave_places_to_those_who_need_no_invitation(server: Server, limit: Any, settings: Any) -> None:
    limit(seats_kept=1)
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "MAX_PEOPLE_PER_CALL": 3}
    session = await server.start()
    tokens = [make_join_token(session, name=str(number)) for number in range(3)]
    async with AsyncExitStack() as stack:
        for token in tokens[:2]:
            await (await stack.enter_async_context(server.socket())).hello(token=token)
        async with server.socket() as socket:
            assert "The places for guests are taken (2)" in await full(socket, token=tokens[2])
        owner = await stack.enter_async_context(server.socket())
        await owner.hello()
        async with server.socket() as socket:
            assert "as many people as it takes (3)" in await full(socket)
    assert quotas.refused()["seats", "call"] == 1


async def test_coming_and_going_is_told_to_everybody_so_often_only(server: Server, limit: Any) -> None:
    limit(joins_per_identity="1/m burst 2")
    token = make_join_token(await server.start())
    for _ in range(2):
        async with server.socket() as socket:
            await socket.hello(token=token)
    async with server.socket() as socket:
        assert await socket.refused(token=token) == ("too_many", 4429)
        assert re.search(r"Try again in [3-6]\d s$", socket.received[-1]["detail"])


# What is sent


async def test_a_guest_types_as_fast_as_people_do(server: Server, limit: Any) -> None:
    limit(turns_per_person="30/m burst 3")
    token = make_join_token(await server.start())
    async with server.socket() as socket, server.socket() as other:
        await socket.hello(token=token)
        await other.hello(token=token)
        assert await sent(socket, 6, "say", text="hello") == ["too_fast"] * 3
        assert await sent(other, 1, "say", text="hello") == []
        assert socket.closed is None
    assert quotas.refused()["turns", "person"] == 3


async def test_two_people_with_one_invitation_are_no_faster_than_it(server: Server, limit: Any) -> None:
    limit(turns_per_identity="1/m burst 3")
    session = await server.start()
    token, other = make_join_token(session), make_join_token(session, name="Other")
    async with server.socket() as first, server.socket() as second, server.socket() as third:
        for socket, invitation in ((first, token), (second, token), (third, other)):
            await socket.hello(token=invitation)
        assert await sent(first, 2, "say", text="hello") == []
        assert await sent(second, 3, "say", text="hello") == ["too_fast"] * 2
        assert await sent(third, 1, "say", text="hello") == []
    assert quotas.refused()["turns", "invitation"] == 2


async def test_a_call_and_a_worker_ask_models_so_often_only(server: Server, limit: Any) -> None:
    limit(turns_per_call="1/m burst 2", turns_per_worker="1/m burst 3")
    await server.start()
    await server.start("other")
    async with server.socket() as first, server.socket("/ws/calls/default/other/") as second:
        for socket in (first, second):
            await socket.hello()
        assert await sent(first, 3, "say", text="hello") == ["too_fast"]
        assert await sent(second, 2, "say", text="hello") == ["too_fast"]
    assert quotas.refused()["turns", "call"] == 1
    assert quotas.refused()["turns", "worker"] == 1


async def test_muting_which_all_are_told_has_a_limit(server: Server, limit: Any) -> None:
    limit(mutes_per_person="1/m burst 3")
    async with server.socket() as socket, server.socket() as other:
        for each in (socket, other):
            await each.hello()
        for number in range(8):
            socket.send("mute", muted=number % 2 == 0)
        for _ in range(5):
            assert (await socket.hear("error"))["code"] == "too_fast"
        other.send("dance")
        await other.hear("error")
        told = [each for each in other.received if each["type"] == "participant"]
        assert len(told) <= 4


async def test_connections_for_media_are_made_so_often_only(server: Server, limit: Any) -> None:
    limit(media_per_person="1/m burst 3")
    async with server.socket() as socket:
        await socket.hello()
        for on in (True, False, True, False):
            socket.send("pcm", on=on)
        socket.send("offer", id=1, sdp="v=0")
        assert (await socket.hear("error", id=1))["code"] == "bad_offer"
        for kind, message in (("offer", {"sdp": "v=0"}), ("pcm", {"on": True})):
            socket.send(kind, id=2, **message)
            problem = await socket.hear("error", code="too_fast", id=2)
            assert "new connections for media: one person" in problem["detail"]


async def test_only_so_many_offers_are_worked_on_at_once(
    server: Server, limit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(media_per_worker=2)
    at_once = most = done = 0
    go_on = asyncio.Event()

    async def negotiate(self: Person, sdp: str) -> str:
        nonlocal at_once, most, done
        at_once += 1
        most = max(most, at_once)
        await go_on.wait()
        at_once -= 1
        done += 1
        return "v=0"

    monkeypatch.setattr(Person, "negotiate", negotiate)
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(server.socket()) for _ in range(5)]
        for socket in sockets:
            await socket.hello()
            socket.send("offer", sdp="v=0")
        await until(lambda: at_once == 2)
        go_on.set()
        for socket in sockets:
            await socket.hear("answer")
    assert (most, done) == (2, 5)


async def test_custom_events_are_counted_together_whichever_way_they_come(server: Server, limit: Any) -> None:
    limit(events_per_person="1/m burst 3")
    session = await server.start()
    heard: list[Any] = []

    async def listen(event: BrowserCustomEvent) -> None:
        heard.append(event.data["n"])

    session.agent.edge.events.subscribe(listen)
    async with server.socket() as socket:
        await socket.hello()
        room = find_room("default", "my-call")
        assert room is not None
        (person,) = room.people.values()
        for number in range(2):
            person.media.channel_message(json.dumps({"type": "custom", "data": {"n": number}}))
        for number in range(2, 5):
            socket.send("custom", data={"n": number})
        for _ in range(2):
            assert (await socket.hear("error"))["code"] == "too_fast"
        person.media.channel_message(json.dumps({"type": "custom", "data": {"n": 9}}))
        await until(lambda: len(heard) >= 3)
        assert heard == [0, 1, 2]
        with pytest.raises(TooMany):
            person.receive_custom({"n": 10})


async def test_who_is_put_into_a_room_by_code_has_no_share_of_a_number(limit: Any) -> None:
    limit(seats_per_identity=1)
    people = [join_room("default", "by-code", "robot") for _ in range(5)]
    for person in people:
        person.leave()


# At another worker


async def test_places_and_turns_are_counted_where_the_agent_is_by_whoever_has_the_socket(
    redis_layer: str, server: Server, far: relayed.Far
) -> None:
    session_id = await far.start()
    from visionagents_runner.models import AgentSession

    row = await AgentSession.objects.aget(pk=session_id)
    token = make_join_token(row)
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(server.socket()) for _ in range(4)]
        for socket in sockets:
            await socket.hello(token=token)
        async with server.socket() as socket:
            assert "All places of this invitation are taken (4)" in await full(socket, token=token)
        async with server.socket() as socket:
            await socket.hello(token=make_join_token(row, name="Other"))
        assert await sent(sockets[0], 6, "say", text="hello") == ["too_fast"]  # burst 5
        assert await sent(sockets[1], 5, "say", text="hello") == []
        assert await sent(sockets[2], 1, "say", text="hello") == ["too_fast"]  # burst 10 of the invitation
    assert holdings.held("sockets", "worker") == 0


def test_whoever_comes_from_an_older_version_has_no_identity_and_is_let_in() -> None:
    told = asdict(Admission("speaker", "7", "name"))
    for field in ("identity", "seats"):
        del told[field]
    guest = _read_guest({"call": ["default", "my-call"], "admission": told, "name": "name", "agents": []})
    assert (guest.admission.identity, guest.admission.seats) == (None, None)
