"""When people spoke, when the agent did, which tools ran and what failed, on one time line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.utils.translation import gettext as _

from ..models import SessionEvent
from . import display

KINDS = frozenset(
    {
        "user_turn_started",
        "user_turn_ended",
        "agent_turn_started",
        "agent_turn_ended",
        "message",
        "tool_started",
        "tool_ended",
        "error",
        "dropped",
        "turn",
    }
)
"""What a time line is made of; ``turn`` is for `latency`, which comes from the same rows."""

_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_MOST_TICKS = 8
_LEAST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Bar:
    """In per cent of the whole; a ``width`` of "0" is a moment."""

    x: str
    width: str
    kind: str
    title: str


@dataclass(slots=True)
class Lane:
    label: str
    bars: list[Bar] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Tick:
    x: str
    label: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Timeline:
    lanes: list[Lane]
    ticks: list[Tick]
    summary: str
    """What the picture shows, for who does not see it."""

    @property
    def empty(self) -> bool:
        return not any(lane.bars for lane in self.lanes)


class _Scale:
    def __init__(self, start: datetime, end: datetime, origin: datetime) -> None:
        self.start = start
        self.origin = origin
        self.seconds = max((end - start).total_seconds(), _LEAST_SECONDS)

    def at(self, moment: datetime) -> float:
        return min(100.0, max(0.0, (moment - self.start).total_seconds() / self.seconds * 100))

    def bar(self, begin: datetime, end: datetime, kind: str, title: str) -> Bar:
        x = self.at(begin)
        took = display.duration(max(end - begin, timedelta()), precise=True)
        since = offset(begin - self.origin)
        return Bar(f"{x:.3f}", f"{self.at(end) - x:.3f}", kind, f"{since} {title}, {took}")

    def moment(self, at: datetime, kind: str, title: str) -> Bar:
        return Bar(f"{self.at(at):.3f}", "0", kind, f"{offset(at - self.origin)} {title}")

    def ticks(self) -> list[Tick]:
        step = next((step for step in _STEPS if self.seconds / step <= _MOST_TICKS), _STEPS[-1])
        marks = range(0, int(self.seconds) + 1, step)
        return [
            Tick(
                f"{x:.3f}",
                offset(self.start - self.origin + timedelta(seconds=mark)),
                "start" if not mark else "end" if x > 97 else "middle",
            )
            for mark in marks
            for x in [mark / self.seconds * 100]
        ]


def timeline(
    events: Sequence[SessionEvent], start: datetime, end: datetime, *, origin: datetime | None = None
) -> Timeline:
    """``events`` in order, of `KINDS`; from ``start`` to ``end``, which is now while the session goes on.

    Times are told since ``origin``, where the picture does not begin with the session.
    """
    scale = _Scale(start, end, origin or start)
    lanes = [
        _spans(scale, end, _("People"), events, "user_turn_started", "user_turn_ended", "people"),
        _spans(scale, end, _("Agent"), events, "agent_turn_started", "agent_turn_ended", "agent"),
        _tools(scale, end, events),
        _errors(scale, events),
    ]
    for event in events:
        data = _data(event)
        if event.kind == "message" and data.get("role") == "user":
            lanes[0].bars.append(scale.moment(event.at, "people", _("words of a person")))
    counts = ", ".join(f"{lane.label}: {len(lane.bars)}" for lane in lanes)
    return Timeline(lanes, scale.ticks(), counts)


def offset(since: timedelta) -> str:
    """Since the beginning: ``1:05``, or ``1:00:05``."""
    seconds = max(0, round(since.total_seconds()))
    minutes, hours = seconds // 60 % 60, seconds // 3600
    return f"{hours}:{minutes:02d}:{seconds % 60:02d}" if hours else f"{minutes}:{seconds % 60:02d}"


def _spans(
    scale: _Scale, end: datetime, label: str, events: Iterable[SessionEvent], begins: str, ends: str, kind: str
) -> Lane:
    lane = Lane(label)
    open_: dict[Any, SessionEvent] = {}
    for event in events:
        who = str(_data(event).get("participant_id", ""))
        if event.kind == begins:
            open_.setdefault(who, event)
        elif event.kind == ends and (begun := open_.pop(who, None)) is not None:
            cut = bool(_data(event).get("interrupted"))
            name = str(_data(begun).get("user_id") or label)
            title = _("%s, interrupted") % name if cut else name
            lane.bars.append(scale.bar(begun.at, event.at, f"{kind} va-cut" if cut else kind, title))
    for begun in open_.values():
        lane.bars.append(scale.bar(begun.at, end, kind, str(_data(begun).get("user_id") or label)))
    return lane


def _tools(scale: _Scale, end: datetime, events: Iterable[SessionEvent]) -> Lane:
    lane = Lane(_("Tools"))
    open_: dict[str, SessionEvent] = {}
    for event in events:
        key, name = str(_data(event).get("tool_call_id", "")), str(_data(event).get("name", ""))
        if event.kind == "tool_started":
            open_[key] = event
        elif event.kind == "tool_ended" and (begun := open_.pop(key, None)) is not None:
            failed = _data(event).get("ok") is False
            title = _("%s, failed") % name if failed else name
            lane.bars.append(scale.bar(begun.at, event.at, "bad" if failed else "tool", title))
    for begun in open_.values():
        lane.bars.append(scale.bar(begun.at, end, "tool", str(_data(begun).get("name", ""))))
    return lane


def _errors(scale: _Scale, events: Iterable[SessionEvent]) -> Lane:
    lane = Lane(_("Errors"))
    for event in events:
        data = _data(event)
        if event.kind == "error":
            title = f"{data.get('component', '')} {data.get('type', '')}".strip() or _("error")
            lane.bars.append(scale.moment(event.at, "bad", title))
        elif event.kind == "dropped":
            lane.bars.append(scale.moment(event.at, "bad", _("events are missing")))
    return lane


def _data(event: SessionEvent) -> dict[str, Any]:
    return event.data if isinstance(event.data, dict) else {}
