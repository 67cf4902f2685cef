"""Invitations: whom a signed token lets in, and who may hand one out."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest
from django.db.models.functions import Now

from tests.api.fixtures import Serve
from tests.asgi_client import REMOTE, Client
from tests.auth.permissions.test_users import ORIGIN, sign_in
from visionagents_runner import ServeOptions
from visionagents_runner.auth.tokens import read_join_token
from visionagents_runner.models import AgentSession, EndReason


async def start(client: Client, call_id: str = "my-call", **options: Any) -> str:
    answer = await client.post("/sessions", {"call_id": call_id}, **options)
    assert answer.status == 201, answer.body
    return str(answer.json()["session_id"])


async def test_an_invitation_is_bound_to_its_session_call_role_and_time(client: Client) -> None:
    session_id = await start(client, "a/b")
    body = {"role": "listener", "name": "Guest", "expires_in": 60}
    answer = await client.post(f"/sessions/{session_id}/invitations", body)
    assert answer.status == 201
    told = answer.json()
    token = read_join_token(told["token"])
    assert (token.session_id, token.call_type, token.call_id) == (session_id, "default", "a/b")
    assert (token.role, token.name) == ("listener", "Guest")
    assert told["role"] == "listener"
    assert told["url"] == f"http://localhost:8000/call/default/a%2Fb/#token={told['token']}"
    assert datetime.fromisoformat(told["expires_at"]) == token.expires_at
    assert 50 < token.expires_at.timestamp() - time.time() <= 60


async def test_what_is_left_out_has_a_default(client: Client, settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "JOIN_TOKEN_SECONDS": 120}
    session_id = await start(client)
    for path in (f"/sessions/{session_id}/invitations", f"/sessions/{session_id}/invitations/"):
        answer = await client.post(path)
        assert answer.status == 201
        token = read_join_token(answer.json()["token"])
        assert (token.role, token.name) == ("speaker", "")
        assert 110 < token.expires_at.timestamp() - time.time() <= 120


@pytest.mark.parametrize(
    "body",
    [
        {"role": "host"},
        {"expires_in": 0},
        {"expires_in": 10**9},
        {"expires_in": "60"},
        {"expires_in": True},
        {"name": "n" * 81},
        {"name": None},
        [],
    ],
)
async def test_malformed_input_is_refused(client: Client, body: Any) -> None:
    session_id = await start(client)
    assert (await client.post(f"/sessions/{session_id}/invitations", body)).status == 422


async def test_nobody_is_invited_to_a_session_that_has_ended(client: Client) -> None:
    session_id = await start(client)
    await client.delete(f"/sessions/{session_id}")
    assert (await client.post(f"/sessions/{session_id}/invitations")).status == 409
    row = await AgentSession.objects.acreate(call_id="past")
    await AgentSession.objects.filter(pk=row.pk).aupdate(status="closed", end_reason=EndReason.FINISHED, ended_at=Now())
    assert (await client.post(f"/sessions/{row.pk}/invitations")).status == 409
    assert (await client.post("/sessions/unknown/invitations")).status == 404


async def test_who_may_not_start_sessions_may_not_invite(serve: Serve) -> None:
    client = await serve()
    starter, _ = await sign_in(client, "start_agentsession", name="starter")
    session_id = await start(starter, headers=ORIGIN)
    path = f"/sessions/{session_id}/invitations"
    assert (await starter.post(path, headers=ORIGIN)).status == 201
    assert (await starter.post(path)).status == 403  # no Origin
    other, _ = await sign_in(client, "start_agentsession", name="other")
    assert (await other.post(path, headers=ORIGIN)).status == 404
    viewer, _ = await sign_in(client, "view_agentsession", name="viewer")
    for each in (path, "/sessions/unknown/invitations"):
        assert (await viewer.post(each, headers=ORIGIN)).status == 403
        assert (await client.like(peer=REMOTE, host="agents.example").post(each)).status == 401


async def test_the_projects_own_rules_apply(serve: Serve, allow_local: None) -> None:
    asked: list[Any] = []

    def can_start_session(request: Any, call_id: str, session_id: str | None) -> None:
        asked.append((call_id, session_id))

    def can_view_session(session_id: str | None) -> bool:
        return session_id != hidden

    hidden = ""
    client = await serve(ServeOptions(can_start_session=can_start_session, can_view_session=can_view_session))
    session_id = await start(client)
    assert (await client.post(f"/sessions/{session_id}/invitations")).status == 201
    assert asked[-1] == ("my-call", session_id)
    hidden = session_id
    assert (await client.post(f"/sessions/{session_id}/invitations")).status == 403
