"""Which WebSockets are calls, and which call."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.handlers.asgi import ASGIHandler
from django.urls import include, path

from tests.asgi.test_application import host
from tests.websockets.calls.client import Socket
from tests.websockets.calls.conftest import Serve, Server
from visionagents_runner.routing import websocket_urlpatterns
from visionagents_runner.websockets.paths import call_of, match_call

urlpatterns = [
    path("voice/agents/", include("visionagents_runner.urls")),
    path("again/", include(("visionagents_runner.urls", "visionagents_runner"), namespace="again")),
]

IDS = ["my-call", "a/b", "100%", "a%2Fb", "\N{WAVING HAND SIGN}", "?#;=&", "a b"]


def scope_of(target: str, **more: Any) -> dict[str, Any]:
    return Socket(None, target, **more).scope


@pytest.mark.parametrize("call_id", IDS)
@pytest.mark.parametrize("slash", ["/", ""])
def test_an_id_may_hold_anything_that_an_id_may_hold(call_id: str, slash: str) -> None:
    scope = scope_of(f"/agents/ws/calls/de%66ault/{quote(call_id, safe='')}{slash}?x=/")
    assert match_call(scope, ["agents/"]) == ("default", call_id)
    assert match_call(scope, ["other/"]) is None


@pytest.mark.parametrize(
    "target",
    ["/ws/", "/ws/calls/", "/ws/calls/a", "/ws/calls/a/", "/ws/calls/a/b/c", "/ws/calls//b", "/x/ws/calls/a/b/"],
)
def test_other_paths_are_no_calls(target: str) -> None:
    assert match_call(scope_of(target), [""]) is None


def test_servers_differ_in_whether_the_raw_path_has_the_root_path() -> None:
    for target in ("/site/ws/calls/a/b/", "/ws/calls/a/b/"):
        assert match_call(scope_of(target, root_path="/site"), [""]) == ("a", "b")


def test_a_server_without_raw_paths_is_good_for_plain_ids() -> None:
    scope = scope_of("/ws/calls/a/b%20c/")
    del scope["raw_path"]
    assert match_call(scope, [""]) == ("a", "b c")
    assert call_of({**scope, "url_route": {"kwargs": {"rest": "a/b c/"}}}) == ("a", "b c")


async def test_they_are_served_under_every_prefix_of_the_api(server: Server, settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    for prefix in ("/voice/agents", "/again"):
        async with server.socket(f"{prefix}/ws/calls/default/a%2Fb/") as socket:
            assert (await socket.hello())["call"] == {"type": "default", "id": "a/b"}


async def test_an_id_that_may_not_be_is_no_path(server: Server) -> None:
    for segment in ("%00", "..", "%ff", "x" * 300):
        async with server.socket(f"/ws/calls/default/{segment}/") as socket:
            assert (socket.accepted, socket.closed) == (False, 4404)


async def test_other_sockets_are_the_projects(serve: Serve, allow_local: None) -> None:
    server = await serve(application=host)
    async with server.socket() as socket:
        await socket.hello()
    asked: list[Any] = []

    async def send(event: Any) -> None:
        asked.append(event)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await server.app(scope_of("/ws/chat/"), receive, send)
    assert asked[1] == {"type": "websocket.send", "text": "/ws/chat/"}


@pytest.mark.parametrize("call_id", IDS)
async def test_a_project_may_route_them_with_channels_alone(server: Server, call_id: str) -> None:
    application = ProtocolTypeRouter(
        {"http": ASGIHandler(), "websocket": URLRouter([path("mine/", URLRouter(websocket_urlpatterns))])}
    )
    async with Socket(application, f"/mine/ws/calls/default/{quote(call_id, safe='')}/") as socket:
        assert (await socket.hello())["call"] == {"type": "default", "id": call_id}


@pytest.mark.slow
def test_a_projects_asgi_module_may_import_the_routes_before_django_is_set_up() -> None:
    import os
    import subprocess
    import sys

    code = "from visionagents_runner.routing import websocket_urlpatterns; assert websocket_urlpatterns"
    environment = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
