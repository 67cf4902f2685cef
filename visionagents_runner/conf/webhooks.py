"""The setting ``WEBHOOKS``: who is told that a session has ended. Read here, checked here, in one place."""

from __future__ import annotations

import base64
import binascii
import difflib
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..exceptions import RunnerConfigurationError
from .addresses import refusal
from .settings import SETTING, RunnerSettings, get_settings

EXAMPLE = '{"URL": "https://hooks.example/agents", "SECRET": os.environ["WEBHOOK_SECRET"]}'
MAX_NAME_LENGTH = 100
MIN_SECRET_BYTES = 24
SECRET_PREFIX = "whsec_"  # noqa: S105 - what every secret begins with

_KEYS = ("URL", "SECRET", "ALLOW_PRIVATE", "NAME")
_LOCAL_NAMES = (".localhost", ".local", ".internal")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``secrets`` sign each message, all of them: while a receiver changes its secret, both are given."""

    name: str
    url: str = field(repr=False)  # its path or query may be a secret too
    secrets: tuple[str, ...] = field(repr=False)
    allow_private: bool = False

    @property
    def is_https(self) -> bool:
        return self.url[:6].lower() == "https:"


_cached: tuple[RunnerSettings, tuple[Endpoint, ...]] | None = None


def endpoints() -> tuple[Endpoint, ...]:
    """Return the endpoints of the setting, without those that have a problem."""
    global _cached
    settings = get_settings()
    if _cached is None or _cached[0] is not settings:
        entries = settings.WEBHOOKS if isinstance(settings.WEBHOOKS, tuple) else ()
        wrong = {position for position, _ in find_problems(entries)}
        sound = (_endpoint(entry) for position, entry in enumerate(entries) if position not in wrong)
        _cached = (settings, tuple(sound))
    return _cached[1]


def find_problems(entries: Sequence[Any]) -> Iterator[tuple[int, str]]:
    """Yield the position of each entry that is wrong, and why, without its secrets. Nothing is looked up."""
    names: set[str] = set()
    for position, entry in enumerate(entries):
        if problem := _problem_of(entry):
            yield position, problem
            continue
        name = name_of(entry)
        if name in names:
            yield position, f"{name!r} is the name of another one already: give it a NAME of its own"
        names.add(name)


def name_of(entry: Any) -> str:
    """Return the NAME of an entry, or the host of its URL; "" if it has neither."""
    if not isinstance(entry, Mapping):
        return ""
    if name := entry.get("NAME"):
        return name if isinstance(name, str) else ""
    parts = _split(entry.get("URL"))
    return (parts.hostname or "")[:MAX_NAME_LENGTH] if parts else ""


def _endpoint(entry: Mapping[str, Any]) -> Endpoint:
    return Endpoint(name_of(entry), entry["URL"], _secrets(entry["SECRET"]), entry.get("ALLOW_PRIVATE", False))


def _problem_of(entry: Any) -> str:
    if not isinstance(entry, Mapping):
        return "each entry must be a dict with a URL and a SECRET"
    for key in entry:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key).upper(), _KEYS, n=1)
            return f"it has the unknown key {key!r}" + (f": did you mean {near[0]!r}?" if near else "")
    if not isinstance(entry.get("ALLOW_PRIVATE", False), bool):
        return "ALLOW_PRIVATE must be True or False"
    return _problem_of_url(entry) or _problem_of_name(entry) or _problem_of_secret(entry.get("SECRET"))


def _problem_of_url(entry: Mapping[str, Any]) -> str:
    url, allow_private = entry.get("URL"), entry.get("ALLOW_PRIVATE", False)
    parts = _split(url)
    if parts is None or not parts.hostname or parts.scheme not in {"https", "http"}:
        return "its URL must be one like 'https://hooks.example/agents'"
    assert isinstance(url, str)
    if not url.isascii() or not url.isprintable() or " " in url:
        return "its URL must be ASCII without spaces: percent-encode the path, and write the host in Punycode"
    if parts.username is not None or parts.password is not None:
        return "its URL must hold no user name and no password: the SECRET is what proves who sends"
    if parts.fragment:
        return "its URL must have no fragment: that is never sent"
    if allow_private:
        return ""
    if parts.scheme == "http":
        return "its URL must begin with https://, but for private addresses with ALLOW_PRIVATE"
    if why := _private(parts.hostname):
        return f"its URL names {parts.hostname}, {why}: set ALLOW_PRIVATE to True if that is meant"
    return ""


def _private(host: str) -> str:
    """Why this host is no public one, as far as its name alone tells."""
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(_LOCAL_NAMES):
        return "a private name"
    try:
        return refusal(ipaddress.ip_address(host))
    except ValueError:
        return ""


def _problem_of_name(entry: Mapping[str, Any]) -> str:
    name = entry.get("NAME", "")
    if not isinstance(name, str) or not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        return f"its NAME must be text of at most {MAX_NAME_LENGTH} printable characters"
    return ""


def _problem_of_secret(given: Any) -> str:
    secrets = _secrets(given)
    if not secrets:
        return "it has no SECRET, so that nobody could tell its messages from forged ones"
    for secret in secrets:
        if not isinstance(secret, str):
            return "its SECRET must be a string, or a list of them"
        try:
            raw = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            return f"its SECRET must be base64, behind {SECRET_PREFIX!r} or alone"
        if len(raw) < MIN_SECRET_BYTES:
            return f"its SECRET has {len(raw)} bytes: at least {MIN_SECRET_BYTES} random ones are needed"
    return ""


def _secrets(given: Any) -> tuple[Any, ...]:
    if isinstance(given, (list, tuple)):
        return tuple(given)
    return (given,) if given else ()


def _split(url: Any) -> SplitResult | None:
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port  # it is looked at only now
    except ValueError:
        return None
    return parts


def refuse_unsound_endpoints() -> None:
    """Have a worker find out at its start that an endpoint would be told nothing.

    Raises:
        RunnerConfigurationError: which entry is wrong, and why.
    """
    entries = get_settings().WEBHOOKS
    if not isinstance(entries, tuple):
        raise RunnerConfigurationError(f"{SETTING}['WEBHOOKS'] must be a list of dicts, as in [{EXAMPLE}]")
    for position, problem in find_problems(entries):
        raise RunnerConfigurationError(f"{place_of(entries, position)}: {problem}")


def place_of(entries: Any, position: int) -> str:
    name = name_of(entries[position])
    return f"{SETTING}['WEBHOOKS'][{position}]" + (f" ({name})" if name else "")
