"""Who may follow a session, and whether they may read its words; who may follow the list."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ninja.errors import HttpError

from ...api.lookup import Found, call_of, find_visible
from ...auth.permissions import Access, Action, authorize, rule_for, who_asks
from ..handshake import HandshakeRequest
from ..protocol import Code, Fatal

if TYPE_CHECKING:
    from ...registry import AgentRegistry

_CODES = {401: Code.SIGN_IN, 404: Code.NOT_FOUND}


@dataclass(frozen=True, slots=True)
class Sight:
    """What somebody may see of one session."""

    found: Found
    words: bool
    """Whether they may read what was said, and done with it."""
    identity: str | None = None
    """Whose share of `quotas` it is."""

    @property
    def key(self) -> uuid.UUID:
        return self.found.key


async def look_at_session(
    scope: Mapping[str, Any], runner: AgentRegistry, session_id: str, since: float | None = None
) -> Sight:
    """Return what the client behind ``scope`` may see of a session, now; or as it was ``since`` (monotonic) then.

    Raises:
        Fatal: nothing; alike for a session that is hidden from them and for one that does not exist.
    """
    async with _refusals():
        request = HandshakeRequest(scope, since)
        find_call_id = partial(call_of, request, session_id)
        access = await authorize(request, runner, Action.VIEW, session_id=session_id, find_call_id=find_call_id)
        found = await find_visible(request, session_id, access)
        words = await _may_read_words(request, runner, session_id)
        return Sight(found, words, who_asks(request, access).identity)


async def look_at_list(scope: Mapping[str, Any], runner: AgentRegistry, since: float | None = None) -> Access:
    """Return which sessions the client behind ``scope`` may see; ``since`` as for `look_at_session`.

    Raises:
        Fatal: none, not even their own.
    """
    async with _refusals():
        return await authorize(HandshakeRequest(scope, since), runner, Action.VIEW)


async def _may_read_words(request: HandshakeRequest, runner: AgentRegistry, session_id: str) -> bool:
    if rule_for(runner, Action.TRANSCRIPT) is not None:
        return True  # the same callable of `ServeOptions` has just allowed it
    try:
        await authorize(request, runner, Action.TRANSCRIPT, session_id=session_id)
    except HttpError:
        return False
    return True


@asynccontextmanager
async def _refusals() -> AsyncIterator[None]:
    try:
        yield
    except HttpError as refusal:
        raise Fatal(_CODES.get(refusal.status_code, Code.NOT_ALLOWED), str(refusal)) from None
