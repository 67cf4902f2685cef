"""What each line of a session's history says, for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.utils.translation import gettext as _

from ..models import EndReason, SessionEvent
from . import display
from .queued import link_to

Details = list[tuple[str, str]]
"""Pairs of a quiet label, which may be "", and a text."""
MOST_CHARACTERS = 2000
"""Of one text."""


def details(event: SessionEvent, workers: Mapping[str, str] | None = None) -> Details:
    """Return what the event's data say. Whatever their shape, there is something: other versions wrote it too.

    ``workers`` are the names, by id, of those that the page knows.
    """
    return [(label, _shortened(text)) for label, text in _details(event, workers)]


def _shortened(text: str) -> str:
    # The REST API has all of it.
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def _details(event: SessionEvent, workers: Mapping[str, str] | None) -> Details:
    data = event.data if isinstance(event.data, dict) else {"": event.data}
    if event.kind == "claimed" and "worker" in data:
        return [(_("taken by"), (workers or {}).get(str(data["worker"]), str(data["worker"])))]
    describe = _DESCRIBED.get(event.kind)
    if describe is not None:
        try:
            return describe(data)
        except (KeyError, TypeError, AttributeError):
            pass
    return _pairs(data)


def _message(data: dict[str, Any]) -> Details:
    who = str(data["user_id"]) or str(data["role"])
    said = [(f"{who}:", str(data["text"]))]
    return said if data["completed"] else [*said, ("", _("(cut short)"))]


def _asked(data: dict[str, Any]) -> Details:
    by = str(data["by"]) or _("somebody")
    return [(f"{by}:", str(data["text"])), ("", _("to be said") if data["how"] == "say" else _("to be answered"))]


def _turn(data: dict[str, Any]) -> Details:
    how = _("spoken") if data["how"] == "speech" else _("typed")
    parts = (
        (_("total"), "total_ms"),
        (_("end of turn"), "end_of_turn_ms"),
        (_("recognition"), "recognition_ms"),
        (_("model"), "model_ms"),
        (_("voice"), "voice_ms"),
    )
    times = [(label, _("%d ms") % data[key]) for label, key in parts if data[key] is not None]
    return [("", how), *times, *([("", _("interrupted"))] if data["interrupted"] else [])]


def _tool_started(data: dict[str, Any]) -> Details:
    arguments = data["arguments"] or {}
    given = ", ".join(f"{name}={display.json_line(value)}" for name, value in arguments.items())
    return [("", f"{data['name']}({given})")]


def _tool_ended(data: dict[str, Any]) -> Details:
    outcome = (_("result"), display.json_line(data["result"])) if data["ok"] else (_("failed"), str(data["error"]))
    took = [] if data["ms"] is None else [(_("took"), _("%d ms") % data["ms"])]
    return [("", str(data["name"])), outcome, *took]


def _error(data: dict[str, Any]) -> Details:
    parts = (data["type"], data.get("message"))  # what it says is not for everybody
    return [(str(data["component"]), ": ".join(str(part) for part in parts if part))]


def _dropped(data: dict[str, Any]) -> Details:
    missing = ", ".join(f"{count} {kind}" for kind, count in data["kinds"].items())
    return [(_("missing"), missing), (_("reason"), str(data.get("reason", "")))]


def _requested(data: dict[str, Any]) -> Details:
    lost = [(_("goes on for"), link_to(data["restart_of"]))] if data.get("restart_of") else []
    others = {key: value for key, value in data.items() if key != "restart_of"}
    return [*_pairs(others), *lost]


def _postponed(data: dict[str, Any]) -> Details:
    return [("", _("a limit is reached, it is tried again later:")), ("", str(data["reason"]))]


def _requeued(data: dict[str, Any]) -> Details:
    return [("", _("its worker gave it back before its agent was built")), *_pairs(data)]


def _ended(data: dict[str, Any]) -> Details:
    successor = [(_("goes on as"), link_to(data["restarted_as"]))] if data.get("restarted_as") else []
    others = {key: value for key, value in data.items() if key not in {"reason", "restarted_as"}}
    reason = str(data["reason"])
    words = EndReason(reason).label if reason in EndReason.values else reason
    return [(_("reason"), str(words)), *_pairs(others), *successor]


def _pairs(data: dict[str, Any]) -> Details:
    # PostgreSQL keeps keys in an order of its own.
    return [(key, display.json_line(value)) for key, value in sorted(data.items()) if value not in (None, "")]


_DESCRIBED: dict[str, Callable[[dict[str, Any]], Details]] = {
    "requested": _requested,
    "postponed": _postponed,
    "requeued": _requeued,
    "ended": _ended,
    "message": _message,
    "asked": _asked,
    "turn": _turn,
    "tool_started": _tool_started,
    "tool_ended": _tool_ended,
    "error": _error,
    "dropped": _dropped,
}
