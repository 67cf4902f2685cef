"""The ASGI application: the API without the host's middleware, Django, WebSockets, and the worker's life."""

from __future__ import annotations

import json
import logging
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core import asgi as django_asgi
from django.utils.module_loading import import_string

from .. import quotas
from ..auth.local_requests import warn_of_local_requests
from ..exceptions import NotReady, RunnerConfigurationError
from ..utils.request_headers import why_refused
from ..websockets.paths import CALL, FEED, match_call, match_feed
from ..worker.current import current_worker
from ..worker.process import end_with_server, ensure_worker
from .body_limit import within_limit
from .hooks import hook_into_server
from .prefixes import included_prefixes

if TYPE_CHECKING:
    from asgiref.typing import ASGI3Application

    from ..registry import AgentRegistry
    from .lean import LeanAPI

# The supervisor of several processes loads this module too, and serves nothing: the API and the consumers come with the
# first use.

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0


class AgentsApplication:
    """Routes each scope, and sees to it that the worker runs from the first of them on.

    The worker starts with ``lifespan.startup`` where the server speaks it, else with the first scope, and drains with
    ``lifespan.shutdown``, or, under daphne, which has no lifespan, before the reactor stops. In development (DEBUG) its
    sessions are closed then instead.
    """

    def __init__(self, runner: AgentRegistry, application: Any = None) -> None:
        self.runner = runner
        self.managed = False
        """Whether the server that embeds this application starts and drains the worker itself."""
        self._application = application
        self._hooked = False
        self._next_try = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if (why := why_refused(scope["headers"])) is not None:
            await _refuse(scope, receive, send, why)
            return
        if current_worker() is None and not self.managed:
            await self._start_worker()
        if scope["type"] == "http" and self._lean is not None and self._lean.matches(scope):
            await self._lean(scope, receive, send)
        elif scope["type"] == "websocket" and (call := self._call_of(scope)) is not None:
            await self._serve_call({**scope, CALL: call}, receive, send)
        elif scope["type"] == "websocket" and (feed := match_feed(scope, self._prefixes)) is not None:
            await self._serve_feed({**scope, FEED: feed}, receive, send)
        elif scope["type"] == "websocket" and self._application is None:
            await _refuse_websocket(receive, send)
        elif scope["type"] == "http":
            await within_limit(self._inner, scope, receive, send, only_django=self.only_django)
        else:
            await self._inner(scope, receive, send)

    @property
    def only_django(self) -> bool:
        """Whether what is not the API's is Django's."""
        return self._application is None

    def prepare(self) -> None:
        """Build now what would hold the event loop at the first request."""
        from ..websockets import consumers  # noqa: F401

        _ = self._inner, self._lean, self._prefixes
        quotas.prepare()

    def _call_of(self, scope: Any) -> tuple[str, str] | None:
        """Return the call whose WebSocket this is; None if it is another one of the project's."""
        return match_call(scope, self._prefixes)

    async def _serve_call(self, scope: Any, receive: Any, send: Any) -> None:
        from ..websockets.consumers import CallConsumer

        await CallConsumer(self.runner)(scope, receive, send)

    async def _serve_feed(self, scope: Any, receive: Any, send: Any) -> None:
        from ..websockets.consumers import FeedConsumer

        await FeedConsumer(self.runner)(scope, receive, send)

    @cached_property
    def _prefixes(self) -> list[str]:
        return included_prefixes()

    @cached_property
    def _inner(self) -> ASGI3Application:
        application: Any = self._application or django_asgi.get_asgi_application()
        if apps.is_installed("django.contrib.staticfiles") and (settings.DEBUG or self.runner.standalone):
            application = ASGIStaticFilesHandler(application)
        return application  # type: ignore[no-any-return]

    @cached_property
    def _lean(self) -> LeanAPI | None:
        from .lean import lean_api

        return lean_api(self.runner)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        message = await receive()
        assert message["type"] == "lifespan.startup"
        self.runner.stopped = False
        self.prepare()
        try:
            await ensure_worker(self.runner)
        except RunnerConfigurationError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        except Exception:
            # The rest of the project is served; a later request tries again.
            logger.exception("The worker could not start")
        else:
            warn_of_local_requests(self.runner)
        await send({"type": "lifespan.startup.complete"})
        while (await receive())["type"] != "lifespan.shutdown":
            pass
        await end_with_server(self.runner)
        await send({"type": "lifespan.shutdown.complete"})

    async def _start_worker(self) -> None:
        """Start the worker. If that fails, the project is served all the same, and a later request tries again."""
        if self.runner.stopped or time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + _RETRY_SECONDS
        try:
            worker = await ensure_worker(self.runner)
        except (NotReady, RunnerConfigurationError) as error:
            logger.error("The worker could not start: %s", error)
            return
        except Exception:
            logger.exception("The worker could not start")
            return
        self._next_try = 0.0
        if not self._hooked:
            self._hooked = True
            hook_into_server(self.runner, worker)
            warn_of_local_requests(self.runner)


def application_of(runner: AgentRegistry) -> AgentsApplication:
    """Return the one application of ``runner`` that stands by itself, with Django for all that is not the API's."""
    return runner.own(AgentsApplication)


def project_application(runner: AgentRegistry) -> AgentsApplication:
    """Return what ``serveagents`` serves: the project's ASGI_APPLICATION, consumers included, with the API before it.

    Raises:
        RunnerConfigurationError: it cannot be imported.
    """
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path or runner.standalone:
        return application_of(runner)
    try:
        application = import_string(path)
    except ImportError as error:
        raise RunnerConfigurationError(f"ASGI_APPLICATION = {path!r} cannot be imported: {error}") from error
    if isinstance(application, AgentsApplication):
        return application
    return AgentsApplication(runner, application)


async def _refuse(scope: Any, receive: Any, send: Any, why: str) -> None:
    """Answer 431 to what is not worth reading; a WebSocket that was not accepted cannot be told the reason."""
    if scope["type"] == "websocket":
        await _refuse_websocket(receive, send)
        return
    body = json.dumps({"detail": why}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 431, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse_websocket(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 4404})
