"""What must hold whatever broke: every session reaches one end state, none runs twice, none is forgotten."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from .databases import Row
from .fleet import Fleet
from .trace import Built, Run

ENDS = {"closed", "failed", "lost"}
_FAILURES = {"create_failed", "join_failed", "error", "expired"}
_ROUND_SECONDS = 0.2
_OVERDUE_SECONDS = 5.0
"""What the poll leaves to an engine, before it takes what is due itself."""
_MARGIN = 15.0
AWAKE_SECONDS = 0.5
"""How long an agent may show life beside the one that took its place, in a process that was stopped: that cannot stop
its agents in time, and does so when it goes on."""


@dataclass
class Verdict:
    """What was found; `problems` is empty if all holds."""

    sessions: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {reason}" for reason, count in sorted(self.ends.items()))
        return f"{self.sessions} sessions ({ends or 'none'}), {self.runs} runs"


async def settle(fleet: Fleet, seconds: float = 40.0) -> None:
    """Close every session through living workers, and wait until none is live and no living process runs one.

    Raises:
        AssertionError: some do not end, or nobody takes what waits in the queue.
    """
    await _until_queue_is_taken(fleet)
    asked: dict[str, float] = {}
    deadline = time.monotonic() + fleet.until_lost + seconds
    while True:
        live = await fleet.live()
        pids = {worker.pid for worker in fleet.living}
        running = [run for run in await asyncio.to_thread(fleet.runs) if run.stopped is None and run.pid in pids]
        if not live and not running:
            return
        if time.monotonic() > deadline:
            rows = [f"{row['id']} {row['status']} of {row['worker_id']}" for row in live]
            raise AssertionError(
                f"These sessions do not end: rows {rows}, agents {[run.session_id for run in running]}"
            )
        now = time.monotonic()
        # Once is enough, but a request may have been lost with the worker that took it.
        due = [row["id"] for row in live if now - asked.get(row["id"], -10) > 5]
        asked |= dict.fromkeys(due, now)
        room = asyncio.Semaphore(20)

        async def close(session_id: str, room: asyncio.Semaphore = room) -> None:
            async with room:
                await fleet.client.end(session_id)

        await asyncio.gather(*map(close, due))
        await asyncio.sleep(_ROUND_SECONDS)


async def _until_queue_is_taken(fleet: Fleet) -> None:
    """Wait until nothing that is due is left in the queue.

    What a limit holds back is not due for long: whoever tries it in vain postpones it. So each may be found here with
    the same time for as long as it takes until somebody looks, and no longer.
    """
    patience = fleet.poll + _OVERDUE_SECONDS + _MARGIN
    seen: dict[tuple[str, object], float] = {}
    began = time.monotonic()
    while any(worker.answers for worker in fleet.workers) and (waiting := await fleet.waiting()):
        now = time.monotonic()
        seen = {(row["id"], row["due_at"]): seen.get((row["id"], row["due_at"]), now) for row in waiting}
        forgotten = [key for (key, _), since in seen.items() if now - since > patience]
        assert not forgotten, f"Nobody takes {forgotten} from the queue, which have been due for {patience:g} s"
        if now - began > patience and all(row["attempts"] for row in waiting):
            return
        await asyncio.sleep(_ROUND_SECONDS)


async def check(fleet: Fleet) -> Verdict:
    """Judge what a fleet leaves behind, once nothing is live.

    Raises:
        AssertionError: something does not hold; it lists what.
    """
    rows = await fleet.sessions()
    runs = await asyncio.to_thread(fleet.runs)
    verdict = Verdict(len(rows), Counter(row["end_reason"] or row["status"] for row in rows), len(runs))
    verdict.problems += _ends(rows)
    verdict.problems += _forgotten(fleet, rows)
    verdict.problems += await _histories(fleet, rows)
    verdict.problems += _twice(rows, runs, {worker.pid for worker in fleet.workers if worker.was_stopped})
    verdict.problems += _left_running(fleet, rows, runs)
    verdict.problems += _not_closed(fleet, await asyncio.to_thread(fleet.built))
    verdict.problems += _over_limits(fleet, rows, runs)
    verdict.problems += await _workers(fleet)
    verdict.problems += fleet.complaints()
    if verdict.problems:
        shown = "\n  ".join(verdict.problems[:30])
        raise AssertionError(f"{len(verdict.problems)} problems; {verdict}\n  {shown}")
    return verdict


def _ends(rows: Iterable[Row]) -> Iterable[str]:
    for row in rows:
        reason, status = row["end_reason"], row["status"]
        expected = "failed" if reason in _FAILURES else "lost" if reason == "worker_lost" else "closed"
        if status not in ENDS or row["ended_at"] is None or not reason or status != expected:
            yield f"{row['id']} is {status!r} with {reason!r}, ended at {row['ended_at']}"


def _forgotten(fleet: Fleet, rows: Iterable[Row]) -> Iterable[str]:
    by_id = {row["id"]: row for row in rows}
    for asked in fleet.client.accepted:
        if asked.session_id not in by_id:
            yield f"{asked.session_id} was answered with 201 and is not there"
        elif by_id[asked.session_id]["call_id"] != asked.call_id:
            yield f"{asked.session_id} has another call than was asked for"
    accepted = {asked.session_id for asked in fleet.client.accepted}
    made = Counter(row["call_id"] for row in rows if not row.get("restart_of_id"))
    wanted = Counter(asked.call_id for asked in fleet.client.asked)
    for call_id, count in made.items():
        # No session was asked for by the client and made twice. Some may have been asked for by others.
        if call_id in wanted and count > wanted[call_id]:
            yield f"{count} sessions on {call_id} where {wanted[call_id]} were asked for"
    refused = {asked.call_id for asked in fleet.client.asked if asked.status in {429, 422}}
    refused -= {asked.call_id for asked in fleet.client.asked if asked.status not in {429, 422}}
    for row in rows:
        if row["call_id"] in refused and row["id"] not in accepted and row["started_at"] is not None:
            yield f"{row['id']} ran, though its start was refused"


async def _histories(fleet: Fleet, rows: Iterable[Row]) -> list[str]:
    problems = []
    kinds: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for event in await fleet.rows("SELECT session_id, seq, kind FROM visionagents_runner_sessionevent"):
        kinds[event["session_id"]].append((event["seq"], event["kind"]))
    for row in rows:
        history = sorted(kinds.pop(row["id"], []))
        names = [kind for _, kind in history]
        if [number for number, _ in history] != list(range(1, row["event_seq"] + 1)):
            problems.append(
                f"the history of {row['id']} has the numbers {[n for n, _ in history]} of {row['event_seq']}"
            )
        if names.count("ended") != 1 or names[-1] != "ended":
            problems.append(f"the history of {row['id']} ends with {names[-3:]}")
    return problems + [f"events of {key}, which is not there" for key in kinds]


def _twice(rows: Iterable[Row], runs: Iterable[Run], stopped: Container[int] = ()) -> Iterable[str]:
    """``stopped``: processes that SIGSTOP held at some time."""
    by_session: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_session[run.session_id].append(run)
    known = {row["id"]: row for row in rows}
    for key, several in by_session.items():
        if len(several) > 1:
            yield f"{key} ran {len(several)} times: {[(run.pid, run.began, run.last_sign) for run in several]}"
        if key not in known:
            yield f"{key} ran and has no row"
    for row in rows:
        before = by_session.get(row.get("restart_of_id") or "")
        after = by_session.get(row["id"])
        if not before or not after:
            continue
        allowed = AWAKE_SECONDS if before[0].pid in stopped else 0.0
        if (late := before[0].alive_after(after[0].began)) > allowed:
            yield f"{row['id']} took the place of {row['restart_of_id']}, which still ran, or closed, for {late:.2f} s"
    successors = Counter(row["restart_of_id"] for row in rows if row.get("restart_of_id"))
    for key, count in successors.items():
        if count > 1:
            yield f"{key} was started again {count} times"


def _left_running(fleet: Fleet, rows: Iterable[Row], runs: Iterable[Run]) -> Iterable[str]:
    living = {worker.pid for worker in fleet.living}
    killed = {worker.pid for worker in fleet.workers if worker.killed}
    for run in runs:
        if run.stopped is None and run.pid in living:
            yield f"the agent of {run.session_id} runs on in {run.pid}"
        elif run.stopped is None and run.pid not in killed:
            yield f"{run.pid} ended and left the agent of {run.session_id} in the middle"
    ran = {run.session_id for run in runs}
    for row in rows:
        if row["started_at"] is not None and row["id"] not in ran:
            yield f"{row['id']} says that it started, and never ran"


def _not_closed(fleet: Fleet, built: Iterable[Built]) -> Iterable[str]:
    killed = {worker.pid for worker in fleet.workers if worker.killed}
    for agent in built:
        if not agent.closed and agent.pid not in killed:
            yield f"the agent of {agent.session_id} ({agent.agent}) was built and never closed"


def _over_limits(fleet: Fleet, rows: Iterable[Row], runs: Iterable[Run]) -> Iterable[str]:
    """Whether at any moment more agents ran than a limit allows."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    users = {row["id"]: row["started_by_id"] for row in rows}
    for run in runs:
        if run.agent == "limited":
            groups["worker", f"{run.pid}"].append(run)
        if run.agent == "shared":
            groups["call", run.call_id].append(run)
        if run.agent == "few":
            groups["agent", "few"].append(run)
        if run.agent == "single":
            groups["agent of one", "single"].append(run)
        groups["cluster", ""].append(run)
        if users.get(run.session_id) is not None:
            groups["user", str(users[run.session_id])].append(run)
    most = {
        **fleet.limits,
        "agent of one": 1,
        "cluster": fleet.settings.get("MAX_SESSIONS"),
        "user": fleet.settings.get("MAX_SESSIONS_PER_USER"),
    }
    for (scope, key), group in groups.items():
        limit = most.get(scope)
        if limit is not None and (peak := peak_of(group)) > limit:
            yield f"{peak} sessions ran at once under the limit {limit} of {scope} {key}"


def peak_of(runs: Iterable[Run]) -> int:
    """Return how many of these ran at one time."""
    changes = sorted(change for run in runs for change in ((run.began, 1), (run.last_sign, -1)))
    count = most = 0
    for (at, step), following in pairwise([*changes, (float("inf"), 0)]):
        count += step
        if following[0] > at:
            most = max(most, count)
    return most


async def _workers(fleet: Fleet) -> list[str]:
    """Whether each worker that ended in order has said goodbye."""
    left = [worker.pid for worker in fleet.workers if not worker.alive and not worker.killed]
    states = {row["pid"]: row["state"] for row in await fleet.rows("SELECT pid, state FROM visionagents_runner_worker")}
    return [
        f"{worker} ended with {worker.process.returncode}"
        for worker in fleet.workers
        if worker.pid in left and worker.process.returncode != 0
    ] + [f"the row of worker {pid} says {states[pid]}" for pid in left if states.get(pid, "stopped") != "stopped"]
