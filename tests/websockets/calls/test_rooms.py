"""Nobody hears a call that is not theirs to hear: not by being there first, and not by a session of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission

from tests.asgi_client import REMOTE, Client
from tests.auth.keys.fixtures import afresh
from tests.conftest import until
from tests.websockets.calls import relayed
from tests.websockets.calls.conftest import Serve, Server
from tests.websockets.calls.relayed import Far, far_process
from tests.websockets.calls.test_access import as_user, refusal, remote
from tests.websockets.calls.test_guests import ARGUMENT, HIDDEN, create_agent, heard
from visionagents_runner import ServeOptions
from visionagents_runner.asgi.lean import LeanAPI
from visionagents_runner.auth import recheck
from visionagents_runner.auth.tokens import make_join_token
from visionagents_runner.dispatch.dispatch import dispatch
from visionagents_runner.edge import find_room
from visionagents_runner.exceptions import CallHidden
from visionagents_runner.models import AgentSession
from visionagents_runner.store import calls, session_limits, session_rows
from visionagents_runner.websockets.calls import access, member
from visionagents_runner.websockets.calls.other_worker import Lane

pytestmark = pytest.mark.slow

__all__ = ["afresh"]

redis_layer = relayed.redis_layer
SHUT = ("not_allowed", 4403)


@pytest.fixture(autouse=True)
def no_rechecks(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would find out in the end too: here nobody may hear a word before."""
    monkeypatch.setattr(recheck, "RECHECK_SECONDS", 3600.0)


def api(server: Server, how: dict[str, Any]) -> Client:
    return Client(LeanAPI(server.runner), peer=REMOTE, host="agents.example", scheme="https", headers=how["headers"])


async def starter(server: Server, *more: str, name: str = "starter") -> tuple[dict[str, Any], Any]:
    return await as_user(server, "start_agentsession", *more, name=name)


async def other() -> Any:
    return await sync_to_async(get_user_model().objects.create_user)("other")


def people() -> list[str]:
    room = find_room("default", "my-call")
    return [person.name for person in room.people.values()] if room is not None else []


# Being there first


async def test_who_waits_on_an_empty_call_has_left_before_the_agent_of_another_comes(serve: Serve) -> None:
    server = await serve()
    first, _ = await starter(server)
    second, owner = await starter(server, name="owner")
    async with server.socket(**first) as eavesdropper, server.socket(**second) as mine:
        await eavesdropper.hello(name="Eavesdropper")
        await mine.hello(name="Owner")
        session = await server.start(started_by_id=owner.pk)
        assert people() == ["Owner"]
        assert await eavesdropper.end() == SHUT
        assert eavesdropper.received[-1]["detail"] == "You may not see every session of this call"
        assert not [each for each in eavesdropper.received if each.get("is_agent") or each["type"] == "session"]
        await mine.hear("presence", is_agent=True)
        mine.send("say", id=1, text="a secret")
        await mine.hear("words", role="assistant", completed=True)
        assert "Eavesdropper" not in str(session.agent.conversation.messages)
        assert await refusal(server, **first) == SHUT


async def test_who_comes_while_the_others_are_judged_is_judged_with_the_new_session_in_mind(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their look at the call came before the session, their coming in after it."""
    server = await serve()
    how, _ = await starter(server)
    owner = await other()
    looked, go_on = asyncio.Event(), asyncio.Event()
    real = access.Judge.admit

    async def admit(judge: access.Judge) -> access.Admission:
        admission = await real(judge)
        looked.set()
        await go_on.wait()
        return admission

    monkeypatch.setattr(access.Judge, "admit", admit)
    async with server.socket(**how) as socket:
        socket.send("hello", v=1)
        await looked.wait()
        await server.start(started_by_id=owner.pk)
        go_on.set()
        assert await socket.end() == SHUT
        assert [each["type"] for each in socket.received] == ["error"]
        assert people() == []


@pytest.mark.parametrize("how_it_fails", ["silence", "no database"])
async def test_who_cannot_be_judged_in_time_has_to_come_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, how_it_fails: str
) -> None:
    from django.db import OperationalError

    monkeypatch.setattr(member, "VET_SECONDS", 0.05)
    server = await serve()
    how, user = await starter(server)
    async with server.socket(**how) as socket:
        await socket.hello()

        async def confirm(*args: Any) -> None:
            if how_it_fails == "no database":
                raise OperationalError("gone")
            await asyncio.Event().wait()

        monkeypatch.setattr(access.Judge, "confirm", confirm)
        await server.start(started_by_id=user.pk)
        assert await socket.end() == ("going_away", 4503)
        assert "join again in a moment" in socket.received[-1]["detail"]


async def test_a_session_of_the_projects_rule_is_asked_about_before_its_agent_comes(serve: Serve) -> None:
    hidden = set[str]()

    def can_view_session(session_id: str | None) -> bool:
        return session_id not in hidden

    async def create() -> Any:
        from visionagents_runner.testing import stub_agent

        hidden.update([str(pk) async for pk in AgentSession.objects.values_list("pk", flat=True) if hiding])
        return stub_agent()

    hiding = False
    server = await serve(ServeOptions(can_view_session=can_view_session), create=create)
    how, _ = await starter(server)
    async with server.socket(**how) as socket:
        await socket.hello()
        await server.start()
        await socket.hear("presence", is_agent=True)
        hiding = True
        await server.runner.launcher().start_session("my-call")
        assert await socket.end() == SHUT


async def test_a_session_that_is_dispatched_for_later_shuts_its_call_only_when_its_time_has_come(serve: Serve) -> None:
    from datetime import timedelta

    server = await serve()
    how, _ = await starter(server)
    row = await sync_to_async(dispatch)("my-call", at=timedelta(hours=1), started_by=await other())
    async with server.socket(**how) as socket:
        await socket.hello()
    await AgentSession.objects.filter(pk=row.pk).aupdate(attempts=1)  # it was due, and a limit holds it back
    assert await refusal(server, **how) == SHUT


# A session of one's own


@pytest.mark.parametrize("path", ["/sessions", "/calls/my-call/sessions"])
@pytest.mark.parametrize("full", [False, True])
async def test_nobody_starts_a_session_on_a_call_that_is_hidden_from_them(serve: Serve, path: str, full: bool) -> None:
    server = await serve(**({"max_concurrent_sessions": 1} if full else {}))
    how, user = await starter(server)
    theirs = await server.start(started_by_id=(await other()).pk)
    answer = await api(server, how).post(path, {"call_id": "my-call"})
    if full:
        assert answer.status == 429
        worker = server.runner.launcher()
        with pytest.raises(CallHidden):
            await session_limits.enqueue(worker.new_row("my-call"), calls.Visible(user.pk))
    else:
        assert answer.status == 403
        assert answer.detail == "You may not see every session of this call, so you may not start one on it"
    assert await AgentSession.objects.acount() == 1
    theirs.request_close()
    await theirs.wait_ended()
    assert (await api(server, how).post(path, {"call_id": "my-call"})).status == 201
    async with server.socket(**how) as socket:
        await socket.hello()


async def test_the_owner_of_the_first_session_is_not_locked_out_by_a_second_one(serve: Serve) -> None:
    server = await serve()
    how, user = await starter(server)
    await server.start(started_by_id=user.pk)
    await server.start(started_by_id=(await other()).pk)
    for _ in range(2):
        async with server.socket(**how) as socket:
            assert len((await socket.hello())["sessions"]) == 2
    assert (await api(server, how).post("/sessions", {"call_id": "my-call"})).status == 201


async def test_who_is_there_by_a_session_of_their_own_learns_of_others_what_can_be_heard(serve: Serve) -> None:
    server = await serve(create=create_agent)
    how, user = await starter(server)
    viewer, _ = await as_user(server, "start_agentsession", "view_agentsession", name="viewer")
    mine = await server.start(started_by_id=user.pk, metadata={"lead": "of mine"})
    theirs = await server.start(started_by_id=(await other()).pk, metadata={"lead": ARGUMENT})
    async with server.socket(**how) as socket, server.socket(**viewer) as sees_all:
        told = {each["session_id"]: each for each in (await socket.hello())["sessions"]}
        assert told[mine.id]["metadata"] == {"lead": "of mine"}
        assert "metadata" not in told[theirs.id]
        assert told[theirs.id]["models"] == {}
        await sees_all.hello()
        await theirs.agent.simple_response("go")
        for client in (socket, sees_all):
            await until(lambda client=client: '"text": "Done.", "completed": true' in heard(client))
        assert [word for word in HIDDEN if word in heard(sees_all)] == list(HIDDEN)
        assert not [word for word in HIDDEN if word in heard(socket)]
        await mine.agent.simple_response("go")
        await socket.hear("happening", kind="tool_ended")


async def test_of_two_who_start_at_once_on_an_empty_call_one_is_refused(serve: Serve) -> None:
    server = await serve()
    one, _ = await starter(server, name="one")
    two, _ = await starter(server, name="two")
    for number in range(3):
        call = {"call_id": f"call-{number}"}
        answers = await asyncio.gather(*(api(server, how).post("/sessions", call) for how in (one, two)))
        assert sorted(answer.status for answer in answers) == [201, 403]


async def test_the_projects_rule_is_asked_about_a_session_that_came_while_it_was_asked(serve: Serve) -> None:
    asked: list[str | None] = []

    async def can_view_session(session_id: str | None) -> bool:
        asked.append(session_id)
        if len(asked) == 1:
            await server.start()
        return len(asked) == 1

    server = await serve(ServeOptions(can_view_session=can_view_session))
    how, _ = await starter(server)
    seen = await server.start()
    answer = await api(server, how).post("/sessions", {"call_id": "my-call"})
    assert answer.status == 403
    assert asked[0] == seen.id
    assert await AgentSession.objects.acount() == 2


async def test_who_starts_without_a_name_is_given_an_invitation_to_it(serve: Serve) -> None:
    server = await serve(ServeOptions(can_start_session=lambda: True))
    how = remote()
    async with server.socket(**how) as socket:
        await socket.hello()
        answer = await api(server, how).post("/sessions", {"call_id": "my-call"})
        assert await socket.end() == SHUT
    token = answer.json()["invitation"]
    async with server.socket(**how) as socket:
        assert (await socket.hello(token=token))["role"] == "speaker"
    assert (await api(server, how).post("/sessions", {"call_id": "my-call"})).status == 403


# An invitation


async def test_nobody_invites_to_a_call_that_they_may_not_be_on_themselves(serve: Serve) -> None:
    shown = set[str]()
    server = await serve(ServeOptions(can_view_session=lambda session_id: session_id in shown))
    how, _ = await starter(server)
    one, two = await server.start(), await server.start()
    shown.add(one.id)
    answer = await api(server, how).post(f"/sessions/{one.id}/invitations")
    assert (answer.status, answer.detail) == (
        403,
        "You may not see every session of this call, so you may not invite anybody to it",
    )
    shown.add(two.id)
    assert (await api(server, how).post(f"/sessions/{one.id}/invitations")).status == 201


async def test_what_is_hidden_by_the_projects_rule_is_hidden_at_the_doors_that_it_has_none_for(serve: Serve) -> None:
    server = await serve(ServeOptions(can_view_session=lambda session_id: False))
    how, user = await as_user(server, "close_agentsession", "view_agentsession", "view_metrics")
    theirs, mine = await server.start(), await server.start(started_by_id=user.pk)
    client = api(server, how)
    assert (await client.delete(f"/sessions/{theirs.id}")).status == 404
    assert (await client.get(f"/sessions/{theirs.id}/metrics")).status == 404
    assert (await client.get(f"/sessions/{mine.id}/metrics")).status == 200
    assert (await client.delete(f"/sessions/{mine.id}")).status == 200


# From another worker


@pytest.fixture
async def here(redis_layer: str, serve: Serve) -> Server:
    return await serve()  # type: ignore[no-any-return]


@pytest.fixture
async def far(redis_layer: str, here: Server) -> AsyncIterator[Far]:
    async with far_process(redis_layer) as far:
        yield far


async def test_the_three_attacks_fail_from_another_worker_too(
    here: Server, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, user = await starter(here)
    # Waiting on the empty call: the agent of another comes elsewhere, and they are judged anew on their way.
    async with here.socket(**how) as socket:
        await socket.hello(moves=True)
        theirs = await far.start()
        assert await socket.end() == SHUT
    assert await far.people() == []
    assert await refusal(here, **how) == SHUT
    # A second session, and an invitation by it.
    assert (await api(here, how).post("/sessions", {"call_id": "my-call"})).status == 403
    assert (await api(here, how).post(f"/sessions/{theirs}/invitations")).status == 404
    # Being in the room there, by a session of their own, when that has ended and another one starts.
    mine = await far.tell(f"start_for own-call {user.pk}")
    async with here.socket("/ws/calls/default/own-call/", **how) as socket:
        await socket.hello(name="Starter")
        await far.until_people("Starter", call_id="own-call")
        socket.send("relay.vouched", n=0)  # no client can answer for itself
        assert await far.tell("start_for own-call 0")  # beside their own it is theirs to hear
        assert await far.people("own-call") == ["Starter"]
        await far.tell(f"close {mine}")
        await far.tell("start_for own-call 0")
        assert await far.people("own-call") == []
        assert await socket.end() == SHUT
        assert next(each for each in socket.received if each["type"] == "error")["code"] == "bad_message"


async def test_people_of_another_worker_are_there_as_long_as_that_one_and_their_hosts_vouch_for_them(
    here: Server, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, owner = await starter(here, name="owner")
    await far.tell(f"start_for own-call {owner.pk}")
    with monkeypatch.context() as older_version:
        older_version.setattr(Lane, "vouch", lambda lane, number: None)
        async with here.socket("/ws/calls/default/own-call/", **how) as socket:
            await socket.hello(name="Owner")
            await far.tell(f"start_for own-call {owner.pk}")
            assert await far.people("own-call") == []
            assert await socket.end() == ("going_away", 4503)
    # Somebody with an invitation, as long as whoever made the session may be on its call.
    monkeypatch.setattr(recheck, "RECHECK_SECONDS", 0.1)
    _, user = await starter(here)
    session_id = await far.tell(f"start_for my-call {user.pk} api")
    row = await session_rows.get_session(session_id)
    assert row is not None
    token = make_join_token(row)
    async with here.socket(**remote()) as socket:
        await socket.hello(token=token)
        await sync_to_async(user.user_permissions.clear)()
        assert await socket.end() == ("void_token", 4410)
    assert await refusal(here, **remote(), hello={"token": token}) == ("void_token", 4410)
    await sync_to_async(user.user_permissions.add)(await Permission.objects.aget(codename="view_transcript"))
    async with here.socket(**remote()) as socket:
        await socket.hello(token=token)
        await sync_to_async(user.delete)()  # and the session is nobody's
        assert await socket.end() == ("void_token", 4410)
