"""The stubs. The agent around them is real, and so are its events, conversation and metrics."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from vision_agents.core import Agent, User
from vision_agents.core.edge.types import Participant
from vision_agents.core.llm.llm import LLM, LLMResponseDelta, LLMResponseFinal

from ..demo.voice import SilentTTS
from ..edge import BrowserEdge, Person, Words, join_room
from ..edge.filters import PassThroughFilter


class EchoLLM(LLM):
    """Replies "You said: ..." in words."""

    provider_name = "echo"
    model = "echo"

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    async def simple_response(
        self, text: str, participant: Participant | None = None
    ) -> AsyncIterator[LLMResponseDelta | LLMResponseFinal]:
        began = time.perf_counter()
        item_id = str(uuid.uuid4())
        answer = f"You said: {text}"
        for index, word in enumerate(re.findall(r"\s*\S+\s*", answer)):
            yield LLMResponseDelta(delta=word, content_index=index, item_id=item_id, is_first_chunk=index == 0)
        yield LLMResponseFinal(
            text=answer, item_id=item_id, model=self.model, latency_ms=(time.perf_counter() - began) * 1000
        )


class StubEdge(BrowserEdge):
    """A room in this process, with what the agent sent to it kept for assertions."""

    def __init__(self) -> None:
        super().__init__()
        self.custom_events: list[dict[str, Any]] = []
        """What the agent sent with ``send_custom_event``, oldest first."""

    def person(self, user_id: str = "tester") -> Person:
        """Let somebody into the room that the agent is in. They stay until ``person.leave()``."""
        room = self._connected().room
        return join_room(room.call_type, room.call_id, user_id)

    def end_call(self) -> None:
        """End the call for everybody, as a host does."""
        self._connected().room.end()

    async def ask(self, text: str, *, user_id: str = "tester", timeout: float = 10.0) -> str:
        """Let somebody join, type ``text``, wait for the agent's final words and leave. Returns these words.

        Raises:
            TimeoutError: there was none within ``timeout`` seconds.
        """
        person = self.person(user_id)
        try:
            async with asyncio.timeout(timeout):
                await person.say(text)
                async for event in person:
                    if isinstance(event, Words) and event.role == "assistant" and event.completed:
                        return event.text
        finally:
            person.leave()
        raise RuntimeError("The call ended before the agent replied")

    async def send_custom_event(self, data: dict[str, Any]) -> None:
        await super().send_custom_event(data)
        self.custom_events.append(data)


def stub_agent(*, llm: LLM | None = None, edge: StubEdge | None = None, **options: Any) -> Agent:
    """Return a real agent on a `StubEdge` that answers by `EchoLLM`; ``options`` go to ``Agent``."""
    options.setdefault("agent_user", User(id="stub-agent", name="Stub agent"))
    options.setdefault("multi_speaker_filter", PassThroughFilter())
    options.setdefault("tts", SilentTTS())
    return Agent(edge=edge or StubEdge(), llm=llm or EchoLLM(), **options)


async def join_call(agent: Agent, call_type: str, call_id: str) -> None:
    """Join the call, wait for nobody, and stay until it ends: the simplest ``join_call``."""
    call = await agent.create_call(call_type, call_id)
    async with agent.join(call, participant_wait_timeout=0):
        await agent.finish()
