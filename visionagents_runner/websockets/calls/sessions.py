"""What the people of a call are told about its agents' sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.dispatch import receiver
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ...models import AgentSession, EndReason
from ...signals import session_started
from ...utils.timestamps import iso
from ...worker.current import current_worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...edge import Presence
    from ...sessions.session import LiveSession

_END_WORDS = {
    EndReason.FINISHED: gettext_lazy("The call has ended."),
    EndReason.REQUESTED: gettext_lazy("The session was closed."),
    EndReason.IDLE: gettext_lazy("The agent left because nobody was there."),
    EndReason.MAX_DURATION: gettext_lazy("The agent left: the call reached the longest time that it may take."),
    EndReason.DRAINED: gettext_lazy("The server is being restarted. Start the agent again in a moment."),
    EndReason.CANCELLED: gettext_lazy("The session was cancelled."),
    EndReason.CREATE_FAILED: gettext_lazy("The agent could not be started. The server's log says why."),
    EndReason.JOIN_FAILED: gettext_lazy("The agent could not join the call. The server's log says why."),
    EndReason.ERROR: gettext_lazy("The agent stopped because of an error. The server's log says which."),
    EndReason.WORKER_LOST: gettext_lazy("The server that ran the agent is gone."),
    EndReason.EXPIRED: gettext_lazy("No server had room for the agent in time. Start it again in a moment."),
}


def end_words(reason: EndReason | None) -> str:
    """Return why a session ended, in words for the people of its call."""
    return str(_END_WORDS[reason]) if reason is not None else _("The session has ended.")


def describe(session: LiveSession, presence: Presence | None, *, for_guest: bool) -> dict[str, Any]:
    """Return the Session of the wire; ``presence`` is that of its agent, if it is in the room.

    Guests are not told whose models it uses, and not what was given to the agent.
    """
    agent: Any = session.agent if session.has_agent else None
    user = getattr(agent, "agent_user", None)
    told: dict[str, Any] = {
        "session_id": session.id,
        "agent": session.agent_name,
        "agent_id": agent_id(session),
        "agent_name": getattr(user, "name", None) or getattr(user, "id", None) or session.agent_name,
        "status": session.status.value,
        "started_at": iso(session.started_at),
        "models": {},
        "note": str(getattr(getattr(agent, "llm", None), "note", "") or ""),
        "wants_video": bool(getattr(presence, "wants_video", False)),
        "publishes_video": bool(getattr(presence, "publishes_video", False)),
    }
    if not for_guest:
        told["metadata"] = session.metadata
        told["models"] = {part: model_name(getattr(agent, part, None)) for part in ("llm", "stt", "tts")}
    return told


def describe_end(session: LiveSession) -> dict[str, Any]:
    reason = session.end_reason
    worker = current_worker()
    code_changes = reason is EndReason.CANCELLED and worker is not None and worker.code_changes
    return {
        "type": "session",
        "session_id": session.id,
        "agent_id": agent_id(session),
        "status": session.status.value,
        "end_reason": reason.value if reason is not None else None,
        "end_words": _("The server loads newer code.") if code_changes else end_words(reason),
        "code_changes": code_changes,
    }


def agent_id(session: LiveSession) -> str:
    """Return the id by which the agent is known in the room; "" until it is built."""
    return str(getattr(session.agent, "id", "")) if session.has_agent else ""


def model_name(part: Any) -> str | None:
    """Return ``provider/model`` of an agent's LLM, STT or TTS as far as it tells; None if the agent has none."""
    if part is None:
        return None
    provider = getattr(part, "provider_name", None) or type(part).__name__
    model = getattr(part, "model", None) or getattr(part, "model_name", None)
    return f"{provider}/{model}" if isinstance(model, str) and model else str(provider)


# Sessions that start while people are there

_listeners: dict[tuple[str, str], list[Callable[[LiveSession], None]]] = {}


def on_start(call_type: str, call_id: str, listener: Callable[[LiveSession], None]) -> Callable[[], None]:
    """Have ``listener(session)`` called when this process starts a session on that call. Returns what ends it."""
    key = (call_type, call_id)
    listeners = _listeners.setdefault(key, [])
    listeners.append(listener)

    def remove() -> None:
        if listener in listeners:
            listeners.remove(listener)
        if not listeners and _listeners.get(key) is listeners:
            del _listeners[key]

    return remove


@receiver(session_started, sender=AgentSession, dispatch_uid="visionagents_runner.websockets.calls")
async def _tell_started(*, session: LiveSession, **kwargs: Any) -> None:
    for listener in list(_listeners.get((session.call_type, session.call_id), ())):
        listener(session)
