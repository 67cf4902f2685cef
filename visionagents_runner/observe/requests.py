"""What others ask of the agent: to reply to a text, and to send an event to the call."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .hooks import Undo, hook, quietly

if TYPE_CHECKING:
    from vision_agents.core import Agent

    from .turns import TurnTracker
    from .words import Tell, WordsWatch

_METRICS_EVENT = "agent_metrics"


def watch_requests(agent: Agent, tell: Tell, turns: TurnTracker, words: WordsWatch) -> list[Undo]:
    undo: list[Undo] = []
    if hasattr(agent, "simple_response"):
        undo.append(hook(agent, "simple_response", _asked(agent, turns, words)))
    edge = getattr(agent, "edge", None)
    if edge is not None and hasattr(edge, "send_custom_event"):
        undo.append(hook(edge, "send_custom_event", _sent(tell)))
    return undo


def _asked(agent: Agent, turns: TurnTracker, words: WordsWatch) -> Callable[..., Any]:
    def note(arguments: dict[str, Any]) -> None:
        interrupt = bool(arguments.get("interrupt", True))
        if interrupt:
            words.interrupted()
        participant: Any = arguments.get("participant")
        own = participant is None or str(getattr(participant, "user_id", "")) == str(agent.agent_user.id)
        turns.asked(None if own else str(participant.id), time.monotonic(), interrupt=interrupt)

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        async def simple_response(*args: Any, **kwargs: Any) -> Any:
            quietly("a request", lambda: note(signature.bind(*args, **kwargs).arguments))
            return await original(*args, **kwargs)

        return simple_response

    return make


def _sent(tell: Tell) -> Callable[..., Any]:
    def note(data: Any) -> None:
        # Broadcast metrics come every few seconds, and are kept on the session's row already.
        if not (isinstance(data, dict) and data.get("type") == _METRICS_EVENT):
            tell("custom", {"data": data, "from": "agent"})

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        async def send_custom_event(*args: Any, **kwargs: Any) -> Any:
            result = await original(*args, **kwargs)
            quietly("a custom event", note, args[0] if args else kwargs.get("data"))
            return result

        return send_custom_event

    return make
