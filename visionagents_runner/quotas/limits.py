"""`Limits`: the setting LIMITS with its defaults, and what its names mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from ..conf.settings import SETTING, RunnerSettings, get_settings
from ..exceptions import RunnerConfigurationError

Rate = str
"""How many in a time: ``"30/m"``; with ``"30/m burst 5"`` five at once, and then one each two seconds."""

BYS = ("person", "identity", "call", "address", "worker")
"""Who or what a limit is of, the narrowest first: what one person has too much of is not taken from the others' share.

A person is one connection to a call. An identity is who somebody has proved to be: a user, an API key, or an invitation
(all who come with it). Where no one need prove anything, only the other limits hold.
"""
KINDS = ("user", "key", "invitation")
"""Of identities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Each is of one worker, and named ``<what>_per_<whom>``. A number is how many at once, a text how many in a time.

    None or 0: without this limit.
    """

    # Calls
    seats_per_identity: int | None = 4
    """Places on one call. An invitation may say another number."""
    seats_kept: int | None = 2
    """Places of each call (of MAX_PEOPLE_PER_CALL, half of them at most) that those with an invitation do not get."""
    joins_per_identity: Rate | None = "30/m"
    """Coming onto one call: everybody there is told."""
    turns_per_person: Rate | None = "30/m burst 5"
    """What is typed, said or asked over REST: each asks a model."""
    turns_per_identity: Rate | None = "60/m burst 10"
    """Of one user, key or invitation on one call."""
    turns_per_call: Rate | None = "120/m burst 20"
    """Of everybody on one call."""
    turns_per_worker: Rate | None = "1200/m burst 200"
    """Of everybody."""
    events_per_person: Rate | None = "20/s burst 40"
    """Custom events to the agents, by whichever way."""
    events_per_identity: Rate | None = "40/s burst 80"
    mutes_per_person: Rate | None = "60/m burst 10"
    """Each is told to everybody on the call."""
    mutes_per_identity: Rate | None = "120/m burst 20"
    media_per_person: Rate | None = "20/m burst 8"
    """Connections for sound and pictures: offers, and frames over the WebSocket going on and off."""
    media_per_identity: Rate | None = "60/m burst 16"
    media_per_worker: int | None = 8
    """Offers that are worked on at once; others wait for their turn."""

    # WebSockets, of calls and feeds
    sockets_per_identity: int | None = 100
    sockets_per_address: int | None = 100
    sockets_per_worker: int | None = 1000
    openings_per_identity: Rate | None = "600/m burst 200"
    openings_per_address: Rate | None = "240/m"
    silent_per_address: int | None = 20
    """Those that have not said hello yet."""
    silent_per_worker: int | None = 200
    """If there are more, the one that has been silent for longest is closed."""
    feeds_per_identity: int | None = 20
    """Live feeds, of sessions and of the list."""

    # REST
    starts_per_identity: Rate | None = "300/m"
    starts_per_address: Rate | None = "600/m"
    starts_per_worker: Rate | None = "3000/m"
    closes_per_identity: Rate | None = "600/m"
    closes_per_address: Rate | None = "1200/m"
    invitations_per_identity: Rate | None = "60/m"
    invitations_per_address: Rate | None = "120/m"
    reads_per_identity: int | None = 4
    """Pages of events and transcripts that are read or wait to be; one is read at a time."""
    reads_per_address: int | None = 16
    reads_per_worker: int | None = 32
    credentials_per_address: Rate | None = "600/m"
    """API keys and cookies that were not known to count, each of which is looked up: guesses, for the most part."""
    credentials_per_worker: int | None = 1000
    """Such as wait to be looked up, one after the other."""


WORDS = {
    "seats": "places on a call",
    "joins": "times coming onto a call",
    "turns": "typed turns",
    "events": "custom events",
    "mutes": "changes of mute",
    "media": "new connections for media",
    "sockets": "WebSockets",
    "openings": "new WebSockets",
    "silent": "WebSockets that have not said hello",
    "feeds": "live feeds",
    "starts": "starts",
    "closes": "requests to close",
    "invitations": "new invitations",
    "reads": "reads of history at once",
    "credentials": "unknown credentials",
}


def split(name: str) -> tuple[str, str]:
    """Return what a limit is of, and whose."""
    what, _, by = name.partition("_per_")
    return what, by


def labels() -> list[tuple[str, str]]:
    """Return all that refusals are counted by: what was refused, and whose limit it was."""
    found = [("seats", "call")]
    for each in fields(Limits):
        what, by = split(each.name)
        if by:
            found += [(what, kind) for kind in (KINDS if by == "identity" else (by,))]
    return found


_built: tuple[RunnerSettings, Limits] | None = None


def get_limits() -> Limits:
    """
    Raises:
        RunnerConfigurationError: a value makes no sense; a system check says so before.
    """
    global _built
    current = get_settings()
    if _built is None or _built[0] is not current:
        known = {each.name for each in fields(Limits)}
        problems = [problem for _, problem in find_problems(current.LIMITS)]
        if problems:
            raise RunnerConfigurationError(f"{SETTING}['LIMITS']{problems[0]}")
        _built = current, Limits(**{name: value for name, value in current.LIMITS.items() if name in known})
    return _built[1]


def find_problems(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the names whose values make no sense, each with the end of a sentence; unknown names are none of them."""
    hints = get_type_hints(Limits)
    found = []
    for name, value in raw.items():
        if name not in hints or value is None or (value == 0 and not isinstance(value, (bool, str))):
            continue
        if hints[name] == int | None:
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                found.append((name, f"[{name!r}] must be a whole number, how many at once, or None, not {value!r}"))
        elif parsed(value) is None:
            found.append((name, f'[{name!r}] must be how many in a time, as in "30/m burst 5", or None, not {value!r}'))
    return found


def parsed(rate: Any) -> Any:
    """Return ``rate`` as a Quota of the library `throttled`; None if it is none."""
    from throttled.exceptions import DataError
    from throttled.rate_limiter.quota_parser import parse

    try:
        quotas = parse(rate)
    except DataError:
        return None
    return quotas[0] if len(quotas) == 1 and quotas[0].burst > 0 else None
