"""Who gets through which door, by what is on the call: every cell follows from the words of its row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.db.models.functions import Now

from tests.asgi_client import REMOTE, Client
from tests.auth.keys.fixtures import afresh, make_key
from tests.auth.permissions.test_users import sign_in
from tests.websockets.calls import conftest as signalling
from tests.websockets.calls import relayed
from tests.websockets.calls.conftest import Serve, Server
from tests.websockets.calls.relayed import far_process
from visionagents_runner import ServeOptions
from visionagents_runner.asgi.lean import LeanAPI
from visionagents_runner.auth.tokens import make_join_token
from visionagents_runner.edge import find_room
from visionagents_runner.models import AgentKey, AgentSession

pytestmark = pytest.mark.slow

__all__ = ["afresh"]

serve, redis_layer = signalling.serve, relayed.redis_layer

ME, OTHER = "me", "other"
NOBODY, MAY_NOT = 401, 403
CLOSES = {NOBODY: ("sign_in", 4401), MAY_NOT: ("not_allowed", 4403)}


@dataclass(frozen=True)
class Who:
    """What the rule's words come down to, for one kind of people."""

    words: str
    permissions: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    starts: bool = False
    reads: bool = False
    speaks: bool = False
    views: bool = True
    """Whether they may look at sessions at all: at their own, if not at all of them."""
    sees_all: bool = False
    has_name: bool = True
    refusal: int = MAY_NOT
    fields: dict[str, Any] = field(default_factory=dict)
    spoil: Callable[[Any], None] = lambda who: None
    options: ServeOptions | None = None
    guest: str = ""

    def sees(self, owner: str) -> bool:
        return self.sees_all or (self.has_name and owner == ME)

    def finds_open(self, owners: tuple[str, ...]) -> bool:
        return all(map(self.sees, owners)) or (self.has_name and ME in owners)


def revoke(row: AgentKey) -> None:
    AgentKey.objects.filter(pk=row.pk).update(revoked_at=Now())


def expire(row: AgentKey) -> None:
    AgentKey.objects.filter(pk=row.pk).update(expires_at=Now())


def switch_off(user: Any) -> None:
    get_user_model().objects.filter(pk=user.pk).update(is_active=False)


def let_in() -> bool:
    return True


NOTHING: dict[str, Any] = {"views": False, "has_name": False, "refusal": NOBODY}
WHO = {
    "anonymous": Who("Nobody is let in who does not say who they are.", **NOTHING),
    "guest speaker": Who("An invitation opens its call, to speak, and no other door.", guest="speaker", **NOTHING),
    "guest listener": Who("An invitation opens its call, to listen, and no other door.", guest="listener", **NOTHING),
    "user": Who("Without a permission one looks at one's own sessions."),
    "starter": Who(
        "May start, and be on calls that are empty or have a session of theirs.",
        permissions=("start_agentsession",),
        starts=True,
    ),
    "starter who speaks": Who(
        "May say and respond in their own sessions too.",
        permissions=("start_agentsession", "speak_agentsession"),
        starts=True,
        speaks=True,
    ),
    "reader of their own": Who("May read, and hear, what is theirs.", permissions=("view_transcript",), reads=True),
    "viewer": Who("May look at all, and hear nothing.", permissions=("view_agentsession",), sees_all=True),
    "viewer who reads": Who(
        "May look at all and read all, so hear all.",
        permissions=("view_agentsession", "view_transcript"),
        reads=True,
        sees_all=True,
    ),
    "starter who sees all": Who(
        "May be on every call, and speak.",
        permissions=("start_agentsession", "view_agentsession"),
        starts=True,
        sees_all=True,
    ),
    "staff": Who("Being let into the admin is no permission.", fields={"is_staff": True}),
    "superuser": Who(
        "Has every permission.", fields={"is_superuser": True}, starts=True, reads=True, speaks=True, sees_all=True
    ),
    "deactivated user": Who(
        "Is nobody.",
        permissions=("start_agentsession", "view_agentsession", "view_transcript"),
        spoil=switch_off,
        **NOTHING,
    ),
    "key: start": Who("As the starter, for its owner.", scopes=("start",), starts=True),
    "key: start, view": Who("Sees all besides.", scopes=("start", "view"), starts=True, sees_all=True),
    "key: view": Who("Looks at all, and hears nothing.", scopes=("view",), sees_all=True),
    "key: view, transcript": Who("Hears all.", scopes=("view", "transcript"), reads=True, sees_all=True),
    "key: transcript": Who("Reads, and hears, what is its owner's.", scopes=("transcript",), reads=True, views=False),
    "key: speak": Who("Speaks into sessions of its owner.", scopes=("speak",), speaks=True, views=False),
    "key: metrics, close": Who("Nothing of this.", scopes=("metrics", "close"), views=False),
    "revoked key": Who("Is void.", scopes=("start", "view", "transcript"), spoil=revoke, **NOTHING),
    "expired key": Who("Is void.", scopes=("start", "view", "transcript"), spoil=expire, **NOTHING),
    "anonymous, allowed by a callable": Who(
        "May start by the project's rule, sees nothing by it: on a call with a session only by its invitation.",
        options=ServeOptions(can_start_session=let_in),
        **{**NOTHING, "starts": True},
    ),
    "anonymous, shown all by a callable": Who(
        "May start and see what the project's rules say.",
        options=ServeOptions(can_start_session=let_in, can_view_session=let_in),
        **{**NOTHING, "starts": True, "views": True, "reads": True, "sees_all": True},
    ),
    "viewer, allowed to start by a callable": Who(
        "What a rule for starts opens is starting; what they see is by their permission.",
        options=ServeOptions(can_start_session=let_in),
        permissions=("view_agentsession",),
        starts=True,
        sees_all=True,
    ),
}

SCENES: dict[str, tuple[str, ...]] = {
    "empty call": (),
    "own session": (ME,),
    "other's session": (OTHER,),
    "own, and a second one by another": (ME, OTHER),
    "other's, and a second one by a third": (OTHER, OTHER),
}


class Person:
    """Somebody of a row, with a browser or a program of theirs."""

    def __init__(self, server: Server, who: Who, headers: dict[str, str], user: Any, other: Any) -> None:
        self.server = server
        self.who = who
        self.headers = headers
        self.ids = {ME: user.pk, OTHER: other.pk}
        api = Client(LeanAPI(server.runner), peer=REMOTE, host="agents.example", scheme="https")
        self.client = api.like(headers=headers)

    def socket(self, target: str) -> Any:
        return self.server.socket(target, peer=REMOTE, host="agents.example", scheme="wss", headers=self.headers)

    async def comes_in(self, target: str, **hello: Any) -> Any:
        """Return as what they are welcomed, or with which codes they are refused."""
        async with self.socket(target) as socket:
            socket.send("hello", v=1, **hello)
            await socket._until(lambda: bool(socket.received))
            first = socket.received[0]
            return first.get("role", "welcome") if first["type"] == "welcome" else await socket.end()


async def person(serve: Serve, who: Who) -> Person:
    return await person_on(await serve(who.options), who)


async def person_on(server: Server, who: Who, name: str = ME) -> Person:
    client, user = await sign_in(Client(None), *who.permissions, name=name, **who.fields)
    other, _ = await get_user_model().objects.aget_or_create(username=OTHER)
    headers = {"cookie": client.headers["cookie"], "origin": "https://agents.example"}
    if who.scopes:
        row, plain = await sync_to_async(make_key)(*who.scopes, owner=name)
        headers = {"authorization": f"Bearer {plain}"}
        await sync_to_async(who.spoil)(row)
    else:
        await sync_to_async(who.spoil)(user)
    return Person(server, who, {} if not who.has_name and who.spoil is WHO["user"].spoil else headers, user, other)


# The doors: what the rule says of each, and what happens


def call_says(who: Who, owners: tuple[str, ...]) -> Any:
    if who.guest:
        return who.guest if owners else CLOSES[NOBODY]
    opens = who.finds_open(owners)
    if who.starts:
        return "speaker" if opens else CLOSES[MAY_NOT]
    if who.reads and owners and opens:
        return "listener"
    return CLOSES[who.refusal]


async def call_does(me: Person, call_id: str, sessions: list[Any]) -> Any:
    hello = {"token": make_join_token(sessions[0], role=me.who.guest)} if me.who.guest and sessions else {}  # type: ignore[arg-type]
    return await me.comes_in(f"/ws/calls/default/{call_id}/", **hello)


def start_says(who: Who, owners: tuple[str, ...]) -> Any:
    if not who.starts:
        return who.refusal
    return 201 if who.finds_open(owners) else MAY_NOT


async def start_does(me: Person, call_id: str, sessions: list[Any]) -> Any:
    one = await me.client.post("/sessions", {"call_id": call_id})
    if one.status == 201:
        assert ("invitation" in one.json()) == (not me.who.has_name)
        if "invitation" in one.json():
            joined = await me.comes_in(f"/ws/calls/default/{call_id}/", token=one.json()["invitation"])
            assert joined == "speaker"
        assert await end(me, one.json()["session_id"])
    two = await me.client.post(f"/calls/{call_id}/sessions", {})
    assert two.status == one.status
    return one.status


async def end(me: Person, session_id: str) -> bool:
    launcher = me.server.runner.launcher()
    return await launcher.close_session(session_id, wait=True)


ON_CALL: dict[str, tuple[Callable[..., Any], Callable[..., Awaitable[Any]]]] = {
    "call": (call_says, call_does),
    "start": (start_says, start_does),
}


def found(who: Who, owner: str, allowed: bool, success: int) -> int:
    """The answer of a door to one session."""
    if not allowed:
        return who.refusal
    return success if who.sees(owner) else 404


def of_session(me: Person, session: Any, owner: str, owners: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    """Each door to a session: what the rule says, and how it is tried."""
    who, path = me.who, f"/sessions/{session.id}"
    feed = {200: "welcome", 404: ("not_found", 4404), **CLOSES}[found(who, owner, who.views, 200)]
    invited = who.refusal if not who.starts else found(who, owner, who.views, 201)
    if invited == 201 and not who.finds_open(owners):
        invited = MAY_NOT
    return {
        "session": (found(who, owner, who.views, 200), me.client.get(path)),
        "events": (found(who, owner, who.views, 200), me.client.get(f"{path}/events")),
        "transcript": (found(who, owner, who.reads, 200), me.client.get(f"{path}/transcript")),
        "say": (found(who, owner, who.speaks, 202), me.client.post(f"{path}/say", {"text": "hello"})),
        "respond": (found(who, owner, who.speaks, 202), me.client.post(f"{path}/respond", {"text": "hello"})),
        "invitation": (invited, me.client.post(f"{path}/invitations")),
        "session feed": (feed, me.comes_in(f"/ws/sessions/{session.id}/")),
    }


@pytest.mark.parametrize("name", WHO)
async def test_every_door_opens_as_the_rule_says(serve: Serve, settings: Any, name: str) -> None:
    settings.VISIONAGENTS_RUNNER = {
        **settings.VISIONAGENTS_RUNNER,
        "LIMITS": {"turns_per_person": None, "turns_per_identity": None, "turns_per_call": None},
    }
    who = WHO[name]
    me = await person(serve, who)
    said: dict[tuple[str, ...], Any] = {}
    done: dict[tuple[str, ...], Any] = {}
    for scene, owners in SCENES.items():
        call_id = scene.replace(" ", "-").replace(",", "").replace("'", "")
        sessions = [await me.server.start(call_id, started_by_id=me.ids[owner]) for owner in owners]
        for door, (says, does) in ON_CALL.items():
            said[scene, door] = says(who, owners)
            done[scene, door] = await does(me, call_id, sessions)
        if scene not in {"own session", "other's session", "own, and a second one by another"}:
            continue
        for session, owner in zip(sessions, owners, strict=True):
            for door, (says, trying) in of_session(me, session, owner, owners).items():
                answer = await trying
                said[scene, owner, door] = says
                done[scene, owner, door] = getattr(answer, "status", answer)
    said["list feed",] = "welcome" if who.views else CLOSES[who.refusal]
    done["list feed",] = await me.comes_in("/ws/sessions/")
    assert done == said, who.words
    listed = await me.client.get("/sessions?limit=100")
    assert listed.status == (200 if who.views else who.refusal)
    if who.views:
        shown = {item["call_id"] for item in listed.json()["items"]}
        assert ("others-session" in shown) == who.sees_all


@pytest.mark.parametrize("name", [name for name, who in WHO.items() if who.starts or who.guest])
async def test_who_waits_on_a_call_hears_the_session_that_starts_later_only_if_they_may(
    serve: Serve, name: str
) -> None:
    """A session that starts while they are there: the same rule, before its agent hears anybody."""
    who = WHO[name]
    me = await person(serve, who)
    for owner in (ME, OTHER):
        call_id = f"later-{owner}"
        hello = {}
        if who.guest:
            invited = await me.server.start(call_id, started_by_id=me.ids[OTHER])
            hello = {"token": make_join_token(invited, role=who.guest)}  # type: ignore[arg-type]
        async with AsyncExitStack() as stack:
            socket = await stack.enter_async_context(me.socket(f"/ws/calls/default/{call_id}/"))
            await socket.hello(**hello)
            session = await me.server.start(call_id, started_by_id=me.ids[owner])
            if who.guest or who.sees(owner):
                await socket.hear("presence", is_agent=True, participant_id=session.agent.id)
            else:
                assert await socket.end() == CLOSES[MAY_NOT]
            room = find_room("default", call_id)
            assert room is not None
            assert bool(room.people) == (who.guest != "" or who.sees(owner))


async def test_the_same_rule_holds_where_the_agents_are_at_another_worker(redis_layer: str, serve: Serve) -> None:
    server = await serve()
    said: dict[tuple[str, str], Any] = {}
    done: dict[tuple[str, str], Any] = {}
    async with far_process(redis_layer) as far:
        for number, (name, who) in enumerate(WHO.items()):
            if who.options is not None:
                continue
            me = await person_on(server, who, name=f"{ME}-{number}")
            for scene in ("other's session", "own, and a second one by another"):
                call_id = f"{number}-{len(SCENES[scene])}"
                keys = [await far.tell(f"start_for {call_id} {me.ids[owner]}") for owner in SCENES[scene]]
                sessions = [await AgentSession.objects.aget(pk=key) for key in keys]
                said[name, scene] = call_says(who, SCENES[scene])
                done[name, scene] = await call_does(me, call_id, sessions)
    assert done == said
