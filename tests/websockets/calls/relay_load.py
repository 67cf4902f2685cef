"""What it costs that a socket is at another worker than its agent.

    python -m tests.websockets.calls.relay_load [--people 10] [--seconds 10]

Two workers on one database, Redis between them. First the round trip of a message that is answered at once; then the
processor time of people who speak and hear each other by PCM, two on each call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import struct
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.browser.server import Server, running_server
from tests.machine.requirements import require
from visionagents_runner.websockets.protocol import FRAME_BYTES

URL = require("redis")
TONE = b"".join(struct.pack("<h", int(12000 * math.sin(i * 0.06))) for i in range(FRAME_BYTES // 2))
ROUNDS = 300


class Person:
    """A client as the page is one."""

    def __init__(self, socket: ClientConnection) -> None:
        self.frames = 0
        self._socket = socket
        self._count = 0

    async def send(self, kind: str, **message: Any) -> None:
        await self._socket.send(json.dumps({"type": kind, **message}))

    async def hear(self, *kinds: str) -> dict[str, Any]:
        while True:
            data = await self._socket.recv()
            self._count += 1
            if self._count % 25 == 0:
                await self.send("ack", n=self._count)
            if isinstance(data, bytes):
                self.frames += 1
                continue
            message: dict[str, Any] = json.loads(data)
            if message["type"] == "ping":
                await self.send("pong", t=message["t"])
            if message["type"] in kinds:
                return message

    async def speak(self, seconds: float) -> None:
        began = time.monotonic()
        for number in range(int(seconds * 50)):
            await asyncio.sleep(max(0.0, began + number * 0.02 - time.monotonic()))
            await self._socket.send(TONE)


async def join(stack: AsyncExitStack, server: Server, call_id: str) -> Person:
    url = f"ws://localhost:{server.port}/ws/calls/default/{call_id}/"
    person = Person(await stack.enter_async_context(connect(url)))
    while True:
        await person.send("hello", v=1)
        message = await person.hear("welcome", "error")
        assert message["type"] == "welcome", message
        return person


async def round_trips(server: Server, call_id: str) -> list[float]:
    """Return how long answers took, in ms."""
    took: list[float] = []
    async with AsyncExitStack() as stack:
        person = await join(stack, server, call_id)
        for _ in range(ROUNDS):
            await asyncio.sleep(0.06)  # fewer than a client may send
            began = time.perf_counter()
            await person.send("say", id=1, text=" ")
            await person.hear("error")
            took.append((time.perf_counter() - began) * 1000)
    return took


async def speech(server: Server, calls: Sequence[str], seconds: float, workers: Sequence[Server]) -> list[float]:
    """Return what share of a core each worker used for a person, in percent, and how many frames a second came."""
    async with AsyncExitStack() as stack:
        people = [await join(stack, server, call_id) for call_id in calls for _ in range(2)]
        hearing = [asyncio.create_task(person.hear("nothing")) for person in people]
        for person in people:
            await person.send("pcm", on=True)
        await asyncio.sleep(1.0)
        before = [cpu_seconds(worker.process.pid) for worker in workers]
        frames = sum(person.frames for person in people)
        began = time.monotonic()
        await asyncio.gather(*(person.speak(seconds) for person in people))
        took = time.monotonic() - began
        after = [cpu_seconds(worker.process.pid) for worker in workers]
        came = (sum(person.frames for person in people) - frames) / took / len(people)
        for task in hearing:
            task.cancel()
    used = [(b - a) / took / len(people) * 100 for a, b in zip(before, after, strict=True)]
    return [*used, came]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def main(people: int, seconds: float) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), REDIS_URL=URL) as agents,
        running_server(Path(folder), REDIS_URL=URL) as others,
    ):
        await asyncio.sleep(3)  # groups of the channel layer are entered
        calls = [f"call-{number}" for number in range(max(1, people // 2))]
        for call_id in calls:
            await asyncio.to_thread(agents.start_agent, call_id)
        for name, server in (("at the agent's worker", agents), ("at another worker", others)):
            took = sorted(await round_trips(server, calls[0]))
            p50, p95 = statistics.median(took), took[int(len(took) * 0.95)]
            print(f"round trip {name}: p50 {p50:.2f} ms, p95 {p95:.2f} ms")
        for name, server in (("at the agent's worker", agents), ("at another worker", others)):
            agent, other, came = await speech(server, calls, seconds, (agents, others))
            print(
                f"PCM {name}, {2 * len(calls)} people: the agent's {agent:.2f} %, the other {other:.2f} % of a core "
                f"for each, {came:.1f} frames/s heard"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.people, arguments.seconds))
