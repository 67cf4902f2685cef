"""``python -m tests.worker.control.latency``: from DELETE at one worker to the close at another, on DATABASE_URL.

With --redis, over that Redis; without, by the poll.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import time
from typing import Any

_PROGRAM = """
import time

class Timed(StubAgent):
    async def close(self):
        if self.joined_at:  # not the one that warms up
            say(time.monotonic())
        await super().close()

async def create():
    return Timed()

async with AgentLauncher(create, join_call) as launcher:
    say("ready")
    while (line := (await asyncio.to_thread(sys.stdin.readline)).strip()) != "end":
        session = await launcher.start_session("far")
        await session.agent.joined.wait()
        say(session.id)
"""


async def measure(rounds: int, *, poll: float) -> tuple[list[float], list[float]]:
    """Return, in milliseconds, when the DELETE was answered, and when the agent closed."""
    from tests.asgi_client import Client
    from tests.processes import child
    from visionagents_runner import AgentLauncher, Runner
    from visionagents_runner.asgi.application import AgentsApplication
    from visionagents_runner.worker.process import ensure_worker

    async def nobody() -> Any: ...

    runner = Runner(AgentLauncher(nobody, nobody))  # type: ignore[arg-type]
    worker = await ensure_worker(runner)
    app = AgentsApplication(runner, None)
    app.managed = True
    client, answered, closed = Client(app), [], []
    with child(_PROGRAM, TEST_RUNNER_SETTINGS=f'{{"POLL_INTERVAL": {poll}, "LOOP_LAG_LIMIT": 0}}') as far:
        assert await asyncio.to_thread(far.hear) == "ready"
        for _ in range(rounds):
            far.tell("start")
            session_id = await asyncio.to_thread(far.hear)
            await asyncio.sleep(random.uniform(0.05, poll))  # at any moment between two polls
            began = time.monotonic()
            answer = await client.delete(f"/sessions/{session_id}")
            answered.append((time.monotonic() - began) * 1000)
            assert answer.status == 200, answer.body
            closed.append((await asyncio.to_thread(far.hear) - began) * 1000)
        far.tell("end")
        far.end()
    await worker.stop()
    return answered, closed


def spread(values: list[float]) -> str:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return f"p50 {statistics.median(ordered):.1f} ms, p95 {p95:.1f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.worker.control.latency", description=__doc__)
    parser.add_argument("--redis", default="", metavar="URL")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--poll", type=float, default=1.0, help="POLL_INTERVAL, seconds")
    options = parser.parse_args()
    os.environ["REDIS_URL"] = options.redis
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django

    django.setup()
    from django.conf import settings
    from django.db import connection
    from django.test.utils import get_runner, override_settings

    from visionagents_runner.store import database

    runner = get_runner(settings)(verbosity=0, interactive=False)
    made = runner.setup_databases()
    try:
        with override_settings(VISIONAGENTS_RUNNER={**settings.VISIONAGENTS_RUNNER, "ALLOW_LOCAL": True}):
            answered, closed = asyncio.run(measure(options.rounds, poll=options.poll))
    finally:
        database.close()
        runner.teardown_databases(made)
    how = "Redis" if options.redis else f"no Redis, POLL_INTERVAL {options.poll:g} s"
    print(f"{connection.vendor}, {how}: DELETE answered {spread(answered)}; agent closed {spread(closed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
