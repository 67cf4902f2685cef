"""What the page of a session tells: its life, its numbers, its turns, its words.

The queries go by the index of a session's events. However long a history is, the page looks at its newest
`MOST_LOOKED_AT` events only, and shows fewer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db.models import Count
from django.utils import formats
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from ..conf.prices import DECIMAL_PLACES
from ..models import KINDS_WITHOUT_WORDS, AgentSession, SessionEvent, SessionStatus, without_words
from . import display
from .audit import trail_of_session
from .history import MOST_CHARACTERS, details
from .latency import PARTS, latency
from .queued import names_of, notices
from .timeline import KINDS as TIMELINE_KINDS
from .timeline import offset, timeline
from .tracebacks import read_report

if TYPE_CHECKING:
    from ..models.event import SessionEventQuerySet

MOST_EVENTS = 500
MOST_WORDS = 500
MOST_DRAWN = 600
"""Drawing them holds the interpreter, which may carry calls too: 600 take some 20 ms."""
MOST_LOOKED_AT = 10_000
MOST_SHOWN = 200_000
"""Characters of what was said, and as many of the events: more would hold the interpreter, as drawing does."""
_CHUNK = 50
_FIRST_EVENTS = 1000
_WORDS = ("message", "asked", "dropped")


@dataclass(frozen=True, slots=True)
class Step:
    label: str
    time: SafeString | None
    since: str
    note: str = ""
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Tile:
    name: str
    label: str
    value: str
    note: str = ""
    bad: bool = False


class Story:
    """``words``: whether the reader may know what was said and done; ``numbers``: whether they may see metrics;
    ``errors``: whether they may read what errors say."""

    def __init__(self, session: AgentSession, now: datetime, *, words: bool, numbers: bool, errors: bool) -> None:
        self.session = session
        self.now = now
        self.end = session.ended_at or now
        self.words = words
        self.numbers = numbers
        self.errors = errors
        self._last_seq = max(0, session.event_seq - MOST_LOOKED_AT)

    def context(self, after: int | None = None) -> dict[str, Any]:
        """What the templates take. ``after`` is the last event that is shown already: then only what is new."""
        tiles = self._tiles_by_row()
        quick = {
            "watch_seq": self.session.event_seq,
            "is_live": self.session.is_live,
            "tiles": tiles,
            "metrics": self._metrics(),
            "may_read": self.words,
            "notices": notices(self.session, self.now),
        }
        if after is not None and after == self.session.event_seq:
            return quick
        events, cut = self._events(after)
        drawn = self._drawn()
        cut_at = drawn[0].at if len(drawn) == MOST_DRAWN else None
        start = cut_at or self.session.created_at
        report = read_report(self.session.error) if self.session.error and self.errors else None
        return quick | {
            "news": True,
            "steps": self._steps(),
            "tiles": [*tiles, *self._tiles_by_events()],
            "timeline": timeline(drawn, start, self.end, origin=self.session.created_at),
            "timeline_cut": cut_at is not None,
            "latency": latency(drawn, self.session.created_at),
            "latency_parts": [str(label) for _key, _kind, label in PARTS],
            "report": report,
            "report_withheld": bool(self.session.error) and not self.errors,
            "transcript": self._transcript(after),
            "audit": trail_of_session(self.session, self._last_seq),
            "events": events,
            "events_cut": cut,
        }

    # The row

    def _steps(self) -> list[Step]:
        session = self.session
        first_audio = (
            SessionEvent.objects.filter(session=session, seq__lte=_FIRST_EVENTS, kind="agent_turn_started")
            .order_by("seq")
            .values_list("at", flat=True)
            .first()
        )
        known: list[tuple[str, datetime | None, str]] = [
            (_("requested"), session.created_at, _("via %s") % session.source if session.source else ""),
            *([(_("taken by a worker"), self._taken_at(), "")] if session.due_at is not None else []),
            (_("built"), session.started_at, ""),
            (_("joined"), session.joined_at, ""),
            (_("first audio"), first_audio, ""),
        ]
        if session.close_requested_at is not None:
            known.append((_("close requested"), session.close_requested_at, _("forced") if session.force_close else ""))
        known.append((_("ended"), session.ended_at, session.get_end_reason_display()))
        known[1:] = sorted(known[1:], key=lambda step: (step[1] is None, step[1] or session.created_at))
        if session.ended_at is not None:
            # What never happened before the end will not happen after it.
            optional = {_("first audio"), _("taken by a worker")}
            known = [step for step in known if step[1] is not None or step[0] not in optional]
        steps, before = [], None
        for label, at, note in known:
            since = "" if at is None or before is None else f"+{display.duration(at - before, precise=True)}"
            failed = at is not None and at == session.ended_at and session.status in {"failed", "lost"}
            steps.append(Step(label, display.clock(at) if at else None, since, note, bad=failed))
            before = at or before
        return steps

    def _taken_at(self) -> datetime | None:
        """When a worker took it from the queue; None while it waits, also when one has given it back."""
        if self.session.status == SessionStatus.QUEUED:
            return None
        taken = SessionEvent.objects.filter(session=self.session, seq__lte=_FIRST_EVENTS, kind="claimed")
        return taken.order_by("-seq").values_list("at", flat=True).first()

    def _tiles_by_row(self) -> list[Tile]:
        session = self.session
        ran = display.duration(self.end - session.created_at, precise=not session.is_live)
        label = _("in the queue for") if session.status == SessionStatus.QUEUED else _("duration")
        tiles = [Tile("duration", label, ran, "" if session.ended_at else _("so far"))]
        if not self.numbers:
            return tiles
        metrics = session.metrics if isinstance(session.metrics, dict) else {}
        given, made = metrics.get("llm_input_tokens__total"), metrics.get("llm_output_tokens__total")
        if given or made:
            note = _("%(in)s in, %(out)s out") % {"in": display.number(given or 0), "out": display.number(made or 0)}
            tiles.append(Tile("tokens", _("tokens"), display.number((given or 0) + (made or 0)), note))
        if cost := _cost(session):
            lacks = _("without %s") % ", ".join(map(str, session.cost_unpriced)) if session.cost_unpriced else ""
            tiles.append(Tile("cost", _("cost"), cost, lacks))
        return tiles

    def _tiles_by_events(self) -> list[Tile]:
        window = SessionEvent.objects.filter(session=self.session, seq__gt=self._last_seq).order_by()
        counts = Counter(dict(window.values_list("kind").annotate(Count("seq"))))
        people = max(counts["user_turn_ended"], counts["turn"])
        failures = counts["error"]
        tiles = [
            Tile("people", _("turns of people"), display.number(people)),
            Tile("agent", _("turns of the agent"), display.number(max(counts["agent_turn_ended"], counts["turn"]))),
            Tile("tools", _("tool calls"), display.number(max(counts["tool_started"], counts["tool_ended"]))),
            Tile("errors", _("errors on the way"), display.number(failures), bad=failures > 0),
        ]
        if counts["dropped"]:
            tiles.append(Tile("dropped", _("gaps"), display.number(counts["dropped"]), _("see the events"), bad=True))
        return tiles

    def _metrics(self) -> dict[str, Any] | None:
        if not self.numbers:
            return None
        metrics = self.session.metrics if isinstance(self.session.metrics, dict) else {}
        # Those that say nothing are most of the 25: an agent without a video model has no numbers of one.
        said = [(key, display.number(value)) for key, value in metrics.items() if value not in (None, 0)]
        silent = [(key, display.number(value)) for key, value in metrics.items() if value in (None, 0)]
        at = display.moment(self.session.metrics_at) if self.session.metrics_at else ""
        return {"said": said, "silent": silent, "at": at}

    # Its events

    def _newest(self) -> SessionEventQuerySet:
        """Those of the newest `MOST_LOOKED_AT` events that this reader may see."""
        events: SessionEventQuerySet = SessionEvent.objects.filter(session=self.session, seq__gt=self._last_seq)
        return events if self.words else events.filter(kind__in=KINDS_WITHOUT_WORDS)

    def _events(self, after: int | None) -> tuple[list[dict[str, Any]], bool]:
        found = self._newest()
        if after is not None:
            found = found.filter(seq__gte=after)  # and the one before, for the time since it
        newest, more = _fitting(found, MOST_EVENTS + 1, longest=MOST_CHARACTERS)
        if not (self.words or self.errors):
            for event in newest:
                event.data = without_words(event.kind, event.data)
        workers = names_of(newest, self.session.worker)
        lines: list[dict[str, Any]] = [
            {
                "seq": event.seq,
                "kind": event.kind,
                "time": display.clock(event.at, fine=True),
                "since": display.duration(event.at - before.at, precise=True) if before else "",
                "data": details(event, workers),
                "bad": event.kind in {"error", "dropped"},
            }
            for event, before in zip(newest, [*newest[1:], None], strict=False)  # none of none
        ]
        more = more or len(newest) > MOST_EVENTS
        shown = [line for line in (lines[:-1] if more else lines) if after is None or line["seq"] > after]
        return shown[::-1], after is None and more

    def _drawn(self) -> list[SessionEvent]:
        return list(self._newest().filter(kind__in=TIMELINE_KINDS).order_by("-seq")[:MOST_DRAWN])[::-1]

    def _transcript(self, after: int | None) -> dict[str, Any] | None:
        if not self.words:
            return None
        found = self._newest().filter(kind__in=_WORDS)
        if after is not None:
            found = found.filter(seq__gt=after)
        newest, more = _fitting(found, MOST_WORDS)
        return {"lines": [self._said(event) for event in newest][::-1], "cut": after is None and more}

    def _said(self, event: SessionEvent) -> dict[str, Any]:
        data = event.data if isinstance(event.data, dict) else {}
        line = {"seq": event.seq, "since": offset(event.at - self.session.created_at), "cut": False, "who": ""}
        if event.kind == "message":
            mine = data.get("role") == "assistant"
            who = (_("agent") if mine else "") or str(data.get("user_id") or data.get("role") or "")
            text, kind = str(data.get("text", "")), "agent" if mine else "person"
            return line | {"who": who, "kind": kind, "text": text, "cut": data.get("completed") is False}
        if event.kind == "asked":
            how = _("had the agent say: %s") if data.get("how") == "say" else _("had the agent reply to: %s")
            return line | {"who": str(data.get("by", "")), "kind": "note", "text": how % data.get("text", "")}
        return line | {"kind": "note", "text": _("Some events are missing here.")}


def _fitting(events: SessionEventQuerySet, most: int, *, longest: int | None = None) -> tuple[list[SessionEvent], bool]:
    """Return the newest of ``events``, newest first, for which there is room, and whether there are more.

    ``longest`` is how many characters of one are shown; None: all.
    """
    rows: list[SessionEvent] = []
    room = MOST_SHOWN
    for row in events.order_by("-seq")[: most + 1].iterator(chunk_size=_CHUNK):
        size = len(str(row.data))
        room -= size if longest is None else min(size, longest)
        if len(rows) == most or (rows and room < 0):
            return rows, True
        rows.append(row)
    return rows, False


def _cost(session: AgentSession) -> str:
    """What the session cost; "" where no prices are set. Two digits that count, however small it is."""
    if not session.cost_currency:
        return ""
    if session.cost is None:
        return f"{display.NOTHING} {session.cost_currency}"
    places = min(DECIMAL_PLACES, max(2, 1 - session.cost.adjusted())) if session.cost else 2
    return f"{formats.number_format(session.cost, decimal_pos=places, use_l10n=True)} {session.cost_currency}"
