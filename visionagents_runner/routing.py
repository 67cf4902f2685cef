"""Where the WebSockets are, beside the REST API.

``ws/calls/<call_type>/<call_id>/`` is a call, ``ws/sessions/<session_id>/`` the live feed of a session, and
``ws/sessions/`` that of the list of sessions.

The application of `asgi` serves them by itself wherever the project's URLconf includes the API. A project that routes
WebSockets with Channels alone mounts `websocket_urlpatterns` instead::

    URLRouter([path("agents/", URLRouter(visionagents_runner.routing.websocket_urlpatterns))])

No middleware of Channels is needed around them: who asks is found out here, as for REST.
"""

from __future__ import annotations

from typing import Any

from django.urls import re_path


async def serve_call(scope: Any, receive: Any, send: Any) -> None:
    # Imported late, so that a project's asgi.py may import this module before Django is set up.
    from .websockets.consumers import CallConsumer

    await CallConsumer()(scope, receive, send)


async def serve_feed(scope: Any, receive: Any, send: Any) -> None:
    from .websockets.consumers import FeedConsumer

    await FeedConsumer()(scope, receive, send)


websocket_urlpatterns = [
    re_path(r"^ws/calls/(?P<rest>(?s:.+))$", serve_call),  # type: ignore[arg-type]
    re_path(r"^ws/sessions/(?:(?P<session_id>[^/]+)/?)?$", serve_feed),  # type: ignore[arg-type]
]
