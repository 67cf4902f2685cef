"""Who is on a call, and whether that hides it from somebody who would start a session there."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db import router

from ..exceptions import (
    CallHidden,
)
from ..models import AgentSession
from ..utils.validation import call_key
from . import database


@dataclass(frozen=True, slots=True)
class Visible:
    """What somebody may see who does not see all: a call with another session is closed to their starts.

    A session hears the whole call, and is read by who started it. So nobody starts one on a call that has a live
    session which is hidden from them, unless another one there is theirs, which hears it anyway.
    """

    user_id: Any = None
    """Whose sessions are theirs; None: nobody's."""
    known: frozenset[uuid.UUID] = frozenset()
    """Others that they may see."""


class OnCall(NamedTuple):
    """A session that is on a call."""

    id: uuid.UUID
    call_id: str
    started_by_id: Any


MOST_ON_CALL = 200
"""Sessions that `present_on` finds; nobody is asked whether somebody may see so many."""


async def present_on(call_type: str, call_id: str) -> list[OnCall]:
    """Return the sessions that are on a call, also those that wait for a worker: no more than `MOST_ON_CALL`."""
    return await database.read(_present_on, call_type, call_id)


def _present_on(call_type: str, call_id: str) -> list[OnCall]:
    # Where there are replicas, one that lags would hide the session that matters: the newest.
    rows = AgentSession.objects.using(router.db_for_write(AgentSession)).present().on_call(call_type, call_id)
    return [OnCall(*row) for row in rows.order_by().values_list("pk", "call_id", "started_by_id")[:MOST_ON_CALL]]


def slot_of_call(session: AgentSession) -> tuple[str, str]:
    return "call", call_key(session.call_type, session.call_id)


def check_visible(session: AgentSession, visible: Visible) -> None:
    """Raise if a session is hidden from whoever starts this one. The call's slot is taken."""
    rows = AgentSession.objects.using(router.db_for_write(AgentSession)).present()
    there = dict(rows.on_call(session.call_type, session.call_id).values_list("pk", "started_by_id"))
    if visible.user_id is not None and visible.user_id in there.values():
        return
    if not there.keys() <= visible.known:
        raise CallHidden("You may not see every session of this call, so you may not start one on it")
