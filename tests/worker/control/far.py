"""A worker in another process, whose sessions are reached from here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.processes import Child, child

_TALKING = """
from visionagents_runner.testing import join_call, stub_agent

def create_agent():
    return stub_agent()

async def joined(session):
    while session.agent.edge.room is None or session.agent.conversation is None:
        await asyncio.sleep(0.01)
"""

_DUMB = """
async def joined(session):
    await session.agent.joined.wait()
"""

_PROGRAM = """
async def hang(text, interrupt=False):
    await asyncio.Event().wait()

async def fail(text, interrupt=False):
    raise RuntimeError("secret of the provider")

sessions = {}
async with AgentLauncher(create_agent, join_call, close_timeout=5.0) as launcher:
    say("ready")
    while True:
        line = (await asyncio.to_thread(sys.stdin.readline)).split()
        match line:
            case ["start", call_id]:
                session = await launcher.start_session(call_id)
                sessions[session.id] = session
                await joined(session)
                say(session.id)
            case ["ended", session_id]:
                await sessions[session_id].wait_ended()
                say(sessions[session_id].end_reason)
            case ["close", session_id]:
                sessions[session_id].request_close()
                say("asked")
            case ["said", session_id]:
                say([message.content for message in sessions[session_id].agent.conversation.messages])
            case ["spoil", session_id, how]:
                sessions[session_id].agent.say = {"hang": hang, "fail": fail}[how]
                say("spoilt")
            case ["freeze"]:
                say("frozen")
                wait()
            case _:
                break
"""


class Far:
    def __init__(self, process: Child) -> None:
        self._process = process
        self._frozen = False

    async def do(self, *words: str) -> Any:
        self._process.tell(" ".join(words))
        return await self.hear()

    async def hear(self) -> Any:
        async with asyncio.timeout(30):
            return await asyncio.to_thread(self._process.hear)

    async def start(self, call_id: str = "far") -> str:
        return str(await self.do("start", call_id))

    async def said(self, session_id: str) -> list[str]:
        return list(await self.do("said", session_id))

    async def freeze(self) -> None:
        """Have its event loop stand still. SIGSTOP might do so in the middle of a transaction, which locks SQLite."""
        assert await self.do("freeze") == "frozen"
        self._frozen = True

    def thaw(self) -> None:
        if self._frozen:
            self._frozen = False
            self._process.tell()

    def kill(self) -> None:
        self._process.process.kill()
        self._process.process.wait(30)


@asynccontextmanager
async def worker_elsewhere(redis_url: str = "", *, talks: bool = False, **settings: Any) -> AsyncIterator[Far]:
    """Run a worker in another process, with its channel layer there, and these settings.

    Its agents are stubs, which start quickly; with ``talks``, they are real but for their models.
    """
    program = (_TALKING if talks else _DUMB) + _PROGRAM
    settings = {"LOOP_LAG_LIMIT": 0, **settings}
    with child(program, REDIS_URL=redis_url, TEST_RUNNER_SETTINGS=json.dumps(settings)) as process:
        far = Far(process)
        assert await far.hear() == "ready"
        yield far
        if process.process.poll() is None:
            far.thaw()
            process.tell("end")
            await asyncio.to_thread(process.end)
