"""A call over the WebSocket: joining, typing, and what the others learn of it."""

from __future__ import annotations

import pytest

from tests.conftest import until
from tests.websockets.calls.conftest import Server
from visionagents_runner.edge import find_room
from visionagents_runner.models import EndReason
from visionagents_runner.websockets.calls.sessions import end_words


@pytest.mark.smoke
async def test_somebody_joins_types_and_reads_the_answer(server: Server) -> None:
    session = await server.start()
    async with server.socket() as socket:
        welcome = await socket.hello(name="Caller")
        assert welcome["role"] == "speaker"
        assert welcome["name"] == "Caller"
        assert welcome["call"] == {"type": "default", "id": "my-call"}
        assert welcome["may_start"]
        assert welcome["agents"] == ["default"]
        assert welcome["ice_servers"] == []
        assert welcome["limits"] == {"message_bytes": 65536, "text_chars": 4000}
        [told] = welcome["sessions"]
        assert told["session_id"] == session.id
        assert told["agent_id"] == session.agent.id
        assert told["agent_name"] == "Stub agent"
        assert told["models"]["llm"] == "echo/echo"
        assert told["models"]["stt"] is None
        presence = await socket.hear("presence", is_agent=True)
        assert presence["session"] == told
        socket.send("say", id=1, text="hello")
        words = await socket.hear("words", role="user")
        assert (words["text"], words["completed"]) == ("hello", True)
        assert words["participant_id"] == welcome["participant_id"]
        answer = await socket.hear("words", role="assistant", completed=True)
        assert answer["text"] == "You said: hello"
        assert answer["agent_id"] == session.agent.id


async def test_the_others_see_who_comes_and_goes(server: Server) -> None:
    async with server.socket() as one:
        await one.hello(name="One")
        async with server.socket() as two:
            mine = await two.hello(name="Two")
            assert (await two.hear("presence"))["name"] == "One"
            came = await one.hear("presence")
            assert (came["name"], came["here"], came["participant_id"]) == ("Two", True, mine["participant_id"])
        assert not (await one.hear("presence", name="Two"))["here"]


async def test_who_leaves_is_closed_in_order(server: Server) -> None:
    async with server.socket() as socket:
        await socket.hello()
        socket.send("leave")
        assert await socket.end() == ("", 1000)
    assert find_room("default", "my-call") is None


async def test_an_agent_that_comes_later_is_told_of_with_its_session_and_its_end(server: Server) -> None:
    async with server.socket() as socket:
        assert (await socket.hello())["sessions"] == []
        session = await server.start()
        told = await socket.hear("presence", is_agent=True)
        assert told["session"]["session_id"] == session.id
        session.request_close()
        ended = await socket.hear("session")
        assert (ended["session_id"], ended["status"], ended["end_reason"]) == (session.id, "closed", "requested")
        assert ended["end_words"] == end_words(EndReason.REQUESTED)
        assert socket.closed is None


async def test_a_call_that_is_ended_for_everybody_closes_the_sockets(server: Server) -> None:
    await server.start()
    async with server.socket() as socket:
        await socket.hello()
        room = find_room("default", "my-call")
        assert room is not None
        room.end()
        assert (await socket.hear("session"))["end_reason"] == "finished"
        assert await socket.end() == ("call_ended", 4410)


async def test_who_vanishes_is_gone_from_the_room(server: Server) -> None:
    async with server.socket() as socket:
        await socket.hello()
        socket.vanish()
        await until(lambda: find_room("default", "my-call") is None)
