"""The agent's event bus: what of it is told, and under which names."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from ..utils.credentials import without_credentials
from .hooks import Undo, hook, quietly

if TYPE_CHECKING:
    from vision_agents.core import Agent

    from .turns import TurnTracker
    from .words import Tell, WordsWatch

_NOTED = "_visionagents_runner_noted"
_MOST_SAID = 16 * 1024
"""Characters of an error: what is kept has no room for more."""

Handler = Callable[[Any, float], None]
"""Called with an event and the time at which it was made, as of ``time.time()``."""


def watch_bus(agent: Agent, tell: Tell, turns: TurnTracker, words: WordsWatch) -> list[Undo]:
    """Learn of every event that is told, at the moment when it is sent.

    A subscriber would learn of it a little later, in a task of its own: after words that came after it, and never if
    the agent closes first. So the ``send`` of each part's bus is hooked; the subscription is for buses that are merged
    into one of these and not known here.
    """
    if getattr(agent, "events", None) is None:
        return []
    handlers = {
        **_agent_handlers(tell, turns, words),
        **_people_handlers(tell, turns),
        **_tool_handlers(tell),
        **_trouble_handlers(agent, tell, turns),
        **_voice_handlers(turns),
    }
    known: dict[type, Handler | None] = {}

    def note(event: Any) -> None:
        kind = type(event)
        if kind not in known:
            known[kind] = next((handlers[base] for base in kind.__mro__ if base in handlers), None)
        handler = known[kind]
        if handler is None or getattr(event, _NOTED, False):
            return
        setattr(event, _NOTED, True)
        quietly(kind.__name__, handler, event, _time_of(event))

    async def on_event(event: Any) -> None:
        note(event)

    # The bus finds the types of events by this annotation; they are known only here.
    on_event.__annotations__["event"] = reduce(or_, handlers)
    agent.events.subscribe(on_event)
    undo = [hook(bus, "send", _noting(note)) for bus in _buses(agent)]
    return [*undo, lambda: agent.events.unsubscribe(on_event)]


def _noting(note: Callable[[Any], None]) -> Callable[..., Any]:
    def make(original: Callable[..., None]) -> Callable[..., None]:
        def send(*events: Any) -> None:
            for event in events:
                note(event)
            original(*events)

        return send

    return make


def _buses(agent: Agent) -> list[Any]:
    """The event buses of the agent and of the parts whose buses it merges into its own."""
    names = ("stt", "tts", "turn_detection", "llm", "avatar", "edge")
    buses = [agent.events, *(getattr(getattr(agent, name, None), "events", None) for name in names)]
    return list({id(bus): bus for bus in buses if bus is not None}.values())


def is_realtime(agent: Agent) -> bool:
    from vision_agents.core.llm.realtime import Realtime

    return isinstance(getattr(agent, "llm", None), Realtime)


def _time_of(event: Any) -> float:
    timestamp = getattr(event, "timestamp", None)
    return timestamp.timestamp() if timestamp is not None else time.time()


def _monotonic(at: float) -> float:
    return time.monotonic() - max(0.0, time.time() - at)


def _person(event: Any) -> dict[str, Any]:
    participant = getattr(event, "participant", None)
    if participant is None:
        return {"participant_id": None, "user_id": None}
    return {"participant_id": str(participant.id), "user_id": str(participant.user_id)}


def _agent_handlers(tell: Tell, turns: TurnTracker, words: WordsWatch) -> dict[type, Handler]:
    from vision_agents.core.agents import events

    def user_turn_started(event: events.UserTurnStartedEvent, at: float) -> None:
        person = _person(event)
        words.interrupted()
        tell("user_turn_started", person, at)

    def user_turn_ended(event: events.UserTurnEndedEvent, at: float) -> None:
        person = _person(event)
        if person["participant_id"] is not None:
            turns.answering(person["participant_id"], _monotonic(at))
        tell("user_turn_ended", person, at)

    def agent_turn_started(event: events.AgentTurnStartedEvent, at: float) -> None:
        turns.audio_started(_monotonic(at))
        tell("agent_turn_started", {}, at)

    def agent_turn_ended(event: events.AgentTurnEndedEvent, at: float) -> None:
        if event.interrupted:
            turns.interrupted(_monotonic(at))
            words.interrupted()
        tell("agent_turn_ended", {"interrupted": bool(event.interrupted)}, at)

    return {
        events.AgentJoinedCallEvent: lambda event, at: tell("agent_joined", {}, at),
        events.AgentLeftCallEvent: lambda event, at: tell("agent_left", {}, at),
        events.UserTurnStartedEvent: user_turn_started,
        events.UserTurnEndedEvent: user_turn_ended,
        events.AgentTurnStartedEvent: agent_turn_started,
        events.AgentTurnEndedEvent: agent_turn_ended,
    }


_custom_events: list[type] = []


def register_custom_event(kind: type) -> None:
    """Have every agent's history tell of events of this class, with their ``data`` and ``participant``.

    For edges whose clients send events of their own.
    """
    if kind not in _custom_events:
        _custom_events.append(kind)


def _people_handlers(tell: Tell, turns: TurnTracker) -> dict[type, Handler]:
    from vision_agents.core.edge.events import ParticipantJoinedEvent, ParticipantLeftEvent

    def left(event: ParticipantLeftEvent, at: float) -> None:
        turns.forget(str(event.participant.id))
        tell("participant_left", _person(event), at)

    handlers: dict[type, Handler] = {
        ParticipantJoinedEvent: lambda event, at: tell("participant_joined", _person(event), at),
        ParticipantLeftEvent: left,
    }
    for custom in _custom_events:
        handlers[custom] = lambda event, at: tell("custom", {"data": event.data, "from": _person(event)}, at)
    return handlers


def _tool_handlers(tell: Tell) -> dict[type, Handler]:
    from vision_agents.core.llm.events import ToolEndEvent, ToolStartEvent

    def started(event: ToolStartEvent, at: float) -> None:
        data = {"tool_call_id": event.tool_call_id, "name": event.tool_name, "arguments": event.arguments}
        tell("tool_started", data, at)

    def ended(event: ToolEndEvent, at: float) -> None:
        data = {"tool_call_id": event.tool_call_id, "name": event.tool_name, "ok": event.success}
        ms = None if event.execution_time_ms is None else round(event.execution_time_ms, 1)
        error = None if event.error is None else without_credentials(str(event.error)[:_MOST_SAID])
        tell("tool_ended", {**data, "ms": ms, "error": error, "result": event.result}, at)

    return {ToolStartEvent: started, ToolEndEvent: ended}


def _trouble_handlers(agent: Agent, tell: Tell, turns: TurnTracker) -> dict[type, Handler]:
    from vision_agents.core.events.base import ExceptionEvent
    from vision_agents.core.llm import events as llm
    from vision_agents.core.stt import events as stt
    from vision_agents.core.tts import events as tts

    model = "realtime" if is_realtime(agent) else "llm"

    def error(component: str) -> Handler:
        def tell_error(event: Any, at: float) -> None:
            raised = getattr(event, "error", None) or getattr(event, "exc", None)
            if isinstance(raised, asyncio.CancelledError):
                return
            context = str(getattr(event, "context", None) or "")
            text = str(raised) if raised is not None else str(getattr(event, "error_message", "Unknown error"))
            text = text[:_MOST_SAID]
            data = {
                "component": component,
                "type": type(raised).__name__ if raised is not None else "",
                "message": without_credentials(f"{context}: {text}" if context else text),
                "recoverable": getattr(event, "is_recoverable", None),
            }
            tell("error", data, at)

        return tell_error

    def connection(component: str, state: str) -> Handler:
        def tell_connection(event: Any, at: float) -> None:
            reason = getattr(event, "reason", None)
            reason = None if reason is None else without_credentials(str(reason)[:_MOST_SAID])
            tell("connection", {"component": component, "state": state, "reason": reason}, at)

        return tell_connection

    tell_voice_error = error("tts")

    def voice_error(event: tts.TTSErrorEvent, at: float) -> None:
        turns.synthesis_ended(None, _monotonic(at), 0.0)
        tell_voice_error(event, at)

    return {
        llm.LLMErrorEvent: error(model),
        stt.STTErrorEvent: error("stt"),
        tts.TTSErrorEvent: voice_error,
        ExceptionEvent: error("handler"),
        llm.RealtimeConnectedEvent: connection("realtime", "connected"),
        llm.RealtimeDisconnectedEvent: connection("realtime", "disconnected"),
        stt.STTConnectedEvent: connection("stt", "connected"),
        stt.STTDisconnectedEvent: connection("stt", "disconnected"),
        tts.TTSConnectedEvent: connection("tts", "connected"),
        tts.TTSDisconnectedEvent: connection("tts", "disconnected"),
    }


def _voice_handlers(turns: TurnTracker) -> dict[type, Handler]:
    from vision_agents.core.tts.events import TTSSynthesisCompleteEvent, TTSSynthesisStartEvent

    return {
        TTSSynthesisStartEvent: lambda event, at: turns.synthesis_started(event.synthesis_id, _monotonic(at)),
        TTSSynthesisCompleteEvent: lambda event, at: turns.synthesis_ended(
            event.synthesis_id, _monotonic(at), (event.audio_duration_ms or 0.0) / 1000
        ),
    }
