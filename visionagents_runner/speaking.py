"""Having a running agent say something, or respond to an instruction, from outside the call."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from .exceptions import RunnerError
from .tasks import spawn

if TYPE_CHECKING:
    from .session import LiveSession

SPEAK_SECONDS = 15.0


class CannotSpeak(RunnerError):
    """The session's agent cannot be spoken through now, or not in this way; the message says why."""


async def say(session: LiveSession, text: str, *, interrupt: bool = False, by: str = "") -> None:
    """Have the agent say ``text``, as it is; returns when that is under way.

    Raises:
        CannotSpeak: it is not on the call, or has a model that speaks only for itself.
        TimeoutError: the agent did not take it in time; it may say it all the same.
    """
    from vision_agents.core.llm.realtime import Realtime

    agent = _agent_on_call(session)
    if isinstance(agent.llm, Realtime):
        raise CannotSpeak("This agent has a Realtime model, which cannot be given the words to say: ask it to respond")
    session.note("asked", {"how": "say", "by": by, "text": text})
    await _bounded(agent.say(text, interrupt=interrupt), session)


async def respond(session: LiveSession, text: str, *, interrupt: bool = True, by: str = "") -> None:
    """Have the agent's model respond to ``text``; returns when it is asked.

    Raises:
        CannotSpeak: it is not on the call.
        TimeoutError: the agent did not take it in time; it may respond all the same.
    """
    agent = _agent_on_call(session)
    session.note("asked", {"how": "respond", "by": by, "text": text})
    await _bounded(agent.simple_response(text, interrupt=interrupt), session)


def _agent_on_call(session: LiveSession) -> Any:
    if session.finished or session.closing:
        raise CannotSpeak("The session has ended, or closes")
    if not session.has_agent or getattr(session.agent, "conversation", None) is None:
        raise CannotSpeak("The agent has not joined the call yet")
    return session.agent


async def _bounded(work: Coroutine[Any, Any, None], session: LiveSession) -> None:
    # A task of its own: what the agent starts meanwhile must not belong to a request, nor end with its client.
    task = spawn(work, name=f"agent-speak-{session.id}")
    session.hold(task)
    async with asyncio.timeout(SPEAK_SECONDS):
        await asyncio.shield(task)
