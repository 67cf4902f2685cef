"""API keys: verifying what a request presents, and the record of who makes and revokes them.

A key is looked up in a reader's thread and remembered for `CACHE_SECONDS`, so that a read from memory stays one. A
revocation therefore takes effect at once in the process that made it, and within that time in every other.
"""

from __future__ import annotations

import hmac
import logging
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any

from django.db import router
from django.db.models.functions import Now
from django.http import HttpRequest

from ..exceptions import RunnerError
from ..models import AgentKey
from ..models.key import PREFIX_LENGTH, SECRET_LENGTH, Scope, digest_of
from ..quotas import address_of_request, check_guess, note_valid, one_look_up
from ..store import database
from ..store.errors import first_line
from ..utils.bounded import keep
from ..utils.tasks import HeldTasks, shared

logger = logging.getLogger(__name__)

CACHE_SECONDS = 5.0
USE_SECONDS = 60.0
"""How often, at most, the last use of a key is written down."""

_MOST = 1024
_FORM = re.compile(rf"va_([0-9a-z]{{{PREFIX_LENGTH}}})_[0-9A-Za-z]{{{SECRET_LENGTH}}}")
_UNKNOWN = "This API key is not valid"


class InvalidKey(RunnerError):
    """A key was presented that counts for nothing; the text says why, and no more than its bearer may know."""


@dataclass(frozen=True)
class Key:
    """A valid key, as it was a moment ago."""

    id: int
    prefix: str
    name: str
    owner_id: Any
    owner_name: str
    scopes: frozenset[str]

    @property
    def label(self) -> str:
        """Who acts, for the history of a session: its owner, by this key."""
        return f"{self.owner_name} (key va_{self.prefix})"

    @property
    def source(self) -> str:
        """Where a session that it starts came from."""
        return f"api key va_{self.prefix}"

    @cached_property
    def permissions(self) -> frozenset[str]:
        """The model permissions that its scopes stand for."""
        return frozenset(scope.permission for scope in Scope if scope.value in self.scopes)


# What a request presents


def bearer(request: HttpRequest) -> str | None:
    """Return the credential after ``Authorization: Bearer``, None if there is none."""
    scope = getattr(request, "scope", None)
    if scope is not None:
        return bearer_of_scope(scope)
    return _bearer(request.META.get("HTTP_AUTHORIZATION") or "")


def bearer_of_scope(scope: Mapping[str, Any]) -> str | None:
    """`bearer` of an ASGI scope, also that of a WebSocket."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    return _bearer(b",".join(values).decode("latin1")) if values else None


def _bearer(header: str) -> str | None:
    scheme, _, credential = header.strip().partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else None


async def key_of(request: HttpRequest) -> Key | None:
    """Return the key that a request presents, None if it presents nothing; for callables of `ServeOptions` too.

    Raises:
        InvalidKey: what it presents is no key, or one that was revoked or has expired.
        TooMany: too many keys that were not known came from there.
    """
    credential = bearer(request)
    if credential is None:
        return None
    since = getattr(request, "judged_since", None)
    return await verify(credential, address=address_of_request(request), since=since)


# Verifying


async def verify(credential: str, *, address: str | None = None, since: float | None = None) -> Key:
    """Return the key that ``credential`` is. Its use is written down afterwards, off the caller's path.

    With ``since`` (monotonic seconds), what is remembered from before counts for nothing.

    Raises:
        InvalidKey: it is none, or one that was revoked or has expired.
        TooMany: too many that were not known came from ``address``.
    """
    form = _FORM.fullmatch(credential)
    if form is None:
        raise InvalidKey(f"{_UNKNOWN}: a key looks like va_<prefix>_<secret>")
    digest = digest_of(credential)
    # What is remembered counts from before the query: the row may change while it runs.
    asked_at = time.monotonic()
    found = _valid.get(digest, asked_at, since) or _invalid.get(digest, asked_at, since)
    if found is None:
        if since is None:  # who is asked about again was let in once
            check_guess(digest, address)
        generation = _valid.generation
        look = partial(database.read, _look_up, form[1], digest)
        if since is None:
            async with one_look_up(digest):
                answer, seconds = await look()
        else:
            answer, seconds = await shared(("key", digest), since, look)
        memory = _valid if isinstance(answer, Key) else _invalid
        if isinstance(answer, Key):
            note_valid(digest, f"key:{answer.prefix}")
        memory.put(digest, answer, asked_at, seconds, generation)
        found = answer
    if not isinstance(found, Key):
        raise InvalidKey(found)
    _note_use(found, asked_at)
    return found


def _look_up(prefix: str, digest: str) -> tuple[Key | str, float]:
    """Return the key, or why it is void, and for how many seconds that may be remembered."""
    # Where there are replicas, one that lags would let a revoked key in for as long.
    keys = AgentKey.objects.using(router.db_for_write(AgentKey)).select_related("owner").annotate(db_now=Now())
    row = keys.filter(prefix=prefix).first()
    if row is None or not hmac.compare_digest(row.digest, digest):
        return _UNKNOWN, CACHE_SECONDS
    if row.revoked_at is not None:
        return "This API key was revoked", CACHE_SECONDS
    seconds = CACHE_SECONDS
    if row.expires_at is not None:
        now: datetime = row.db_now  # type: ignore[attr-defined]
        seconds = min(seconds, (row.expires_at - now).total_seconds())
        if seconds <= 0:
            return "This API key has expired", CACHE_SECONDS
    if not row.owner_counts:
        return "This API key is void: its owner's account is not active", CACHE_SECONDS
    owner: Any = row.owner
    scopes = frozenset(str(scope) for scope in row.scopes)
    return Key(row.pk, row.prefix, row.name, owner.pk, str(owner.get_username()), scopes), seconds


class _Memory:
    """Verdicts by digest, each from when to when it counts (monotonic seconds); bounded, the oldest go first."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Key | str, float, float]] = {}
        self._lock = threading.Lock()  # under WSGI each thread has an event loop
        self.generation = 0

    def get(self, digest: str, now: float, since: float | None = None) -> Key | str | None:
        verdict, asked_at, deadline = self._entries.get(digest, (None, 0.0, 0.0))
        return verdict if now < deadline and (since is None or asked_at >= since) else None

    def put(self, digest: str, found: Key | str, asked_at: float, seconds: float, generation: int) -> None:
        with self._lock:
            if generation != self.generation:
                return  # it was looked up before a revocation
            keep(self._entries, digest, (found, asked_at, asked_at + seconds), most=_MOST)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.generation += 1


# Apart, so that made-up keys, of which there is no end, do not push out those in use.
_valid = _Memory()
_invalid = _Memory()


def forget() -> None:
    """Look every key up anew: some were revoked, or count again."""
    for memory in (_valid, _invalid):
        memory.clear()


# The last use

_noted: dict[int, float] = {}
_writing = HeldTasks()


def _note_use(key: Key, now: float) -> None:
    if now - _noted.get(key.id, -USE_SECONDS) < USE_SECONDS:
        return
    keep(_noted, key.id, now, most=_MOST)
    _writing.spawn(_write_use(key), name="visionagents-key-use")


async def _write_use(key: Key) -> None:
    try:
        await database.write(AgentKey.objects.touch, [key.id])
    except Exception as error:
        logger.warning("The last use of API key va_%s was not written down: %s", key.prefix, first_line(error))


# Making and revoking them


def issue_key(
    *,
    name: str,
    owner: Any,
    scopes: Iterable[str],
    by: str,
    expires_in: timedelta | None = None,
    expires_at: datetime | None = None,
    prefix: str | None = None,
) -> tuple[AgentKey, str]:
    """`AgentKeyQuerySet.issue`, with a line in the log. It queries.

    Raises:
        ValueError: as there.
    """
    row, plain = AgentKey.objects.issue(
        name=name, owner=owner, scopes=scopes, by=by, expires_in=expires_in, expires_at=expires_at, prefix=prefix
    )
    logger.info(
        "API key va_%s (%s) of %s was made by %s, for %s",
        row.prefix,
        row.name,
        owner.get_username(),
        by or "code",
        ", ".join(row.scopes),
    )
    return row, plain


def revoke_key(key: AgentKey, *, by: str) -> bool:
    """Void a key for good; False if it was revoked before. It queries."""
    revoked = bool(AgentKey.objects.filter(pk=key.pk).revoke(by))
    forget()
    if revoked:
        logger.info("API key va_%s (%s) was revoked by %s", key.prefix, key.name, by or "code")
    return revoked
