"""Loop CPU of one GET, without a server or a socket: ``python -m tests.benchmarks.inprocess WHICH CALLS``.

WHICH is ``lean``, ``include`` or ``theirs``. The ASGI application is called with a scope as uvicorn makes it. Prints
one JSON line: microseconds a call of the loop's thread, and of the whole process, threads included.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
import time
from typing import Any

_ROUNDS = 5
_WARM_UP_CALLS = 300


async def measure(app: Any, path: str, calls: int) -> dict[str, float]:
    loop_thread, process = [], []
    await _call(app, path, _WARM_UP_CALLS)
    for _ in range(_ROUNDS):
        gc.collect()
        thread_began, process_began = time.thread_time(), time.process_time()
        await _call(app, path, calls // _ROUNDS)
        loop_thread.append((time.thread_time() - thread_began) / (calls // _ROUNDS) * 1e6)
        process.append((time.process_time() - process_began) / (calls // _ROUNDS) * 1e6)
    return {"loop_us": statistics.median(loop_thread), "process_us": statistics.median(process)}


async def _call(app: Any, path: str, calls: int) -> None:
    base = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1:8000"), (b"accept", b"*/*"), (b"user-agent", b"load")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }
    status = 0
    gone = asyncio.Event()

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    for _ in range(calls):
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:
                await gone.wait()
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        status = 0
        await app({**base, "headers": list(base["headers"]), "state": {}}, receive, send)  # type: ignore[call-overload]
        assert status == 200, status


async def theirs(calls: int) -> dict[str, float]:
    from .theirs import runner

    async with runner._launcher as launcher:
        session = await launcher.start_session("call")
        return await measure(runner.fast_api, f"/calls/call/sessions/{session.id}", calls)


async def ours(calls: int) -> dict[str, float]:
    from visionagents_runner.registry import get_runner
    from visionagents_runner.worker.process import drain, ensure_worker

    runner = get_runner()
    worker = await ensure_worker(runner)
    await worker.wait_warm()
    try:
        session = await runner.launcher().start_session("call")
        calls_route = await measure(runner.asgi, f"/calls/call/sessions/{session.id}", calls)
        sessions_route = await measure(runner.asgi, f"/sessions/{session.id}", calls)
        return {**calls_route, **{f"sessions_{key}": value for key, value in sessions_route.items()}}
    finally:
        await drain(runner)


def main(which: str, calls: int) -> dict[str, float]:
    if which == "theirs":
        return asyncio.run(theirs(calls))
    os.environ["BENCHMARK_LEAN"] = "1" if which == "lean" else "0"
    import django

    django.setup()
    return asyncio.run(ours(calls))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
