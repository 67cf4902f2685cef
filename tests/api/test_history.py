"""Events, transcripts and metrics of sessions, live and ended."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client as DjangoClient

from tests.api.fixtures import Serve
from tests.api.test_sessions import TIME, elsewhere, start
from tests.asgi_client import REMOTE, Client
from tests.auth.keys.fixtures import with_key
from visionagents_runner import ServeOptions
from visionagents_runner.api import errors, history, pagination
from visionagents_runner.models import AgentSession, EndReason, EventLine, SessionEvent
from visionagents_runner.worker.current import current_worker

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECRET = "my password is swordfish"


def say(seconds: float, user_id: str, text: str, **more: Any) -> tuple[str, float, dict[str, Any]]:
    role = "assistant" if user_id == "agent" else "user"
    data = {"message_id": f"m-{seconds}", "role": role, "user_id": user_id, "text": text, "completed": True, **more}
    return "message", seconds, data


@pytest.fixture
async def row(transactional_db: None) -> AgentSession:
    """A session that ended, in which a caller and an agent talked."""
    row = await elsewhere(started_at=BEGAN, metrics={"llm_latency_ms__avg": 12.5}, metrics_at=BEGAN)
    happened: list[tuple[str, float, dict[str, Any]]] = [
        ("participant_joined", 0.5, {"participant_id": "p", "user_id": "caller"}),
        say(2, "caller", f"Hello, {SECRET} & <more>\n\nNOTE --> this"),
        ("tool_started", 2.5, {"tool_call_id": "c", "name": "look_up", "arguments": {"thing": SECRET}}),
        say(3.5, "agent", "I heard", completed=False),
        ("turn", 3.6, {"total_ms": 900}),
        say(70, "agent", "Well then."),
    ]
    lines = [EventLine(row.pk, kind, BEGAN + timedelta(seconds=at), data) for kind, at, data in happened]
    await sync_to_async(SessionEvent.objects.append)(lines)
    await sync_to_async(row.finish)(EndReason.FINISHED)
    return row


@pytest.fixture
async def long_row(transactional_db: None) -> AgentSession:
    """A session in which 40 things were said, each as long as may be kept, and a last one that is short."""
    row = await elsewhere(started_at=BEGAN)
    lines = [EventLine(row.pk, "message", BEGAN, say(0, "caller", f"{number} {'é' * 8000}")[2]) for number in range(40)]
    await sync_to_async(SessionEvent.objects.append)([*lines, EventLine(row.pk, "turn", BEGAN, {})])
    return row


@pytest.fixture
async def signed_in(serve: Serve) -> Callable[..., Any]:
    """A client from elsewhere, signed in as a user with these permissions."""
    client = (await serve(work=False)).like(peer=REMOTE)

    async def sign_in(*codenames: str) -> Client:
        def cookie() -> str:
            user = get_user_model().objects.create_user("-".join(codenames) or "nobody")
            user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
            django = DjangoClient()
            django.force_login(user)
            return f"sessionid={django.cookies['sessionid'].value}"

        headers = {"cookie": await sync_to_async(cookie)(), "origin": "http://localhost:8000"}
        return client.like(headers=headers)

    return sign_in


async def test_events_come_in_order_from_a_number_on(client: Client, row: AgentSession) -> None:
    answer = await client.get(f"/sessions/{row.pk}/events")
    assert answer.status == 200
    items = answer.json()["items"]
    assert [item["seq"] for item in items] == list(range(1, 8))
    assert items[-1]["kind"] == "ended"
    assert items[0] == {
        "seq": 1,
        "kind": "participant_joined",
        "at": "2026-01-02T03:04:05.500000Z",
        "data": {"participant_id": "p", "user_id": "caller"},
    }
    assert answer.json()["next"] is None
    seen, after = [], 0
    while after is not None:
        page = (await client.get(f"/sessions/{row.pk}/events?after={after}&limit=3")).json()
        seen += page["items"]
        after = page["next"]
    assert seen == items
    assert (await client.get(f"/sessions/{row.pk}/events?after=7")).json() == {"items": [], "next": None}


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", "limit=1001", "after=99999999999999999999"])
async def test_a_part_that_makes_no_sense_is_refused(client: Client, row: AgentSession, query: str) -> None:
    answer = await client.get(f"/sessions/{row.pk}/events?{query}")
    assert answer.status == 422
    assert answer.detail[0]["loc"] == ["query", query.partition("=")[0]]


async def test_what_an_error_says_comes_only_with_the_right_to_read_words(
    signed_in: Callable[..., Any], row: AgentSession
) -> None:
    error = {"component": "llm", "type": "APIError", "message": SECRET, "recoverable": True}
    lost = {"component": "stt", "state": "disconnected", "reason": SECRET}
    lines = [EventLine(row.pk, kind, BEGAN, data) for kind, data in (("error", error), ("connection", lost))]
    await sync_to_async(SessionEvent.objects.append)(lines)

    async def told(client: Client) -> list[dict[str, Any]]:
        items = (await client.get(f"/sessions/{row.pk}/events?after=7")).json()["items"]
        return [item["data"] for item in items]

    assert await told(await signed_in("view_agentsession", "view_transcript")) == [error, lost]
    assert await told(await signed_in("view_agentsession", "view_error")) == [
        {"component": "llm", "type": "APIError", "recoverable": True},
        {"component": "stt", "state": "disconnected"},
    ]


LONG = ["events", "transcript", "transcript?format=text", "transcript?format=vtt"]


@pytest.mark.parametrize("what", LONG)
async def test_a_page_ends_before_it_gets_too_large_and_the_next_goes_on(
    client: Client, long_row: AgentSession, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagination, "MAX_PAGE_BYTES", 200_000)
    monkeypatch.setattr(pagination, "_CHUNK", 5)
    read: list[int] = []
    from_db = SessionEvent.from_db.__func__

    def from_db_and_tell(cls: Any, *args: Any) -> Any:
        event = from_db(cls, *args)
        read.append(event.seq)
        return event

    monkeypatch.setattr(SessionEvent, "from_db", classmethod(from_db_and_tell))
    target: str | None = f"/sessions/{long_row.pk}/{what}"
    told: list[int] = []
    while target is not None:
        read.clear()
        answer = await client.get(target)
        assert answer.status == 200
        assert len(answer.body) < 200_000
        now = [int(number) for number in re.findall(r"(\d+) (?:é|\\u00e9)", answer.body.decode())]
        assert now
        assert len(read) <= len(now) + 6
        told += now
        if "link" in answer.headers:
            target = f"/sessions/{long_row.pk}/transcript{answer.headers['link'][1:].partition('>')[0]}"
        else:
            following = answer.json()["next"] if what == "events" else None
            target = None if following is None else f"/sessions/{long_row.pk}/events?after={following}"
    assert told == list(range(40))


async def test_a_page_has_at_least_one_event(
    client: Client, long_row: AgentSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagination, "MAX_PAGE_BYTES", 10)
    for after in (0, 1, 39):
        page = (await client.get(f"/sessions/{long_row.pk}/events?after={after}")).json()
        assert [event["seq"] for event in page["items"]] == [after + 1]
        assert page["next"] == after + 1
    assert (await client.get(f"/sessions/{long_row.pk}/events?after=40")).json()["next"] is None
    assert (await client.get(f"/sessions/{long_row.pk}/events?after=41")).json() == {"items": [], "next": None}


async def test_what_may_be_long_is_written_beside_the_loop(
    client: Client, long_row: AgentSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()

    def tell(function: Any) -> Any:
        def telling(*args: Any) -> Any:
            threads.add(threading.current_thread().name)
            return function(*args)

        return telling

    for module, name in ((history, "encode_json"), (errors, "encode_json"), (history, "as_text"), (history, "as_vtt")):
        monkeypatch.setattr(module, name, tell(getattr(module, name)))
    for path in (*(f"/sessions/{long_row.pk}/{each}" for each in LONG), "/sessions", "/calls/my-call/sessions"):
        threads.clear()
        assert (await client.get(path)).status == 200
        assert threads
        assert threading.current_thread().name not in threads


async def test_a_live_session_has_a_history_too(client: Client) -> None:
    session_id = await start(client)
    kinds = [item["kind"] for item in (await client.get(f"/sessions/{session_id}/events")).json()["items"]]
    assert kinds[:2] == ["requested", "started"]
    transcript = (await client.get(f"/sessions/{session_id}/transcript")).json()
    assert transcript == {"session_id": session_id, "call_id": "my-call", "items": [], "next": None}


async def test_the_transcript_is_what_was_said(client: Client, row: AgentSession) -> None:
    shown = (await client.get(f"/sessions/{row.pk}/transcript")).json()
    assert [(item["user_id"], item["text"], item["completed"]) for item in shown["items"]] == [
        ("caller", f"Hello, {SECRET} & <more>\n\nNOTE --> this", True),
        ("agent", "I heard", False),
        ("agent", "Well then.", True),
    ]
    assert TIME.fullmatch(shown["items"][0]["at"])
    page = await client.get(f"/sessions/{row.pk}/transcript?limit=2&format=json")
    assert page.json()["next"] == 4
    assert page.headers["link"] == '<?limit=2&format=json&after=4>; rel="next"'
    rest = await client.get(f"/sessions/{row.pk}/transcript{page.headers['link'][1:].partition('>')[0]}")
    assert [item["text"] for item in rest.json()["items"]] == ["Well then."]


@pytest.mark.parametrize(
    ("query", "accept"), [("?format=text", ""), ("", "text/plain"), ("?format=text", "application/json")]
)
async def test_the_transcript_as_text(client: Client, row: AgentSession, query: str, accept: str) -> None:
    answer = await client.get(f"/sessions/{row.pk}/transcript{query}", headers={"accept": accept})
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.body.decode() == (
        f"[00:00:02] caller: Hello, {SECRET} & <more> NOTE --> this\n"
        "[00:00:03] agent: I heard …\n"
        "[00:01:10] agent: Well then.\n"
    )


@pytest.mark.parametrize(("query", "accept"), [("?format=vtt", ""), ("", "text/vtt, application/json;q=0.5")])
async def test_the_transcript_as_webvtt(client: Client, row: AgentSession, query: str, accept: str) -> None:
    answer = await client.get(f"/sessions/{row.pk}/transcript{query}", headers={"accept": accept})
    assert answer.headers["content-type"] == "text/vtt; charset=utf-8"
    cues = answer.body.decode().split("\n\n")
    assert cues[0] == "WEBVTT"
    assert cues[1] == (
        f"2\n00:00:02.000 --> 00:00:03.500\n<v caller>Hello, {SECRET} &amp; &lt;more&gt; NOTE --&gt; this"
    )
    assert cues[2] == "4\n00:00:03.500 --> 00:00:04.500\n<v agent>I heard …"
    assert cues[3] == "6\n00:01:10.000 --> 00:01:11.000\n<v agent>Well then.\n"
    assert len(cues) == 4


async def test_a_redacted_message_without_its_keys_still_has_a_place(client: Client) -> None:
    row = await elsewhere(started_at=BEGAN)
    for _ in range(2):  # first with nothing said at all
        for form in ("json", "text", "vtt"):
            assert (await client.get(f"/sessions/{row.pk}/transcript?format={form}")).status == 200
        await sync_to_async(SessionEvent.objects.append)([EventLine(row.pk, "message", BEGAN, {})])


async def test_metrics_of_a_session_that_ended_and_of_one_that_runs(client: Client, row: AgentSession) -> None:
    shown = (await client.get(f"/sessions/{row.pk}/metrics")).json()
    assert shown == {
        "session_id": str(row.pk),
        "call_id": "my-call",
        "started_at": "2026-01-02T03:04:05Z",
        "metrics_generated_at": "2026-01-02T03:04:05Z",
        "metrics": {"llm_latency_ms__avg": 12.5},
    }
    session_id = await start(client)
    shown = (await client.get(f"/sessions/{session_id}/metrics")).json()
    assert shown["metrics"] == {"llm_input_tokens__total": 0, "llm_latency_ms__avg": None}


# Permissions


async def test_each_part_of_a_history_needs_its_own_permission(
    signed_in: Callable[..., Any], row: AgentSession
) -> None:
    paths = {part: f"/sessions/{row.pk}/{part}" for part in ("events", "transcript", "metrics")}

    async def statuses(client: Client) -> list[int]:
        return [(await client.get(path)).status for path in paths.values()]

    viewer = await signed_in("view_agentsession")
    assert await statuses(viewer) == [200, 403, 403]
    answer = await viewer.get(paths["events"])
    assert SECRET not in answer.body.decode()
    assert [item["kind"] for item in answer.json()["items"]] == ["participant_joined", "turn", "ended"]
    assert "view_transcript" in (await viewer.get(paths["transcript"])).detail

    reader = await signed_in("view_agentsession", "view_transcript")
    assert await statuses(reader) == [200, 200, 403]
    assert SECRET in (await reader.get(paths["events"])).body.decode()
    assert await statuses(await signed_in("view_agentsession", "view_metrics")) == [200, 403, 200]
    # Permissions for words and numbers, but not for this session: it does not exist for them.
    assert await statuses(await signed_in("view_transcript", "view_metrics")) == [404, 404, 404]
    assert await statuses(await signed_in()) == [404, 403, 403]
    assert await statuses((await signed_in("start_agentsession")).like(headers={})) == [401, 401, 401]


async def test_a_rule_of_the_project_decides_over_words_too(serve: Serve, row: AgentSession) -> None:
    asked: list[tuple[str, str]] = []

    async def rule(request: Any, call_id: str, session_id: str) -> bool:
        asked.append((call_id, session_id))
        return bool(request.headers.get("X-Friend"))

    client = (await serve(ServeOptions(can_view_session=rule), work=False)).like(peer=REMOTE)
    for part in ("events", "transcript"):
        path = f"/sessions/{row.pk}/{part}"
        assert (await client.get(path)).status == 403
        assert SECRET in (await client.get(path, headers={"x-friend": "1"})).body.decode()
    assert set(asked) == {("my-call", str(row.pk))}


async def test_a_session_that_does_not_exist_has_no_history(client: Client) -> None:
    for part in ("events", "transcript", "metrics"):
        answer = await client.get(f"/sessions/6b1f7ad0-0000-4000-8000-000000000000/{part}")
        assert answer.status == 404
        assert re.match(r"Session with id '.*' not found", answer.detail)


async def test_every_route_of_a_history_answers_with_a_trailing_slash_too(client: Client, row: AgentSession) -> None:
    for part in ("events", "transcript", "metrics"):
        assert (await client.get(f"/sessions/{row.pk}/{part}/")).status == 200
    assert current_worker() is not None


async def test_each_part_of_a_history_needs_its_own_scope_of_a_key(serve: Serve, row: AgentSession) -> None:
    client = await serve(work=False)

    async def statuses(*scopes: str) -> tuple[int, ...]:
        holder, _ = await with_key(client, *scopes)
        gets = [await holder.get(f"/sessions/{row.pk}/{part}") for part in ("events", "transcript", "metrics")]
        says = [await holder.post(f"/sessions/{row.pk}/{how}", {"text": "hello"}) for how in ("say", "respond")]
        assert (SECRET in gets[0].body.decode()) == ({"view", "transcript"} <= set(scopes))
        return tuple(answer.status for answer in [*gets, *says])

    assert await statuses("view") == (200, 403, 403, 403, 403)
    assert await statuses("view", "transcript") == (200, 200, 403, 403, 403)
    assert await statuses("view", "metrics") == (200, 403, 200, 403, 403)
    assert await statuses("view", "speak") == (200, 403, 403, 409, 409)  # may, but the session has ended
    assert await statuses("transcript", "metrics", "speak") == (403, 404, 404, 404, 404)
    assert await statuses("start", "close") == (404, 403, 403, 403, 403)
