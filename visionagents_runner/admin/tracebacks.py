"""Reading a traceback as the one who has to mend it: their own lines first."""

from __future__ import annotations

import re
import sys
import sysconfig
from dataclasses import dataclass

_FRAME = re.compile(r'^ *(?:\| *)?File "(?P<path>[^"\n]+)", line (?P<line>\d+), in (?P<name>.+)$')
_LIBRARY = re.compile(
    r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib[/\\]python\d[^/\\]*[/\\]|^<frozen |[/\\]visionagents_runner[/\\]"
)
_HEADING = "Traceback (most recent call last):"


@dataclass(frozen=True, slots=True)
class Frame:
    path: str
    line: int
    function: str
    code: str


@dataclass(frozen=True, slots=True)
class Report:
    summary: str
    """The exception and its message, or the reason that is no traceback."""
    frames: list[Frame]
    """Those of the project, the one where it happened first."""
    others: int
    """How many frames are of libraries."""
    text: str


def read_report(text: str) -> Report:
    """Take apart what a session keeps of its error: a traceback, or a sentence."""
    if _HEADING not in text:
        return Report(text.strip(), [], 0, "")
    lines = text.splitlines()
    frames = []
    for number, line in enumerate(lines):
        if (found := _FRAME.match(line)) is not None:
            following = lines[number + 1].strip() if number + 1 < len(lines) else ""
            code = "" if _FRAME.match(lines[number + 1] if following else "") else following
            frames.append(Frame(found["path"], int(found["line"]), found["name"], code))
    mine = [frame for frame in frames if not _is_library(frame.path)]
    return Report(_summary(lines), mine[::-1], len(frames) - len(mine), text)


def _summary(lines: list[str]) -> str:
    """From the last line that begins with the name of an exception: messages may have several lines."""
    last = max((number for number, line in enumerate(lines) if line.startswith(("  ", _HEADING))), default=-1)
    return "\n".join(lines[last + 1 :]).strip() or lines[-1].strip()


def _is_library(path: str) -> bool:
    stdlib = sysconfig.get_path("stdlib")
    return bool(_LIBRARY.search(path)) or path.startswith((stdlib, sys.base_prefix + "/lib/python"))
