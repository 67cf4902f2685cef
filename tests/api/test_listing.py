"""Lists of sessions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import sync_to_async

from tests.api.test_sessions import elsewhere, start
from tests.asgi_client import Client
from visionagents_runner.models import AgentSession, EndReason

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


async def pages(client: Client, query: str) -> list[list[str]]:
    """Return the call ids of each page."""
    found: list[list[str]] = []
    cursor = ""
    while True:
        page = (await client.get(f"/sessions?{query}{cursor}")).json()
        found.append([item["call_id"] for item in page["items"]])
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


async def test_sessions_are_listed_newest_first_in_pages(client: Client) -> None:
    for number in range(5):
        await elsewhere(call_id=f"call-{number}", created_at=MOMENT + timedelta(seconds=number))
    assert await pages(client, "limit=2") == [["call-4", "call-3"], ["call-2", "call-1"], ["call-0"]]
    assert await pages(client, "limit=5") == [["call-4", "call-3", "call-2", "call-1", "call-0"]]


async def test_sessions_of_one_moment_are_on_one_page_each(client: Client) -> None:
    for number in range(7):
        await elsewhere(call_id=f"call-{number}", created_at=MOMENT)
    found = [call_id for page in await pages(client, "limit=3") for call_id in page]
    assert sorted(found) == [f"call-{number}" for number in range(7)]


async def test_a_page_has_fifty_sessions_and_at_most_two_hundred(client: Client) -> None:
    await AgentSession.objects.abulk_create(
        [AgentSession(call_id="a", created_at=MOMENT + timedelta(seconds=number)) for number in range(210)]
    )
    assert len((await client.get("/sessions")).json()["items"]) == 50
    assert len((await client.get("/sessions?limit=200")).json()["items"]) == 200


async def test_filters_narrow_a_list(client: Client) -> None:
    live = await start(client, "one")
    ended = await elsewhere(call_id="one", agent="former", call_type="livestream")
    await sync_to_async(ended.finish)(EndReason.FINISHED)

    async def ids(query: str) -> list[str]:
        return [item["session_id"] for item in (await client.get(query)).json()["items"]]

    assert await ids("/sessions?call_id=one") == [str(ended.pk), live]
    assert await ids("/sessions?status=active") == [live]
    assert await ids("/sessions?status=closed&call_id=one") == [str(ended.pk)]
    assert await ids("/sessions?agent=former") == [str(ended.pk)]
    assert await ids("/sessions?agent=nobody") == []
    assert await ids("/calls/one/sessions") == [str(ended.pk), live]
    assert await ids("/calls/one/sessions?status=closed") == [str(ended.pk)]
    assert await ids("/calls/ONE/sessions") == []


@pytest.mark.parametrize("path", ["/sessions", "/calls/a/sessions"])
async def test_an_empty_list_is_a_page(client: Client, path: str) -> None:
    assert (await client.get(path)).json() == {"items": [], "next": None}
