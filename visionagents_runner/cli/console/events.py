"""The agent's events that the chat follows."""

from __future__ import annotations

import functools
import operator
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ...utils.text import one_line

if TYPE_CHECKING:
    from vision_agents.core import Agent


def subscribe(agent: Agent, handler: Callable[[Any], Awaitable[None]], *types: type) -> Callable[[], None]:
    """Call ``handler`` with the agent's events of ``types``. Returns what undoes it."""

    async def on_event(event: Any) -> None:
        await handler(event)

    # The event bus reads the types from the annotation, where names that were imported late cannot be resolved.
    on_event.__annotations__ = {"event": functools.reduce(operator.or_, types)}
    agent.events.subscribe(on_event)
    return lambda: agent.events.unsubscribe(on_event)


def worth_listing() -> tuple[type, ...]:
    """The types that ``/events`` lists: all but audio, which comes fifty times a second."""
    from vision_agents.core.agents import events as agents
    from vision_agents.core.edge import events as edge
    from vision_agents.core.llm import events as llm
    from vision_agents.core.tts import events as tts

    return (
        agents.AgentTurnStartedEvent,
        agents.AgentTurnEndedEvent,
        agents.UserTurnStartedEvent,
        agents.UserTurnEndedEvent,
        agents.UserTranscriptEvent,
        edge.ParticipantJoinedEvent,
        edge.ParticipantLeftEvent,
        edge.TrackAddedEvent,
        edge.TrackRemovedEvent,
        edge.CallEndedEvent,
        llm.LLMResponseFinalEvent,
        llm.LLMErrorEvent,
        llm.ToolStartEvent,
        llm.ToolEndEvent,
        tts.TTSSynthesisCompleteEvent,
        tts.TTSErrorEvent,
    )


_DETAILS = ("tool_name", "arguments", "result", "error", "text", "interrupted")
_SHOWN_CHARACTERS = 300


def describe(event: Any) -> str:
    """One line about an event: when, what, who, and what is particular to it."""
    parts = [f"{event.timestamp.astimezone():%H:%M:%S}", str(event.type)]
    if event.participant is not None:
        parts.append(one_line(str(event.participant.user_id)))
    for name in _DETAILS:
        if (value := getattr(event, name, None)) not in (None, "", False):
            parts.append(f"{name}={short(value)}")
    return " ".join(parts)


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
