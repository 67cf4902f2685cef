"""A key in the handshake of a WebSocket counts as it does over REST."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import sync_to_async

import tests.agents
from tests.api.test_sessions import elsewhere
from tests.asgi_client import REMOTE
from tests.auth.keys.fixtures import make_key, user
from visionagents_runner.auth import keys
from visionagents_runner.websockets.calls.access import Judge
from visionagents_runner.websockets.protocol import Code, Fatal


def handshake(credential: str, **headers: str) -> dict[str, Any]:
    sent = {"host": "agents.example", "authorization": f"Bearer {credential}", **headers}
    return {
        "type": "websocket",
        "path": "/",
        "scheme": "wss",
        "client": REMOTE,
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
    }


async def join(scope: dict[str, Any]) -> Any:
    return await Judge(scope, tests.agents.runner, ("default", "my-call"), None).admit()


async def test_a_key_that_may_start_may_speak_from_anywhere(transactional_db: None) -> None:
    row, plain = await sync_to_async(make_key)("start")
    for headers in ({}, {"origin": "https://evil.example"}):
        admission = await join(handshake(plain, **headers))
        assert (admission.role, admission.user_id, admission.may_start) == ("speaker", str(row.owner_id), True)
    await written()


async def test_a_key_that_reads_may_listen(transactional_db: None) -> None:
    _, plain = await sync_to_async(make_key)("view", "transcript")
    row = await elsewhere()
    admission = await join(handshake(plain))
    assert (admission.role, admission.may_start) == ("listener", False)
    await row.adelete()
    await written()


@pytest.mark.parametrize("scopes", [("view",), ("transcript",), ("close", "metrics", "speak")])
async def test_a_key_for_something_else_is_refused_alike_whether_there_is_a_call_or_not(
    transactional_db: None, scopes: tuple[str, ...]
) -> None:
    _, plain = await sync_to_async(make_key)(*scopes)
    words = set()
    for _ in range(2):
        with pytest.raises(Fatal) as raised:
            await join(handshake(plain))
        assert raised.value.code is Code.NOT_ALLOWED
        words.add(str(raised.value))
        await elsewhere(started_by=None)
    assert len(words) == 1
    await written()


async def test_a_key_that_may_start_does_not_get_into_calls_of_others(transactional_db: None) -> None:
    _, plain = await sync_to_async(make_key)("start")
    await elsewhere(started_by=await sync_to_async(user)("guest"))
    with pytest.raises(Fatal) as raised:
        await join(handshake(plain))
    assert raised.value.code is Code.NOT_ALLOWED
    await written()


async def test_a_void_key_must_sign_in_even_on_the_same_machine(transactional_db: None, allow_local: None) -> None:
    row, plain = await sync_to_async(make_key)("start", "view", "transcript")
    await sync_to_async(keys.revoke_key)(row, by="operator")
    for credential in (plain, "made-up", ""):
        scope = handshake(credential, host="localhost:8000")
        scope["client"] = ("127.0.0.1", 1)
        scope["headers"] = [pair for pair in scope["headers"] if pair != (b"host", b"agents.example")]
        with pytest.raises(Fatal) as raised:
            await join(scope)
        assert raised.value.code is Code.SIGN_IN


async def written() -> None:
    import asyncio

    await asyncio.gather(*keys._writing)
