"""The call page of ``runagent``: the project, served on this machine alone while one session runs.

It is served by the process, and on the event loop, in which the agent runs, because that is where its room is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import sys
import webbrowser
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.exceptions import ImproperlyConfigured, SuspiciousOperation
from django.http import Http404
from django.views import static

from ..asgi.application import project_application
from ..asgi.prefixes import included_prefixes
from ..auth.local_requests import local_counts
from ..auth.local_token import local_token, page_url
from ..auth.tokens import make_join_token
from ..exceptions import RunnerConfigurationError
from ..server.sockets import listen, url_of
from ..server.uvicorn import uvicorn_server
from ..utils.paths import encode_path
from ..utils.tasks import spawn
from ..views import page_path

if TYPE_CHECKING:
    import uvicorn

    from ..registry import AgentRegistry
    from ..sessions.session import LiveSession

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
USUAL_PORT = 8000
_LOOPBACK_HOSTS = ("127.0.0.1", "localhost")
_LAST_REQUESTS_SECONDS = 1
_NO_PAGE = (
    "There is no call page: to talk to the agent in a browser, add "
    'path("agents/", include("visionagents_runner.urls")) to your URLs'
)
_TEXT_BROWSERS = ("www-browser", "links", "elinks", "lynx", "w3m")


def somebody_may_look() -> bool:
    """Whether a page makes sense: not for a program that pipes lines to the agent and reads its answers."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return True
    return not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode))


class CallPage:
    """The server of the page; made before the session, so that it is ready when the session is."""

    def __init__(self, runner: AgentRegistry, port: int | None = None) -> None:
        """Listen on ``port``; on 8000, or else a free one, if None.

        Raises:
            RunnerConfigurationError: the port is taken, or is none.
        """
        self._runner = runner
        self._listener = _listen(port)
        self._preparing: asyncio.Task[uvicorn.Server | None] | None = None
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[bool] | None = None

    def prepare(self) -> asyncio.Task[uvicorn.Server | None]:
        """Begin to load what the page is served with, in a thread: it takes a while, and the agent is being built."""
        _open_to_this_machine()
        self._preparing = spawn(asyncio.to_thread(self._load), name="page-load")
        return self._preparing

    async def serve(self, session: LiveSession) -> str | None:
        """Serve, and return the address at which the session's call is joined; None if there is no page.

        Never raises: the session goes on without a page, and the log says why there is none.
        """
        try:
            self._server = await (self._preparing or self.prepare())
            if self._server is None:
                logger.warning(_NO_PAGE)
                return None
            self._serving = spawn(self._server.serve(sockets=[self._listener]), name="page-server")
            return self._address(session)
        except RunnerConfigurationError as error:
            logger.warning("The call page is not served: %s", error)
        except Exception:
            logger.exception("The call page is not served")
        return None

    def open_browser(self, address: str) -> bool:
        """Open the page if there is a browser with a screen; returns whether it tries to."""
        if not _has_browser():
            return False
        self._opening = spawn(asyncio.to_thread(_open, address), name="page-open")
        return True

    async def stop(self) -> None:
        """Stop serving, once whoever is on the page has been told. Takes about a second at most."""
        if self._preparing is not None:
            await asyncio.wait({self._preparing})
        if self._serving is not None and self._server is not None:
            self._server.should_exit = True
            done, _ = await asyncio.wait({self._serving}, timeout=_LAST_REQUESTS_SECONDS + 1)
            if not done:
                self._serving.cancel()
                await asyncio.wait({self._serving}, timeout=_LAST_REQUESTS_SECONDS)
            elif (error := self._serving.exception()) is not None:
                logger.error("The server of the call page failed: %r", error)

    def close(self) -> None:
        self._listener.close()

    def _load(self) -> uvicorn.Server | None:
        if not included_prefixes():
            return None
        application = project_application(self._runner)
        application.managed = True
        application.prepare()
        served: Any = application
        with suppress(ImproperlyConfigured):  # no STATIC_URL: then the page has no such files anywhere
            served = _StaticFiles(served)
        server = uvicorn_server(served, patience=_LAST_REQUESTS_SECONDS)
        server.config.load()
        return server

    def _address(self, session: LiveSession) -> str:
        base = encode_path("/" + included_prefixes()[0]).decode()
        path = page_path(base, session.call_type, session.call_id)
        root = url_of(self._listener).rstrip("/")
        if not self._is_open():
            return f"{root}{path}#token={make_join_token(session)}"
        # A browser that this process opens is its child, which the rule for local requests does not trust.
        if sys.stderr.isatty() and (token := local_token()) is not None:
            return page_url(root + base, token, path)
        return root + path

    def _is_open(self) -> bool:
        """Whether whoever sits at this machine may join without an invitation, and then start agents too."""
        options = self._runner.options
        if options.can_start_session is not None or options.can_view_session is not None:
            return False
        return local_counts(self._runner)


class _StaticFiles(ASGIStaticFilesHandler):
    """Serves static files whatever DEBUG says: from the apps, and what ``collectstatic`` made, under its own names."""

    def serve(self, request: Any) -> Any:
        try:
            return super().serve(request)
        except SuspiciousOperation as error:  # a path that leads elsewhere
            raise Http404 from error
        except Http404:
            if not settings.STATIC_ROOT:
                raise
            return static.serve(request, self.file_path(request.path), document_root=str(settings.STATIC_ROOT))


def _open_to_this_machine() -> None:
    """Let this process, which nobody else reaches, be asked by the names of loopback and without TLS."""
    hosts = settings.ALLOWED_HOSTS
    settings.ALLOWED_HOSTS = [*hosts, *(host for host in _LOOPBACK_HOSTS if host not in hosts)]
    settings.SECURE_SSL_REDIRECT = False


def _listen(port: int | None) -> socket.socket:
    if port is not None:
        return listen(HOST, port)
    try:
        return listen(HOST, USUAL_PORT)
    except RunnerConfigurationError:
        return listen(HOST, 0)


def _has_browser() -> bool:
    if not sys.stderr.isatty():
        return False
    if os.environ.get("BROWSER"):
        return True
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        return getattr(webbrowser.get(), "name", "") not in _TEXT_BROWSERS  # those would take the terminal
    except webbrowser.Error:
        return False


def _open(address: str) -> bool:
    try:
        return webbrowser.open(address)
    except Exception as error:
        logger.debug("The browser could not be opened: %r", error)
        return False
