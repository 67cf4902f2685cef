"""What the API says of sessions that wait for a worker, and of those that were started again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests.api.fixtures import Serve
from tests.api.test_sessions import TIME, elsewhere, start
from tests.asgi_client import REMOTE, Client
from tests.websockets.feeds.conftest import cookie
from visionagents_runner.models import AgentSession, EndReason, SessionStatus
from visionagents_runner.store import database


async def lost(**values: Any) -> tuple[AgentSession, AgentSession]:
    """Return a session whose worker was lost, and the one that goes on for it."""
    # Of a kind that the worker of this process does not host: it takes neither.
    row = await elsewhere(restartable=True, agent="coach", **values)
    await database.write(row.finish, EndReason.WORKER_LOST)
    return row, await AgentSession.objects.aget(restart_of=row)


async def test_a_session_that_never_waited_and_was_never_restarted_says_so(client: Client) -> None:
    answer = await client.post("/sessions", {"call_id": "my-call"})
    shown = (await client.get(f"/sessions/{answer.json()['session_id']}")).json()
    for each in (answer.json(), shown):
        assert (each["due_at"], each["restart_of"], each["restarted_as"]) == (None, None, None)


async def test_a_queued_session_says_when_it_is_due(client: Client) -> None:
    row = await AgentSession.objects.adispatch("my-call", agent="default", at=timedelta(hours=1))
    shown = (await client.get(f"/sessions/{row.pk}")).json()
    assert (shown["status"], shown["started_at"]) == ("queued", None)
    assert TIME.fullmatch(shown["due_at"])
    assert shown["due_at"] > shown["created_at"]


async def test_a_lost_session_and_the_one_that_goes_on_for_it_name_each_other(client: Client) -> None:
    row, successor = await lost()
    before = (await client.get(f"/sessions/{row.pk}")).json()
    after = (await client.get(f"/sessions/{successor.pk}")).json()
    assert (before["status"], before["restarted_as"], before["restart_of"]) == ("lost", str(successor.pk), None)
    assert (after["restart_of"], after["restarted_as"]) == (str(row.pk), None)


async def test_a_lost_session_that_nothing_goes_on_for_says_so(client: Client) -> None:
    row = await elsewhere()
    await database.write(row.finish, EndReason.WORKER_LOST)
    assert (await client.get(f"/sessions/{row.pk}")).json()["restarted_as"] is None


async def test_who_may_not_see_the_one_that_goes_on_is_not_told_of_it(serve: Serve) -> None:
    client: Client = await serve()
    user, sent = await cookie()
    row, successor = await lost(started_by=user)
    own = client.like(peer=REMOTE, headers={"cookie": sent, "origin": "http://localhost:8000"})
    assert (await own.get(f"/sessions/{row.pk}")).json()["restarted_as"] == str(successor.pk)
    other = await get_user_model().objects.acreate_user("other")
    await AgentSession.objects.filter(pk=successor.pk).aupdate(started_by=other)
    assert (await own.get(f"/sessions/{row.pk}")).json()["restarted_as"] is None
    assert (await own.get(f"/sessions/{successor.pk}")).status == 404


async def test_lists_do_not_look_for_successors(client: Client) -> None:
    for _ in range(3):
        await lost()

    def queries() -> int:
        from visionagents_runner.api.listing import list_page
        from visionagents_runner.api.schemas import AllFilters
        from visionagents_runner.auth.permissions import Access

        with CaptureQueriesContext(connection) as captured:
            page = list_page(Access(), AllFilters(), None)
        assert len(page["items"]) == 6
        assert "restarted_as" not in page["items"][0]
        return len(captured)

    assert await database.read(queries) == 1


async def test_the_schema_documents_them(client: Client) -> None:
    schema = (await client.get("/openapi.json")).json()["components"]["schemas"]
    for name in ("due_at", "restart_of", "restarted_as"):
        assert schema["SessionDetail"]["properties"][name]["description"]
        assert name not in schema["SessionInfo"]["properties"]


async def test_queued_sessions_can_be_listed_and_closed(client: Client) -> None:
    row = await AgentSession.objects.adispatch("my-call", at=timedelta(hours=1))
    await start(client, call_id="another")
    listed = (await client.get("/sessions?status=queued")).json()["items"]
    assert [each["session_id"] for each in listed] == [str(row.pk)]
    assert (await client.delete(f"/sessions/{row.pk}")).status == 200
    ended = (await client.get(f"/sessions/{row.pk}")).json()
    assert (ended["status"], ended["end_reason"]) == (SessionStatus.CLOSED, EndReason.REQUESTED)
