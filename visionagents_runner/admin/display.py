"""Pieces of HTML that the admin's pages are made of. Whatever comes from outside is escaped here."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from django.utils import formats, timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _

from ..models import AgentSession, Worker
from ..utils.text import visible

NOTHING = "-"
_SHORT = 40


def state(value: str, label: str) -> SafeString:
    """A dot and a word; the dot's shape differs too, so that colour is never the only signal."""
    return format_html('<span class="va-state va-state-{}">{}</span>', value, label)


def session_state(session: AgentSession) -> SafeString:
    return state(session.status, session.get_status_display())


def badge(text: str, title: str = "") -> SafeString:
    return format_html('<span class="va-badge" title="{}">{}</span>', title, text)


def call(session: AgentSession, *, short: bool = False) -> SafeString:
    """Call type and id. Isolated, since an id may hold characters that turn the direction of the text around it."""
    kind, name = session.call_type, session.call_id
    if short:
        kind, name = Truncator(kind).chars(_SHORT), Truncator(name).chars(_SHORT)
    title = f"{session.call_type}/{session.call_id}"
    return format_html(
        '<span class="va-call" title="{}"><bdi class="va-quiet">{}</bdi>/<bdi>{}</bdi></span>', title, kind, name
    )


def code(text: str) -> SafeString:
    return format_html('<code class="va-code">{}</code>', text) if text else SafeString(NOTHING)


def verbatim(text: str) -> SafeString:
    """Text from outside in full, spaces included, on a ground that shows where it begins and ends."""
    return format_html('<bdi class="va-verbatim">{}</bdi>', text)


def block(text: str) -> SafeString:
    """Text of several lines, as it is; it scrolls inside its box, so the box takes the keyboard's focus."""
    return format_html('<pre class="va-pre" tabindex="0">{}</pre>', text)


def json_block(value: Any) -> SafeString:
    return block(visible(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)))


def json_line(value: Any) -> str:
    return visible(json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value))


def exact(moment: datetime) -> str:
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    return f"{formats.date_format(local, 'DATE_FORMAT')}, {local:%H:%M:%S %Z}".strip()


def moment(value: datetime | None, *, extra: str = "") -> SafeString:
    """Date and time to the second, with something quiet after it."""
    if value is None:
        return SafeString(NOTHING)
    after = format_html(' <span class="va-quiet">{}</span>', extra) if extra else SafeString("")
    return format_html('<time datetime="{}">{}</time>{}', value.isoformat(), exact(value), after)


def clock(value: datetime, *, fine: bool = False) -> SafeString:
    """The time of day, with tenths of a second if ``fine``; the date is there on hover."""
    local = timezone.localtime(value) if timezone.is_aware(value) else value
    text = f"{local:%H:%M:%S}" + (f".{local.microsecond // 100_000}" if fine else "")
    return format_html('<time datetime="{}" title="{}">{}</time>', value.isoformat(), exact(value), text)


def ago(value: datetime | None, now: datetime) -> SafeString:
    """How long ago, with the exact time on hover."""
    if value is None:
        return SafeString(NOTHING)
    text = _("%(duration)s ago") % {"duration": duration(now - value)}
    return format_html('<time datetime="{}" title="{}">{}</time>', value.isoformat(), exact(value), text)


def age(value: datetime, now: datetime) -> SafeString:
    """Like `ago` for a narrow column whose heading says what it is: one unit, no "ago"."""
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', value.isoformat(), exact(value), units(now - value, most=1)
    )


def with_note(main: str, note: str) -> SafeString:
    """Something quiet below the content of a cell."""
    return format_html('{}<span class="va-quiet va-below">{}</span>', main, note)


def units(delta: timedelta, *, most: int = 1) -> str:
    """The largest unit only, rounded down, for example ``4 min``; with ``most=2``, two: ``4 min 12 s``."""
    seconds = max(0, int(delta.total_seconds()))
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, seconds = divmod(seconds, size)
        if count or parts or size == 1:
            parts.append(f"{count:02d} {unit}" if parts and unit in {"min", "s"} else f"{count} {unit}")
    return " ".join(parts[:most])


def duration(delta: timedelta, *, precise: bool = False) -> str:
    """Two units, for example ``4 min 12 s``; with ``precise``, fractions below ten seconds."""
    seconds = max(0.0, delta.total_seconds())
    if precise and seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    return units(delta, most=2)


def number(value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return formats.number_format(f"{value:.3f}".rstrip("0").rstrip("."), use_l10n=True, force_grouping=True)
    if isinstance(value, int) and not isinstance(value, bool):
        return formats.number_format(value, use_l10n=True, force_grouping=True)
    return json_line(value)


def worker_name(worker: Worker, *, short: bool = False) -> SafeString:
    """Host and PID; ``short`` leaves out the host's domain."""
    host = Truncator(worker.hostname.partition(".")[0] or worker.hostname).chars(_SHORT) if short else worker.hostname
    return format_html('<span class="va-host" title="{}">{}:{}</span>', str(worker), host, worker.pid)


def starter(session: AgentSession) -> SafeString:
    """Who started it and from where, as far as that is known."""
    name = session.started_by.get_username() if session.started_by else ""
    source = format_html('<span class="va-quiet">{}</span>', _("via %s") % session.source) if session.source else ""
    shown = format_html("<bdi>{}</bdi>", name) if name else SafeString("")
    return SafeString(" ".join(filter(None, (shown, source)))) or SafeString(NOTHING)
