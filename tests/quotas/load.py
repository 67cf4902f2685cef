"""What one of many can take of a worker, by three that try.

    python -m tests.quotas.load [--seats 30] [--seconds 10] [--feeds 2000] [--without-limits]

Somebody with one invitation takes seats on its call; one guest types as fast as the socket takes it; a user who may see
nothing opens list feeds, while the processor time of the server is read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.browser.server import Server, running_server
from tests.websockets.calls.relay_load import Person, cpu_seconds
from visionagents_runner.quotas.limits import Limits

_AT_ONCE = 40


def invite(server: Server, call_id: str) -> str:
    session_id = server.start_agent(call_id)
    status, answer = server.request("POST", f"/sessions/{session_id}/invitations", {"role": "speaker"})
    assert status == 201, answer
    return str(answer["token"])


async def seats(server: Server, tries: int) -> tuple[int, str]:
    """Return how many seats one invitation takes, and what the first that got none was told."""
    token = invite(server, "seats")
    taken, told = 0, ""
    async with AsyncExitStack() as stack:
        for _ in range(tries):
            url = f"ws://localhost:{server.port}/ws/calls/default/seats/"
            person = Person(await stack.enter_async_context(connect(url)))
            await person.send("hello", v=1, token=token)
            message = await person.hear("welcome", "error")
            taken += message["type"] == "welcome"
            told = told or message.get("detail", "")
    return taken, told


async def turns(server: Server, seconds: float) -> tuple[int, int]:
    """Return how many typed turns of a guest were taken, and how many were refused."""
    token = invite(server, "turns")
    taken = refused = 0
    async with connect(f"ws://localhost:{server.port}/ws/calls/default/turns/") as socket:
        person = Person(socket)
        await person.send("hello", v=1, token=token)
        await person.hear("welcome")

        async def type_on() -> None:
            for number in range(int(seconds * 19)):
                await person.send("say", id=number, text="what time is it")
                await asyncio.sleep(1 / 19)

        typing = asyncio.create_task(type_on())
        with_answer = asyncio.timeout(seconds + 2)
        try:
            async with with_answer:
                while True:
                    message = await person.hear("said", "error")
                    taken += message["type"] == "said"
                    refused += message["type"] == "error"
        except TimeoutError:
            pass
        await asyncio.gather(typing, return_exceptions=True)
    return taken, refused


async def feeds(server: Server, count: int, seconds: float) -> dict[str, Any]:
    """Return how many list feeds a user who may see nothing gets, and what of a core they take."""
    headers = {"Cookie": f"sessionid={server.visitor}", "Origin": server.url_from_elsewhere}
    host = server.url_from_elsewhere.removeprefix("http://").partition(":")[0]
    url = f"ws://{host}:{server.port}/ws/sessions/"
    sockets: list[asyncio.Task[None]] = []
    welcomed = refused = 0
    gate = asyncio.Semaphore(_AT_ONCE)
    settled = asyncio.Queue[None]()

    async def follow() -> None:
        nonlocal welcomed, refused
        told = False
        try:
            async with gate:
                socket = await connect(url, additional_headers=headers, host="127.0.0.1", ping_interval=None)
                person = Person(socket)
                await person.send("hello", v=1)
                message = await person.hear("welcome", "error")
            welcomed += message["type"] == "welcome"
            refused += message["type"] == "error"
            told = True
            settled.put_nowait(None)
            await person.hear("nothing")
        except (OSError, WebSocketException, ConnectionClosed):
            if not told:
                refused += 1
                settled.put_nowait(None)

    before, began = cpu_seconds(server.process.pid), time.monotonic()
    sockets = [asyncio.create_task(follow()) for _ in range(count)]
    for _ in range(count):
        await settled.get()
    opening = cpu_seconds(server.process.pid) - before
    took = time.monotonic() - began
    await asyncio.sleep(3)
    before, began = cpu_seconds(server.process.pid), time.monotonic()
    await asyncio.sleep(seconds)
    used = (cpu_seconds(server.process.pid) - before) / (time.monotonic() - began)
    for each in sockets:
        each.cancel()
    await asyncio.gather(*sockets, return_exceptions=True)
    return {"welcomed": welcomed, "refused": refused, "opening": opening, "took": took, "used": used}


async def main(tries: int, seconds: float, count: int, *, limits: bool) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * count + 500)), hard))
    off = dict.fromkeys(Limits.__dataclass_fields__)
    settings = json.dumps({"LOOP_LAG_LIMIT": 0.5, "LIMITS": {} if limits else off})
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), TEST_RUNNER_SETTINGS=settings) as server,
    ):
        taken, told = await seats(server, tries)
        print(f"seats that one invitation takes of {tries} tries: {taken} ({told})")
        taken, refused = await turns(server, seconds)
        print(f"typed turns of one guest in {seconds:g} s: {taken} taken, {refused} refused")
        print("list feeds of a user who may see nothing:", await feeds(server, count, seconds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seats", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--feeds", type=int, default=2000)
    parser.add_argument("--without-limits", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.seats, arguments.seconds, arguments.feeds, limits=not arguments.without_limits))
