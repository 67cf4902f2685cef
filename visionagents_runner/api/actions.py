"""Starting and closing a session: what both route families share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.http import HttpRequest

from ..auth.permissions import Access
from ..auth.tokens import make_join_token
from ..dispatch.remote_start import place
from ..exceptions import CallHidden, MaxConcurrentSessionsExceeded, NoWorker, RunnerError
from ..registry import AgentRegistry
from ..store import calls, session_rows
from ..utils.paths import scope_of
from ..worker.process import ensure_worker
from .errors import start_error
from .lookup import Found, running
from .schemas import StartCallSession

if TYPE_CHECKING:
    from ..worker.launcher import AgentLauncher

_MOST_ASKED = 3
"""How often the project's rule is asked about a call on which sessions start all the time."""


async def start(
    request: HttpRequest, runner: AgentRegistry, call_id: str, body: StartCallSession, access: Access
) -> Found:
    """Start a session, and return when its agent is built and joins: on another worker, if this one is full.

    The start does not depend on the client: one that goes away leaves a session that can be found and closed.

    Raises:
        APIError: 403 where a session of the call is hidden from them, 422, 429, 500 or 503.
    """
    try:
        launcher = runner.launcher(body.agent)
        values: dict[str, Any] = {
            "metadata": body.metadata or {},
            "started_by_id": access.user_id,
            "source": access.source,
        }
        for _ in range(_MOST_ASKED):
            visible = await _visible(request, access, body.call_type, call_id)
            try:
                return await _start(request, runner, launcher, call_id, body.call_type, visible=visible, **values)
            except CallHidden as error:
                hidden = error
                if access.view is None:
                    break
                # Another session came meanwhile, and only the project's rule can tell whether they may see it.
        raise hidden
    except Exception as error:
        raise start_error(error) from error


async def _visible(request: HttpRequest, access: Access, call_type: str, call_id: str) -> calls.Visible | None:
    """Return what they may see of a call, None for all that ever comes.

    Raises:
        CallHidden: it has a session that they may not see.
    """
    if access.sees_every_call:
        return None
    if access.view is None:
        return calls.Visible(access.user_id)  # the database can tell, while it keeps others from starting
    sessions = await calls.present_on(call_type, call_id)
    if not await access.sees_call(request, sessions):
        raise CallHidden("You may not see every session of this call, so you may not start one on it")
    return calls.Visible(access.user_id, frozenset(session.id for session in sessions))


async def _start(
    request: HttpRequest, runner: AgentRegistry, launcher: AgentLauncher, call_id: str, call_type: str, **values: Any
) -> Found:
    if scope_of(request) is None:
        try:
            return Found(await place(launcher, call_id, call_type, **values))
        except NoWorker as error:
            raise NoWorker(
                f"{error}. Agents cannot run under WSGI: start `python manage.py serveagents` beside it",
                retry_after=60,
            ) from None
    worker = await ensure_worker(runner)
    refused: RunnerError | None = worker.not_ready_reason()
    if refused is None:
        try:
            return running(await launcher.start_session(call_id, call_type, **values))
        except MaxConcurrentSessionsExceeded as full:
            refused = full
    else:
        worker.instruments.refused(launcher.name)
        if not worker.only_overloaded:
            raise refused
    row = await place(launcher, call_id, call_type, exclude=worker.id, refused=refused, **values)
    worker.instruments.placed(launcher.name)
    return Found(row)


def own_invitation(session: Found, access: Access) -> dict[str, str]:
    """Return the answer's key by which somebody whom nothing identifies can join the call of what they started.

    By what they may see, the session would be hidden from them: it is nobody's, and another request of theirs shows
    nothing that this one has not shown.
    """
    if access.sees_all or access.user_id is not None:
        return {}
    return {"invitation": make_join_token(session.row)}


async def close(found: Found, access: Access) -> None:
    """Ask for the end of a session: at once where it runs in this process, else through its row."""
    if found.live is not None:
        found.live.request_close(by=access.name)
    elif found.row.is_live:
        await session_rows.request_close(found.key, by=access.name)
