"""Many sessions on several workers: started through any of them, read, listed, followed and closed through others."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from .client import Asked, Feed
from .processes import WorkerProcess
from .stage import Stage
from .trace import now

PER_CALL, PER_AGENT, PER_USER, SPARE = 3, 6, 4, 5
_FLOOD = 30
_TALKERS = 2
CLOSE_MS = 30.0
"""What the median of closes through other workers is to stay under, with Redis."""
_TIMES = {"HEARTBEAT_INTERVAL": 5.0, "WORKER_TTL": 30.0, "WORKER_GRACE": 60.0, "METRICS_INTERVAL": 5.0}
_TOO_MANY = 10
"""One in so many starts more than there is room for."""
_AT_ONCE = 20


@dataclass
class Seen:
    """What was measured, by its name."""

    values: dict[str, str] = field(default_factory=dict)
    teardown_ms: list[float] = field(default_factory=list)
    ended_ms: list[float] = field(default_factory=list)

    def note(self, name: str, value: object) -> None:
        self.values[name] = str(value)


async def run(stage: Stage, count: int) -> Seen:
    """Fill all workers with ``count`` sessions, use them through other workers than their own, and close them so.

    Raises:
        AssertionError: a limit is not exact, or something is not seen everywhere.
    """
    seen = Seen()
    await _one_call(stage, seen)
    await _one_agent(stage, seen)
    await _one_user(stage, seen)
    await _talk(stage, seen)
    home = await _fill(stage, count, seen)
    await _all(stage, seen)
    await _read_everywhere(stage, home, seen)
    await _close_elsewhere(stage, home, seen)
    return seen


def options_for(count: int, workers: int) -> dict[str, Any]:
    """Return the options of a `Fleet` whose limits a run with ``count`` sessions reaches, each of them.

    Nothing breaks here, so that its times are those of production.
    """
    return {
        "times": _TIMES,
        "limits": {"worker": count // workers, "call": PER_CALL, "agent": PER_AGENT},
        "settings": {"MAX_SESSIONS": count + SPARE, "MAX_SESSIONS_PER_USER": PER_USER},
    }


async def _one_call(stage: Stage, seen: Seen) -> None:
    await _reach(stage, seen, f"a call for {PER_CALL}", PER_CALL, "shared", call_id="crowded")


async def _one_agent(stage: Stage, seen: Seen) -> None:
    await _reach(stage, seen, f"an agent for {PER_AGENT}", PER_AGENT, "few")


async def _one_user(stage: Stage, seen: Seen) -> None:
    key = await stage.fleet.make_key("somebody")
    await _reach(stage, seen, f"a user for {PER_USER}", PER_USER, key=key)


async def _all(stage: Stage, seen: Seen) -> None:
    await _reach(stage, seen, f"a full cluster with {SPARE} to spare", SPARE)


async def _reach(stage: Stage, seen: Seen, what: str, limit: int, agent: str = "default", **options: Any) -> None:
    """Ask all workers at once for more than a limit over all of them allows, and close what was started."""
    client = stage.fleet.client
    asked = await client.start_many(_FLOOD, agent, at_once=_FLOOD, **options)
    accepted = [each for each in asked if each.accepted]
    answers = Counter((each.status, each.detail) for each in asked)
    assert len(accepted) == limit, answers
    assert {each.status for each in asked} == {201, 429}, answers
    seen.note(f"accepted of {_FLOOD} starts for {what}", len(accepted))
    await asyncio.gather(*(client.end(each.session_id) for each in accepted))
    await stage.until_all_are([each.session_id for each in accepted], "closed", seconds=20)


async def _talk(stage: Stage, seen: Seen) -> None:
    """Speak into agents through other workers than their own, and hear and read it on yet others."""
    fleet = stage.fleet
    ways = [_talk_into(stage, worker) for worker in fleet.workers for _ in range(_TALKERS)]
    heard = [at for way in await asyncio.gather(*ways) for at in way]
    seen.note("words said through one worker until read on the feed of another", _spread(heard))


async def _talk_into(stage: Stage, home: WorkerProcess) -> list[float]:
    """Returns how long it took each time, in milliseconds, from the request to the words on a feed."""
    fleet, client = stage.fleet, stage.fleet.client
    asked = await client.start("talker", via=home)
    assert asked.accepted, asked.detail
    key = asked.session_id
    assert key in await fleet.running_on(home)
    near = client.some_worker(home)
    far = client.some_worker(home, near)
    assert len({home, near, far}) == min(3, len(fleet.workers))
    heard = []
    async with client.feed(key, via=far) as feed:
        await feed.until("live")
        for how, words in (("say", f"Welcome to {asked.call_id}"), ("respond", f"Good bye from {asked.call_id}")):
            sent = now()
            assert await client.say(key, words, how=how, via=near) == 202, client.failures[-1:]
            heard.append((await feed.until("event", kind="message", saying=words) - sent) * 1000)
    for worker in (near, far):
        await _read_words(stage, worker, asked)
    await _read_metrics(stage, far, key)
    assert await client.end(key, via=near), client.failures[-1:]
    await stage.until_all_are([key], "closed", seconds=20)
    # What it did can be read when it is over, too.
    await _read_words(stage, near, asked)
    return heard


async def _read_words(stage: Stage, via: WorkerProcess, asked: Asked) -> None:
    """What was said is in the history and in the transcript, whichever worker is asked."""
    path = f"/sessions/{asked.session_id}"
    events, transcript = [
        (await stage.fleet.client.read(f"{path}/{part}", via=via)).json()["items"] for part in ("events", "transcript")
    ]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1)), events
    said = [event["data"]["text"] for event in events if event["kind"] == "message"]
    read = [message["text"] for message in transcript]
    assert read == said, (read, said)
    for words in (f"Welcome to {asked.call_id}", f"Good bye from {asked.call_id}"):
        assert any(words in text for text in said), f"{via} does not tell of {words!r}: {said}"


async def _read_metrics(stage: Stage, via: WorkerProcess, session_id: str) -> None:
    """What an agent has measured is with its row after a while, for every worker to read."""

    async def measured() -> bool:
        answer = await stage.fleet.client.read(f"/sessions/{session_id}/metrics", via=via)
        assert answer.status_code == 200, answer.text
        return bool(answer.json()["metrics"].get("llm_latency_ms__avg"))

    await stage.until("its metrics are read through another worker", measured, _TIMES["METRICS_INTERVAL"] + 15.0)


async def _fill(stage: Stage, count: int, seen: Seen) -> dict[str, WorkerProcess]:
    """Start until there is no room anywhere. Returns each session's worker."""
    fleet = stage.fleet
    room = asyncio.Semaphore(_AT_ONCE)

    async def start() -> Asked:
        async with room:
            return await fleet.client.start("limited")

    began = now()
    asked = await asyncio.gather(*(start() for _ in range(count + count // _TOO_MANY)))
    took = now() - began
    answers = Counter(each.status for each in asked)
    unanswered = [each.detail for each in asked if not each.status]
    assert answers == {201: count, 429: count // _TOO_MANY}, (answers, unanswered)
    running = {run.session_id: run.pid for run in await asyncio.to_thread(fleet.runs) if run.stopped is None}
    workers = {worker.pid: worker for worker in fleet.workers}
    home = {each.session_id: workers[running[each.session_id]] for each in asked if each.accepted}
    on_each = Counter(home.values())
    assert set(on_each.values()) == {count // len(fleet.workers)}, on_each
    seen.note("started, with room for no more", f"{answers[201]} accepted, {answers[429]} refused, {took:.1f} s")
    placed = sum(each.via is not home[each.session_id] for each in asked if each.accepted)
    seen.note("placed on another worker than was asked, which was full", placed)
    seen.note("on each worker", ", ".join(map(str, on_each.values())))
    return home


async def _read_everywhere(stage: Stage, home: dict[str, WorkerProcess], seen: Seen) -> None:
    fleet = stage.fleet
    room = asyncio.Semaphore(_AT_ONCE)

    async def read(session_id: str) -> str:
        async with room:
            found = await fleet.client.get(session_id, via=fleet.client.some_worker(home[session_id]))
            return "" if found is None else str(found["status"])

    statuses = Counter(await asyncio.gather(*map(read, home)))
    assert statuses == {"active": len(home)}, statuses
    seen.note("read through other workers", dict(statuses))
    for worker in fleet.workers:
        listed = {item["session_id"] for item in await fleet.client.list_all(via=worker, status="active")}
        assert set(home) <= listed, f"{worker} lists {len(listed)}"
    seen.note("listed by every worker", len(home))
    measured = [(await fleet.client.read("/metrics", via=worker)).json()["active_sessions"] for worker in fleet.workers]
    assert sum(measured) == len(home), measured
    seen.note("counted by the metrics of all workers", sum(measured))


async def _close_elsewhere(stage: Stage, home: dict[str, WorkerProcess], seen: Seen) -> None:
    """Follow and close each session through workers that do not run it, the first hundred apart from each other."""
    fleet = stage.fleet
    feeds: dict[str, Feed] = {}
    sent: dict[str, float] = {}
    ended: dict[str, float] = {}

    async with AsyncExitStack() as stack:
        for session_id, worker in home.items():
            via = fleet.client.some_worker(worker)
            feeds[session_id] = await stack.enter_async_context(fleet.client.feed(session_id, via=via))
        await asyncio.gather(*(feed.until("live") for feed in feeds.values()))

        async def close(session_id: str) -> None:
            worker = fleet.client.some_worker(home[session_id])
            sent[session_id] = now()
            assert await fleet.client.end(session_id, via=worker), fleet.client.failures[-1:]
            ended[session_id] = await feeds[session_id].until("ended")

        chosen = list(home)
        fleet.client.random.shuffle(chosen)
        measured = chosen[: max(10, min(100, len(chosen) // 2))]
        if fleet.redis_url:
            for session_id in measured:
                await close(session_id)
        else:

            async def close_later(session_id: str) -> None:
                # At any moment between two polls.
                await asyncio.sleep(fleet.client.random.uniform(0, 3 * fleet.poll))
                await close(session_id)

            await asyncio.gather(*map(close_later, measured))
        began, rest = now(), chosen[len(measured) :]
        await asyncio.gather(*map(close, rest))
        if rest:
            seen.note(f"the last {len(rest)} closed at once", f"{now() - began:.2f} s")

        for session_id, feed in feeds.items():
            assert feed.numbers == list(range(1, len(feed.numbers) + 1)), (session_id, feed.numbers)
    seen.note("followed to their ends over feeds of other workers", len(feeds))
    closed = {run.session_id: run.closed for run in await asyncio.to_thread(fleet.runs)}
    for session_id in measured:
        at = closed[session_id]
        assert at is not None
        seen.teardown_ms.append((at - sent[session_id]) * 1000)
        seen.ended_ms.append((ended[session_id] - sent[session_id]) * 1000)
    seen.note("DELETE elsewhere to the agent closed", _spread(seen.teardown_ms))
    seen.note("DELETE elsewhere to `ended` on the feed of another worker", _spread(seen.ended_ms))


def _spread(values: list[float]) -> str:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(len(ordered) * 0.95))]
    return f"p50 {statistics.median(ordered):.1f} ms, p95 {p95:.1f} ms, max {ordered[-1]:.1f} ms ({len(ordered)})"
