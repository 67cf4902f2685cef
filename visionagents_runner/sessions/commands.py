"""Having a running agent say something, or respond to an instruction, from outside the call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from ..exceptions import RunnerError
from ..models import CommandKind
from ..utils.tasks import spawn

if TYPE_CHECKING:
    from .session import LiveSession

logger = logging.getLogger(__name__)

SPEAK_SECONDS = 15.0

_ENDED = "The session has ended, or closes"


class CannotSpeak(RunnerError):
    """The session's agent cannot be spoken through now, or not in this way; the message says why."""


class AgentFailed(RunnerError):
    """The agent raised when it was asked to speak; the log of its worker says what."""


async def speak(session: LiveSession, kind: str, text: str, *, interrupt: bool, by: str = "") -> None:
    """Do what a kind of command names, to a session that this process runs: `say` or `respond`."""
    if CommandKind(kind) is CommandKind.SAY:
        await say(session, text, interrupt=interrupt, by=by)
    else:
        await respond(session, text, interrupt=interrupt, by=by)


async def say(session: LiveSession, text: str, *, interrupt: bool = False, by: str = "") -> None:
    """Have the agent say ``text``, as it is; returns when that is under way.

    Raises:
        CannotSpeak: it is not on the call, or has a model that speaks only for itself.
        TimeoutError: the agent did not take it in time; it may say it all the same.
        AgentFailed: it raised.
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
        AgentFailed: it raised.
    """
    agent = _agent_on_call(session)
    session.note("asked", {"how": "respond", "by": by, "text": text})
    await _bounded(agent.simple_response(text, interrupt=interrupt), session)


def _agent_on_call(session: LiveSession) -> Any:
    if session.finished or session.closing:
        raise CannotSpeak(_ENDED)
    if not session.has_agent or getattr(session.agent, "conversation", None) is None:
        raise CannotSpeak("The agent has not joined the call yet")
    return session.agent


async def _bounded(work: Coroutine[Any, Any, None], session: LiveSession) -> None:
    # A task of its own: what the agent starts meanwhile must not belong to a request, nor end with its client.
    task = spawn(work, name=f"agent-speak-{session.id}")
    session.hold(task)
    await asyncio.wait({task}, timeout=SPEAK_SECONDS)
    if not task.done():
        raise TimeoutError
    if task.cancelled():  # by the agent, which closes
        raise CannotSpeak(_ENDED)
    if (failure := task.exception()) is not None:
        logger.error("The agent of session %s failed when it was asked to speak", session.id, exc_info=failure)
        raise AgentFailed("The agent failed; the server's log says why")
