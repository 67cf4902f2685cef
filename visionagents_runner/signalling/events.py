"""What happens in a room, as messages of the wire."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

Describe = Callable[[str], "dict[str, Any] | None"]
"""Returns the Session of an agent, by its participant id."""


class Told(NamedTuple):
    message: dict[str, Any]
    key: Hashable | None
    """A message that still waits is replaced by a newer one with the same key: only the newest matters."""


def to_message(event: Any, describe: Describe, *, for_guest: bool) -> Told | None:
    """Return the message that tells of an event of `edge`; None for one that this version of the wire has no word for.

    Guests who were let in by a token are not told what an error says: that is for those who run the agent.
    """
    # By name: the classes themselves would import vision-agents.
    teller = _TELLERS.get(type(event).__name__)
    return None if teller is None else teller(event, describe, for_guest)


def _words(event: Any, describe: Describe, for_guest: bool) -> Told:
    message = {
        "type": "words",
        "message_id": event.message_id,
        "role": event.role,
        "user_id": event.user_id,
        "participant_id": event.participant_id,
        "agent_id": event.agent_id,
        "text": event.text,
        "completed": event.completed,
    }
    return Told(message, ("words", event.agent_id, event.message_id))


def _presence(event: Any, describe: Describe, for_guest: bool) -> Told:
    message = {
        "type": "presence",
        "participant_id": event.participant_id,
        "user_id": event.user_id,
        "name": event.name,
        "is_agent": event.is_agent,
        "here": event.here,
        "muted": bool(getattr(event, "muted", False)),
    }
    if event.is_agent and event.here and (session := describe(event.participant_id)) is not None:
        message["session"] = session
    return Told(message, ("presence", event.participant_id))


def _happening(event: Any, describe: Describe, for_guest: bool) -> Told:
    data: Mapping[str, Any] = event.data
    if event.kind == "error" and for_guest:
        data = {key: data[key] for key in ("component", "recoverable") if key in data}
    key: Hashable | None = None
    if event.kind == "state":
        key = ("state", event.agent_id)
    elif event.kind == "partial":
        key = ("partial", event.agent_id, data.get("message_id") or data.get("participant_id"))
    return Told({"type": "happening", "kind": event.kind, "data": data, "agent_id": event.agent_id}, key)


def _speaking(event: Any, describe: Describe, for_guest: bool) -> Told:
    message = {"type": "speaking", "participant_id": event.participant_id, "speaking": event.speaking}
    return Told(message, ("speaking", event.participant_id))


def _custom(event: Any, describe: Describe, for_guest: bool) -> Told:
    return Told({"type": "custom", "data": event.data, "agent_id": event.agent_id}, None)


def _media(event: Any, describe: Describe, for_guest: bool) -> Told:
    return Told({"type": "media", "transport": event.transport, "state": event.state}, "media")


def _renegotiate(event: Any, describe: Describe, for_guest: bool) -> Told:
    return Told({"type": "renegotiate"}, "renegotiate")


_TELLERS: dict[str, Callable[[Any, Describe, bool], Told]] = {
    "Words": _words,
    "Presence": _presence,
    "Happening": _happening,
    "Speaking": _speaking,
    "CustomEvent": _custom,
    "Media": _media,
    "Renegotiate": _renegotiate,
}
