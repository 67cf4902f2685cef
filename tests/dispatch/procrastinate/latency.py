"""How long from the end of `dispatch()` until an idle worker in another process joins the call.

    python -m tests.dispatch.procrastinate.latency procrastinate|poll [--count 100]

On a PostgreSQL database of its own (POSTGRES_URL); with REDIS_URL set, the poll has hints.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time

HOSTING = """
    import time
    import tests.agents
    from visionagents_runner.worker.process import ensure_worker

    async def join(agent, call_type, call_id):
        say([call_id, time.monotonic()])
        await tests.agents.join_call(agent, call_type, call_id)

    tests.agents.runner = Runner(launcher=AgentLauncher(tests.agents.create_agent, join))
    worker = await ensure_worker(tests.agents.runner)
    await worker.wait_warm()
    await asyncio.sleep(2)
    say("ready")
    await asyncio.to_thread(wait)
    await worker.stop()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=["procrastinate", "poll"])
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.dispatch.procrastinate.settings"

    import django
    from django.conf import settings
    from django.test.utils import setup_databases, teardown_databases

    django.setup()
    settings.VISIONAGENTS_RUNNER["DISPATCH_ENGINE"] = options.engine
    made = setup_databases(verbosity=0, interactive=False)
    try:
        times = measure(options.engine, options.count)
    finally:
        teardown_databases(made, verbosity=0)
    hints = "" if options.engine == "procrastinate" else " with hints" if os.environ.get("REDIS_URL") else ", no hints"
    p50, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
    print(f"{options.engine}{hints}: {len(times)} sessions, p50 {p50:.1f} ms, p95 {p95:.1f} ms")


def measure(engine: str, count: int) -> list[float]:
    import json

    from tests.processes import child
    from visionagents_runner.messaging import notifications
    from visionagents_runner.models import AgentSession

    if engine == "poll":
        notifications.set_engine(None)
    assert notifications.has_engine() == (engine == "procrastinate")
    chosen = {"DISPATCH_ENGINE": engine, "LOOP_LAG_LIMIT": 0}
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.dispatch.procrastinate.child_settings",
        "TEST_RUNNER_SETTINGS": json.dumps(chosen),
    }
    times = []
    with child(HOSTING, **environment) as worker:
        assert worker.hear() == "ready"
        for number in range(count + 3):
            time.sleep(random.uniform(0.05, 0.6))
            AgentSession.objects.dispatch(f"call-{number}")
            asked = time.monotonic()
            call, joined = worker.hear()
            assert call == f"call-{number}"
            if number >= 3:
                times.append((joined - asked) * 1000)
        worker.tell()
        worker.end()
    return times


if __name__ == "__main__":
    main()
