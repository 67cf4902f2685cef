"""What the demo agent can do: functions as one would register them with any model."""

from __future__ import annotations

import asyncio
import functools
import math
import secrets
import zoneinfo
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vision_agents.core.llm.llm import LLM

if TYPE_CHECKING:
    from ..edge import BrowserEdge

MAX_DICE = 100
MAX_SIDES = 1000
MAX_NAME_LENGTH = 60
MAX_METERS = 1000.0
_DIRECTIONS = {"forward": (0, 1), "backward": (0, -1), "left": (-1, 0), "right": (1, 0)}


def register_functions(llm: LLM, edge: BrowserEdge | None = None) -> None:
    """Register the functions with ``llm``. What they remember lasts as long as it: one session.

    Everybody on the call hears what they return, guests too, so they tell of nothing but this call: that of ``edge``.
    """
    names: dict[str, str] = {}
    robot = {"right": 0.0, "forward": 0.0}

    @llm.register_function(description="The time of day, on the server or in a time zone such as Europe/Paris")
    async def get_time(timezone: str = "") -> str:
        # Time zones are files: not on the loop.
        zone = await asyncio.to_thread(_zone, timezone) if timezone else None
        now = datetime.now(UTC).astimezone(zone)
        return f"{now:%H:%M} {now:%Z}".strip()

    @llm.register_function(description="Roll dice. Returns what each one shows")
    async def roll_dice(sides: int = 6, count: int = 1) -> list[int]:
        if not 2 <= sides <= MAX_SIDES:
            raise ValueError(f"a die has 2 to {MAX_SIDES} sides, not {sides}")
        if not 1 <= count <= MAX_DICE:
            raise ValueError(f"I have 1 to {MAX_DICE} dice, not {count}")
        return [secrets.randbelow(sides) + 1 for _ in range(count)]

    @llm.register_function(description="Remember what a person wants to be called")
    async def remember_name(person: str, name: str) -> str:
        name = " ".join(name.split())
        if not name or len(name) > MAX_NAME_LENGTH:
            raise ValueError(f"a name has 1 to {MAX_NAME_LENGTH} characters")
        names[person] = name
        return name

    @llm.register_function(description="What a person said that they are called; empty if they did not")
    async def recall_name(person: str) -> str:
        return names.get(person, "")

    @llm.register_function(
        description="Move the imaginary robot by meters: forward, backward, left or right. Returns where it is then"
    )
    async def move_robot(direction: str, meters: float = 1.0) -> dict[str, float]:
        if direction not in _DIRECTIONS:
            raise ValueError(f"the robot goes {', '.join(_DIRECTIONS)}, not {direction!r}")
        if not math.isfinite(meters) or not 0 < meters <= MAX_METERS:
            raise ValueError(f"the robot goes up to {MAX_METERS:g} meters at a time, not {meters:g}")
        right, forward = _DIRECTIONS[direction]
        robot["right"] = round(robot["right"] + right * meters, 2)
        robot["forward"] = round(robot["forward"] + forward * meters, 2)
        return dict(robot)

    @llm.register_function(description="Where the imaginary robot is, in meters from where it started")
    async def locate_robot() -> dict[str, float]:
        return dict(robot)

    @llm.register_function(description="How many agent sessions are live on this call")
    async def count_sessions() -> int:
        room = edge.room if edge is not None else None
        if room is None:
            raise RuntimeError("I am on no call")
        return await _count_sessions(room.call_type, room.call_id)


@functools.cache
def _zones() -> dict[str, str]:
    """Full names of the time zones by what people say: the full name and the city, in lower case."""
    zones: dict[str, str] = {}
    for name in sorted(zoneinfo.available_timezones(), reverse=True):
        zones[name.lower()] = name
        zones[name.rpartition("/")[2].replace("_", " ").lower()] = name
    return zones


def _zone(name: str) -> zoneinfo.ZoneInfo:
    known = _zones().get(" ".join(name.split()).lower())
    if known is None:
        raise ValueError(f"I know no time zone or city named {name!r}")
    return zoneinfo.ZoneInfo(known)


async def _count_sessions(call_type: str, call_id: str) -> int:
    # Imported here: the demo also works where Django has no database, or is not configured at all.
    from django.core.exceptions import AppRegistryNotReady, ImproperlyConfigured
    from django.db import Error as DatabaseError

    try:
        from ..models import AgentSession
        from ..store import database

        counted: int = await database.read(AgentSession.objects.live().on_call(call_type, call_id).count)
    except (AppRegistryNotReady, ImproperlyConfigured, DatabaseError) as error:
        raise RuntimeError("the database of sessions is not available") from error
    return counted
