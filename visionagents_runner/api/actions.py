"""Starting and closing a session: what both route families share."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from .. import store
from ..exceptions import MaxConcurrentSessionsExceeded, NoWorker, RunnerError
from ..permissions import Access
from ..placing import place
from ..runner import Runner
from ..session import LiveSession
from ..worker import ensure_worker
from .errors import start_error
from .found import Found
from .paths import scope_of
from .schemas import StartCallSession


async def start(request: HttpRequest, runner: Runner, call_id: str, body: StartCallSession, access: Access) -> Found:
    """Start a session, and return when its agent is built and joins: on another worker, if this one is full.

    The start does not depend on the client: one that goes away leaves a session that can be found and closed.

    Raises:
        APIError: 422, 429, 500 or 503.
    """
    try:
        launcher = runner.launcher(body.agent)
        values: dict[str, Any] = {
            "metadata": body.metadata or {},
            "started_by_id": access.user_id,
            "source": access.source,
        }
        if scope_of(request) is None:
            try:
                return await place(launcher, call_id, body.call_type, **values)
            except NoWorker as error:
                raise NoWorker(
                    f"{error}. Agents cannot run under WSGI: start `python manage.py serveagents` beside it",
                    retry_after=60,
                ) from None
        worker = await ensure_worker(runner)
        refused: RunnerError | None = worker.not_ready_reason()
        if refused is None:
            try:
                return await launcher.start_session(call_id, body.call_type, **values)
            except MaxConcurrentSessionsExceeded as full:
                refused = full
        else:
            worker.instruments.refused(launcher.name)
            if not worker.only_overloaded:
                raise refused
        session = await place(launcher, call_id, body.call_type, but=worker.id, refused=refused, **values)
        worker.instruments.placed(launcher.name)
        return session
    except Exception as error:
        raise start_error(error) from error


async def close(found: Found, access: Access) -> None:
    """Ask for the end of a session: at once where it runs in this process, else through its row."""
    if isinstance(found, LiveSession):
        found.request_close(by=access.name)
    elif found.is_live:
        await store.request_close(found.pk, by=access.name)
