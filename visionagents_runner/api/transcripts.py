"""A transcript as text and as WebVTT."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Any

from ..utils.text import one_line

_CHARACTERS_A_SECOND = 15
_LEAST_SECONDS, _MOST_SECONDS = 1.0, 10.0


def as_text(messages: Sequence[dict[str, Any]], start: datetime) -> str:
    """Return a line for each of the messages, with the time since ``start``."""
    lines = (
        f"[{_clock(message['at'] - start)}] {_speaker(message)}: {_flat(message)}{_cut(message)}"
        for message in messages
    )
    return "".join(line + "\n" for line in lines)


def as_vtt(messages: Sequence[dict[str, Any]], start: datetime) -> str:
    """Return WebVTT. Nobody knows when each word was heard: a cue begins when its message was whole, and lasts as long
    as it takes to read, or until the next."""
    cues = ["WEBVTT\n"]
    ordered = sorted(messages, key=lambda message: (message["at"], message["seq"]))
    for message, following in zip_longest(ordered, ordered[1:]):
        text = _flat(message)
        begin = max(message["at"] - start, timedelta())
        end = begin + timedelta(seconds=min(max(len(text) / _CHARACTERS_A_SECOND, _LEAST_SECONDS), _MOST_SECONDS))
        if following is not None and begin < following["at"] - start < end:
            end = following["at"] - start
        words = f"<v {_escaped(_speaker(message))}>{_escaped(text)}{_cut(message)}"
        cues.append(f"{message['seq']}\n{_stamp(begin)} --> {_stamp(end)}\n{words}\n")
    return "\n".join(cues)


def _speaker(message: dict[str, Any]) -> str:
    return one_line(" ".join((message["user_id"] or message["role"] or "unknown").split()))


def _flat(message: dict[str, Any]) -> str:
    """The text on one line, with what would be invisible written out: an empty line would end a cue."""
    return one_line(" ".join(message["text"].split()))


def _cut(message: dict[str, Any]) -> str:
    return "" if message["completed"] else " …"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(since: timedelta) -> str:
    seconds = max(0, int(since.total_seconds()))
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _stamp(since: timedelta) -> str:
    return f"{_clock(since)}.{since.microseconds // 1000:03d}"
