"""Two workers with Redis between them: the sockets are here, the agents in another process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.processes import Child, child
from tests.websockets.calls.conftest import Serve, Server
from tests.websockets.feeds.test_processes import redis_layer

__all__ = ["Far", "far", "far_process", "redis_layer", "server"]

PROGRAM = """
import struct
from vision_agents.core.edge.events import AudioReceivedEvent
from visionagents_runner.edge import find_room, join_room
from visionagents_runner.testing import join_call, stub_agent

sessions, heard, speakers, delay = {}, [], {}, 0.0

async def create_agent():
    await asyncio.sleep(delay)
    return stub_agent()

async def on_audio(event: AudioReceivedEvent):
    heard.append(int(event.pcm_data.samples[0]))
    assert (event.pcm_data.samples == heard[-1]).all()

async def speak(link, count):
    # A voice is loud; which frame it is tells its exact value.
    for number in range(count):
        link.receive(struct.pack("<h", 5000 + number) * 960)
        await asyncio.sleep(0.02)

async with AgentLauncher(create_agent, join_call) as launcher:
    say("ready")
    while True:
        words = (await asyncio.to_thread(sys.stdin.readline)).split()
        match words:
            case ["start", call_id]:
                session = await launcher.start_session(call_id)
                while session.agent.edge.room is None or session.agent.conversation is None:
                    await asyncio.sleep(0.01)
                session.agent.edge.events.subscribe(on_audio)
                sessions[call_id] = session
                say(session.id)
            case ["start_for", call_id, user_id, *source]:
                session = await launcher.start_session(
                    call_id, started_by_id=int(user_id) or None, source=(source or ["code"])[0]
                )
                while session.agent.edge.room is None:
                    await asyncio.sleep(0.01)
                sessions[session.id] = session
                say(session.id)
            case ["slowly", seconds]:
                delay = float(seconds)
                say("slow")
            case ["close", call_id]:
                sessions[call_id].request_close()
                await sessions[call_id].wait_ended()
                say("closed")
            case ["people", call_id]:
                room = find_room("default", call_id)
                say([person.name for person in room.people.values()] if room else [])
            case ["heard"]:
                say(heard)
            case ["speak", call_id, count]:
                if call_id not in speakers:
                    speakers[call_id] = join_room("default", call_id, "far-speaker").open_pcm()
                await speak(speakers[call_id], int(count))
                say("spoken")
            case ["end_call", call_id]:
                find_room("default", call_id).end()
                say("ended")
            case ["relayed"]:
                from visionagents_runner.websockets.calls.relay import Relay
                from visionagents_runner.worker.current import current_worker
                say(current_worker().services.get(Relay).lanes)
            case ["drain"]:
                say("draining")
                break
            case _:
                break
"""


class Far:
    """The other worker."""

    def __init__(self, process: Child) -> None:
        self.process = process

    async def tell(self, line: str) -> Any:
        self.process.tell(line)
        return await asyncio.to_thread(self.process.hear)

    async def start(self, call_id: str = "my-call") -> str:
        """Start a session there, and wait until its agent is in the room; returns its id."""
        return str(await self.tell(f"start {call_id}"))

    async def people(self, call_id: str = "my-call") -> list[str]:
        return list(await self.tell(f"people {call_id}"))

    async def until_people(self, *names: str, call_id: str = "my-call") -> None:
        """Wait until these are in the room there, and nobody else."""
        async with asyncio.timeout(15):
            while sorted(await self.people(call_id)) != sorted(names):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def until_heard(self, last: int) -> list[int]:
        """Wait until the agent has heard a frame; returns all that it heard."""
        async with asyncio.timeout(15):
            while last not in (heard := await self.tell("heard")):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return list(heard)


@asynccontextmanager
async def far_process(redis_url: str) -> AsyncIterator[Far]:
    with child(PROGRAM, REDIS_URL=redis_url) as process:
        assert await asyncio.to_thread(process.hear) == "ready"
        yield Far(process)
        if process.process.poll() is None:
            process.tell("end")
            await asyncio.to_thread(process.end)


@pytest.fixture
async def server(redis_layer: str, serve: Serve, allow_local: None) -> Server:
    """The worker of this process."""
    return await serve()  # type: ignore[no-any-return]


@pytest.fixture
async def far(redis_layer: str, server: Server) -> AsyncIterator[Far]:
    async with far_process(redis_layer) as far:
        yield far
