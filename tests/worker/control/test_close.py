"""Closing sessions that another process runs."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import Client as DjangoClient

from tests.admin.conftest import LIST
from tests.asgi_client import Client
from tests.messaging.test_outbox import Inbox
from tests.processes import child
from tests.worker.control.conftest import NOBODY, Server
from tests.worker.control.far import Far, worker_elsewhere
from visionagents_runner.messaging import notifications
from visionagents_runner.messaging.layer import worker_group
from visionagents_runner.models import AgentSession, SessionEvent, Worker
from visionagents_runner.store import database, session_rows

pytestmark = pytest.mark.slow

NEVER = 3600.0
"""A POLL_INTERVAL with which only messages reach a worker."""
SOON = 0.1

COMMAND = """
from visionagents_runner.store.session_rows import request_close_sync
say("ready")
keys = json.loads((await asyncio.to_thread(sys.stdin.readline)))
await asyncio.to_thread(request_close_sync, keys, by="a command")
"""


async def ended(far: Far, session_id: str) -> Any:
    return await far.do("ended", session_id)


def closed_by(session_id: str) -> Any:
    return SessionEvent.objects.get(session_id=uuid.UUID(session_id), kind="close_requested").data


async def test_a_close_from_another_worker_arrives_by_message(server: Server, redis_url: str) -> None:
    client = Client(server.app)
    async with worker_elsewhere(redis_url, POLL_INTERVAL=NEVER) as far:
        one, two, three = [await far.start(name) for name in ("one", "two", "three")]
        answer = await client.delete(f"/sessions/{one}")
        assert (answer.status, answer.json()) == (200, {"success": True})
        assert (await client.delete(f"/calls/two/sessions/{two}")).status == 202
        assert (await client.post(f"/calls/three/sessions/{three}/close")).status == 202
        assert [await ended(far, each) for each in (one, two, three)] == ["requested"] * 3
        assert await database.read(closed_by, one) == {"by": "local", "force": False}


async def test_the_admin_closes_many_by_message(server: Server, redis_url: str) -> None:
    async with worker_elsewhere(redis_url, POLL_INTERVAL=NEVER) as far:
        ids = [await far.start(f"call-{number}") for number in range(3)]

        def confirm() -> int:
            root = get_user_model().objects.create_superuser("root")
            browser = DjangoClient()
            browser.force_login(root)
            return browser.post(f"{LIST}force-close/", {"_selected_action": ids, "confirmed": "yes"}).status_code

        assert await database.call(confirm) == 302
        assert [await ended(far, each) for each in ids] == ["requested"] * 3
        assert await database.read(closed_by, ids[0]) == {"by": "root", "force": True}


async def test_a_process_without_a_worker_closes_by_message(transactional_db: None, redis_url: str) -> None:
    async with worker_elsewhere(redis_url, POLL_INTERVAL=NEVER) as far:
        session_id = await far.start()
        with child(COMMAND, REDIS_URL=redis_url) as process:
            assert await asyncio.to_thread(process.hear) == "ready"
            process.tell(json.dumps([session_id]))
            assert await asyncio.to_thread(process.end) == 0
        assert await ended(far, session_id) == "requested"


async def test_many_sessions_are_one_message_to_each_worker(transactional_db: None, redis_url: str) -> None:
    worker = await Worker.objects.acreate(hostname="other", pid=1)
    rows = [await AgentSession.objects.acreate(call_id="x", status="active", worker=worker) for _ in range(5)]
    async with Inbox(worker_group(worker.pk)) as inbox:
        await database.write(session_rows.request_close_sync, [row.pk for row in rows], by="somebody", force=True)
        message = await inbox.hear()
        assert {uuid.UUID(each) for each in message["sessions"]} == {row.pk for row in rows}
        assert (message["type"], message["by"], message["force"]) == ("control.close", "somebody", True)
        await database.write(session_rows.request_close_sync, [rows[0].pk], by="again")
        assert (await inbox.hear())["by"] == "again"


@pytest.mark.parametrize("layer", ["none", "dead", "hanging"])
async def test_without_messages_a_close_is_found_by_the_poll(
    server: Server, layer: str, request: pytest.FixtureRequest
) -> None:
    url = "" if layer == "none" else request.getfixturevalue(f"{layer}_redis")
    async with worker_elsewhere(url, POLL_INTERVAL=SOON) as far:
        session_id = await far.start()
        async with asyncio.timeout(10):
            assert (await Client(server.app).delete(f"/sessions/{session_id}")).status == 200
        assert await ended(far, session_id) == "requested"


async def test_a_message_that_is_lost_is_made_up_for_by_the_poll(server: Server, redis_url: str) -> None:
    async with worker_elsewhere(NOBODY, POLL_INTERVAL=SOON) as far:  # sent, and never received
        session_id = await far.start()
        assert (await Client(server.app).delete(f"/sessions/{session_id}")).status == 200
        assert await ended(far, session_id) == "requested"


def test_a_request_that_is_rolled_back_closes_nothing(transactional_db: None) -> None:
    heard: list[Any] = []
    remove: Callable[[], None] = notifications.on_close_request(lambda keys, by, force: heard.append(keys))
    try:
        row = AgentSession.objects.create(call_id="x", status="active")
        with transaction.atomic():
            session_rows.request_close_sync([row.pk])
            transaction.set_rollback(True)
        assert heard == []
        session_rows.request_close_sync([row.pk])
        assert heard == [[row.pk]]
    finally:
        remove()
