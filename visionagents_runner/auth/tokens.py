"""Join tokens: signed invitations to one call, for people without an account. Nothing is stored.

A token counts until it expires, as long as its session lives, and as long as whoever started that may be on the call:
whoever takes one must look at that too (`websockets.calls.access` does). Who has joined stays until the session ends,
also when the token expires meanwhile.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

from django.core import signing

from ..conf.settings import get_settings
from ..exceptions import InvalidInput, RunnerError
from ..utils.text import MAX_NAME_LENGTH, clean_name

if TYPE_CHECKING:
    from ..models import AgentSession
    from ..sessions.session import LiveSession

Role = Literal["speaker", "listener"]
ROLES: tuple[str, ...] = get_args(Role)

MAX_TOKEN_SECONDS = 7 * 24 * 3600
MAX_SEATS = 1000

_SALT = "visionagents_runner.join"


class VoidToken(RunnerError):
    """A join token does not count: tampered with, expired, or its session has ended. The message says which."""


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a token says."""

    session_id: str
    call_type: str
    call_id: str
    role: Role
    name: str
    """What its bearer is called on the call; "" lets them say it themselves."""
    expires_at: datetime
    has_maker: bool = False
    """Whether the session was started by a user, who may be gone meanwhile."""
    seats: int | None = None
    """How many places of the call its bearers have together; None: as many as LIMITS says."""


def make_join_token(
    session: LiveSession | AgentSession,
    *,
    role: Role = "speaker",
    name: str = "",
    expires_in: float | None = None,
    seats: int | None = None,
) -> str:
    """Return a token with which anybody may join the call of ``session``, as often as they like.

    ``expires_in`` is in seconds, JOIN_TOKEN_SECONDS if None; ``seats`` says how many of them may be there at once, if
    not as many as LIMITS does.

    Raises:
        InvalidInput: the role, the name, the time or the number makes no sense.
    """
    if role not in ROLES:
        raise InvalidInput("role", f"must be one of {', '.join(ROLES)}, not {role!r}")
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidInput("name", f"must have at most {MAX_NAME_LENGTH} characters, not {len(name)}")
    name = clean_name(name)
    seconds = get_settings().JOIN_TOKEN_SECONDS if expires_in is None else expires_in
    if not 1 <= seconds <= MAX_TOKEN_SECONDS:
        raise InvalidInput("expires_in", f"must be from 1 to {MAX_TOKEN_SECONDS} seconds, not {seconds:g}")
    if seats is not None and not 1 <= seats <= MAX_SEATS:
        raise InvalidInput("seats", f"must be from 1 to {MAX_SEATS}, not {seats}")
    has_maker = session.started_by_id is not None
    payload = [str(session.id), session.call_type, session.call_id, role, name, int(time.time() + seconds), has_maker]
    if seats is not None:
        payload.append(seats)
    return signing.dumps(payload, salt=_SALT)


def read_join_token(token: str) -> JoinToken:
    """Return what ``token`` says.

    Raises:
        VoidToken: it is none of ours, was changed, or has expired.
    """
    try:
        payload: Any = signing.loads(token, salt=_SALT)
        session_id, call_type, call_id, role, name, expires, *more = payload
        seats = more[1] if len(more) > 1 else None
    except (signing.BadSignature, ValueError, TypeError):
        raise VoidToken("This invitation is not valid: ask for a new one") from None
    if expires <= time.time():
        raise VoidToken("This invitation has expired: ask for a new one")
    expires_at = datetime.fromtimestamp(expires, UTC)
    return JoinToken(session_id, call_type, call_id, role, name, expires_at, more[:1] == [True], seats)
