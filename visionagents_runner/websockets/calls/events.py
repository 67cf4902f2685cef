"""What happens in a room, as messages of the wire."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from django.utils.crypto import salted_hmac

from ...conf.settings import get_settings

Describe = Callable[[str], "dict[str, Any] | None"]
"""Returns the Session of an agent, by its participant id."""


class Told(NamedTuple):
    message: dict[str, Any]
    key: Hashable | None
    """A message that still waits is replaced by a newer one with the same key: only the newest matters."""


def to_message(event: Any, describe: Describe, *, for_guest: bool, hidden: bool = False) -> Told | None:
    """Return the message that tells of an event of `edge`.

    None for one that this version of the wire has no word for, and for what is not for guests who were let in by an
    invitation. These are told what is said and who is there, whether the agent thinks or speaks, and that there was an
    error. Not: what an error says, the ids of users, and, without ``GUESTS_SEE_TOOLS``, which tools the agent calls.
    What happens in a session that is ``hidden`` from somebody is told to them as to a guest.
    """
    if hidden and (event := _heard(event)) is None:
        return None
    # By name: the classes themselves would import vision-agents.
    teller = _TELLERS.get(type(event).__name__)
    return None if teller is None else teller(event, describe, for_guest)


def guests_see(kind: str, data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what guests may know of something that an agent did; None for nothing."""
    tools = get_settings().GUESTS_SEE_TOOLS
    if kind in _TOOL_KINDS and tools:
        return dict(data)
    if kind not in _GUEST_KINDS or (kind in _KINDS_OF_WORDS and not _is_for_guests(data.get("role"))):
        return None
    keys = _GUEST_KINDS[kind]
    shown = {key: value for key, value in data.items() if keys is None or key in keys}
    if shown.get("user_id") is not None and shown.get("role") != "assistant":
        shown["user_id"] = alias_of(str(shown["user_id"]))
    return shown


def _heard(event: Any) -> Any:
    """Return what can be heard of something that an agent did; None for nothing."""
    match type(event).__name__:
        case "Words":
            return event if _is_for_guests(event.role) else None
        case "Happening":
            data = guests_see(event.kind, event.data)
            return None if data is None else replace(event, data=data)
    return event


def alias_of(user_id: str) -> str:
    """Return what stands for a user's id where guests see it: always the same, and no key of any table."""
    return user_id if _OF_GUESTS.fullmatch(user_id) else f"person-{salted_hmac(_ALIAS, user_id).hexdigest()[:16]}"


_ALIAS = "visionagents_runner.guests"
_OF_GUESTS = re.compile(r"guest-[0-9a-f]{12}")
"""They were made up when somebody joined, see `access`."""

_TOOL_KINDS = frozenset({"tool_started", "tool_ended"})
_TOOL_ROLES = frozenset({"tool", "function"})
_KINDS_OF_WORDS = frozenset({"message", "partial"})
_GUEST_KINDS: Mapping[str, frozenset[str] | None] = {
    **dict.fromkeys(("state", "interrupted", "turn", "message", "partial")),
    **dict.fromkeys(("agent_joined", "agent_left", "agent_turn_started", "agent_turn_ended")),
    **dict.fromkeys(("participant_joined", "participant_left", "user_turn_started", "user_turn_ended")),
    "error": frozenset({"component", "recoverable"}),
    "connection": frozenset({"component", "state"}),
}
"""What guests are told of, and which of its data; None: all."""


def _is_for_guests(role: Any) -> bool:
    """Whether guests may read words of that role: not instructions, and what tools say only if they may see tools."""
    return role in {"user", "assistant"} or (role in _TOOL_ROLES and get_settings().GUESTS_SEE_TOOLS)


def _words(event: Any, describe: Describe, for_guest: bool) -> Told | None:
    user_id = event.user_id
    if for_guest:
        if not _is_for_guests(event.role):
            return None
        user_id = user_id if event.role == "assistant" else alias_of(user_id)
    message = {
        "type": "words",
        "message_id": event.message_id,
        "role": event.role,
        "user_id": user_id,
        "participant_id": event.participant_id,
        "agent_id": event.agent_id,
        "text": event.text,
        "completed": event.completed,
    }
    return Told(message, ("words", event.agent_id, event.message_id))


def _presence(event: Any, describe: Describe, for_guest: bool) -> Told:
    user_id, name = event.user_id, event.name
    if for_guest and not event.is_agent:
        user_id = alias_of(user_id)
        name = name.partition("@")[0] or name  # it may be the address by which somebody signs in
    message = {
        "type": "presence",
        "participant_id": event.participant_id,
        "user_id": user_id,
        "name": name,
        "is_agent": event.is_agent,
        "here": event.here,
        "muted": bool(getattr(event, "muted", False)),
    }
    if event.is_agent and event.here and (session := describe(event.participant_id)) is not None:
        message["session"] = session
    return Told(message, ("presence", event.participant_id))


def _happening(event: Any, describe: Describe, for_guest: bool) -> Told | None:
    data: Mapping[str, Any] | None = guests_see(event.kind, event.data) if for_guest else event.data
    if data is None:
        return None
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
    message = {"type": "media", "transport": event.transport, "state": event.state}
    return Told({**message, "detail": event.detail} if event.detail else message, "media")


def _renegotiate(event: Any, describe: Describe, for_guest: bool) -> Told:
    return Told({"type": "renegotiate"}, "renegotiate")


_TELLERS: dict[str, Callable[[Any, Describe, bool], Told | None]] = {
    "Words": _words,
    "Presence": _presence,
    "Happening": _happening,
    "Speaking": _speaking,
    "CustomEvent": _custom,
    "Media": _media,
    "Renegotiate": _renegotiate,
}
