"""How long each answer took and where the time went, from ``turn`` events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..models import SessionEvent
from . import display
from .timeline import offset

SLOW_MS = 1000
MOST_TURNS = 50

PARTS = (
    ("end_of_turn_ms", "end", gettext_lazy("end of turn")),
    ("recognition_ms", "recognition", gettext_lazy("recognition")),
    ("model_ms", "model", gettext_lazy("model")),
    ("voice_ms", "voice", gettext_lazy("voice")),
)


@dataclass(frozen=True, slots=True)
class Piece:
    x: str
    width: str
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Turn:
    number: int
    since: str
    how: str
    pieces: list[Piece]
    parts: list[str]
    """A number for each of `PARTS`."""
    total: str
    slow: bool
    interrupted: bool


@dataclass(frozen=True, slots=True)
class Latency:
    turns: list[Turn]
    """The newest last."""
    legend: list[tuple[str, str]]
    summary: str
    slow_at: str
    """Where in a bar a second is over, in per cent."""
    cut: int
    """How many older ones are left out."""


def latency(events: Sequence[SessionEvent], start: datetime) -> Latency:
    """``events`` in order; those that are no turns, or that an older version wrote in another shape, are left out."""
    told = [event for event in events if event.kind == "turn" and _total(event) is not None]
    shown = told[-MOST_TURNS:]
    totals = sorted(total for event in told if (total := _total(event)) is not None)
    longest = max([SLOW_MS * 1.2, *(total for event in shown if (total := _total(event)) is not None)])
    first = len(told) - len(shown) + 1
    return Latency(
        turns=[_turn(number, event, start, longest) for number, event in enumerate(shown, first)],
        legend=[(kind, str(label)) for _key, kind, label in PARTS],
        summary=_summary(totals),
        slow_at=f"{SLOW_MS / longest * 100:.3f}",
        cut=len(told) - len(shown),
    )


def _turn(number: int, event: SessionEvent, start: datetime, longest: float) -> Turn:
    data: dict[str, Any] = event.data
    pieces, x = [], 0.0
    for key, kind, label in PARTS:
        value = data.get(key)
        if isinstance(value, (int, float)) and value > 0:
            width = value / longest * 100
            pieces.append(
                Piece(f"{x:.3f}", f"{width:.3f}", kind, _("%(part)s %(ms)d ms") % {"part": label, "ms": value})
            )
            x += width
    total = _total(event) or 0
    return Turn(
        number=number,
        since=offset(event.at - start),
        how=_("spoken") if data.get("how") == "speech" else _("typed"),
        pieces=pieces,
        parts=[
            display.number(round(v)) if isinstance(v := data.get(key), (int, float)) else "" for key, *_rest in PARTS
        ],
        total=display.number(round(total)),
        slow=total >= SLOW_MS,
        interrupted=bool(data.get("interrupted")),
    )


def _total(event: SessionEvent) -> float | None:
    total = event.data.get("total_ms") if isinstance(event.data, dict) else None
    return total if isinstance(total, (int, float)) and not isinstance(total, bool) else None


def _summary(totals: Sequence[float]) -> str:
    if not totals:
        return ""
    middle, slow = (totals[ceil(share * len(totals)) - 1] for share in (0.5, 0.95))
    over = sum(1 for total in totals if total >= SLOW_MS)
    text = _("p50 %(p50)d ms, p95 %(p95)d ms") % {"p50": middle, "p95": slow}
    return text + _(", %(over)d of %(all)d at a second or more") % {"over": over, "all": len(totals)}
