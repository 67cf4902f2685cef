"""Starting and closing a session: what both route families share."""

from __future__ import annotations

from django.http import HttpRequest

from .. import store
from ..exceptions import NotReady
from ..identifiers import clean_call_part, clean_metadata
from ..permissions import Access
from ..runner import Runner
from ..session import LiveSession
from ..worker import ensure_worker
from .errors import start_error
from .found import Found
from .paths import scope_of
from .schemas import StartCallSession


async def start(
    request: HttpRequest, runner: Runner, call_id: str, body: StartCallSession, access: Access
) -> LiveSession:
    """Start a session, and return when its agent is built and joins.

    The start does not depend on the client: one that goes away leaves a session that can be found and closed.

    Raises:
        APIError: 422, 429, 500 or 503.
    """
    try:
        launcher = runner.launcher(body.agent)
        clean_call_part("call_id", call_id)
        clean_call_part("call_type", body.call_type)
        metadata = clean_metadata(body.metadata)
        if scope_of(request) is None:
            raise NotReady(
                "Agents cannot run under WSGI: serve this project over ASGI (python manage.py serveagents)",
                retry_after=60,
            )
        worker = await ensure_worker(runner)
        if (reason := worker.not_ready_reason()) is not None:
            worker.instruments.refused(launcher.name)
            raise reason
        return await launcher.start_session(
            call_id, body.call_type, metadata=metadata, started_by_id=access.user_id, source=access.source
        )
    except Exception as error:
        raise start_error(error) from error


async def close(found: Found, access: Access) -> None:
    """Ask for the end of a session: at once where it runs in this process, else through its row."""
    if isinstance(found, LiveSession):
        found.request_close(by=access.name)
    elif found.is_live:
        await store.request_close(found.pk, by=access.name)
