"""Which requests the lean mount takes: exactly those that Django would give to the API."""

from __future__ import annotations

import uuid
from functools import wraps
from typing import Any
from urllib.parse import quote

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.http import HttpRequest, HttpResponse
from django.urls import include, path, re_path, reverse

import tests.agents
from tests.api.fixtures import Serve
from tests.asgi_client import Client
from visionagents_runner import Runner, ServeOptions
from visionagents_runner.asgi.lean import LeanAPI
from visionagents_runner.asgi.prefixes import included_prefixes

ID = str(uuid.uuid4())
API = "visionagents_runner.urls"


@pytest.fixture
def lean(settings: Any) -> Any:
    """Return whether the lean mount takes a path, under ``urls``."""

    def takes(*urls: Any) -> Any:
        settings.ROOT_URLCONF = urls
        app = LeanAPI(tests.agents.runner)
        client = Client(app)
        return lambda target, **scope: app.matches(client.scope("GET", target, **{"headers": [], **scope}))

    return takes


def page(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    return HttpResponse("a page")


def test_it_takes_the_included_routes_and_nothing_else(lean: Any) -> None:
    takes = lean(path("agents/", include(API)))
    for target in (
        "/agents/sessions",
        "/agents/sessions/",
        "/agents/sessions?limit=1",
        f"/agents/sessions/{ID}",
        f"/agents/sessions/{ID}/",
        "/agents/calls/a%2Fb/sessions",
        f"/agents/calls/%F0%9F%A6%8A/sessions/{ID}/metrics",
        "/agents/health",
        "/agents/ready/",
        "/agents/metrics",
    ):
        assert takes(target), target
    for target in (
        "/",
        "/agents",
        "/agents/",
        "/sessions",
        "/agents/docs",
        "/agents/openapi.json",
        "/agents/sessions/archive/",
        f"/agents/sessions/{ID}/more",
        "/agents/calls",
        "/agents/calls/a/b",
        "/agents/health/x",
        "/agents//health",
        "/Agents/health",
        "//agents/health",
        "/other/agents/health",
    ):
        assert not takes(target), target


def test_prefixes_are_found_wherever_the_api_is_included(lean: Any, settings: Any) -> None:
    inner = ([path("v1/", include(API)), path("page/", page)], "inner")
    takes = lean(path("", page), path("a b/", include((API, "x"), namespace="x")), path("api/", include(inner)))
    assert included_prefixes() == ["a b/", "api/v1/"]
    assert takes("/a%20b/health")
    assert takes("/api/v1/health")
    settings.ROOT_URLCONF = API
    assert included_prefixes() == [""]


def test_a_prefix_that_depends_on_the_request_is_left_to_django(lean: Any) -> None:
    takes = lean(
        path("<slug:tenant>/agents/", include(API)),
        re_path("^(?:a|b)/", include(API)),
        *i18n_patterns(path("agents/", include(API))),
    )
    assert included_prefixes() == []
    assert not takes("/acme/agents/health")


def test_what_the_project_answers_itself_stays_its_own(lean: Any) -> None:
    takes = lean(path("health", page), path("sessions/archive/", page), path("", include(API)))
    assert not takes("/health")
    assert not takes("/sessions/archive/")
    assert takes("/ready")
    assert takes(f"/sessions/{ID}")


def test_views_that_the_project_wrapped_are_left_to_django(lean: Any) -> None:
    from visionagents_runner import urls

    def guarded(view: Any) -> Any:
        @wraps(view)
        async def inner(request: HttpRequest, **kwargs: Any) -> Any:
            return await view(request, **kwargs)

        return inner

    own = [path(str(each.pattern), guarded(each.callback)) for each in urls.urlpatterns if hasattr(each, "name")]
    takes = lean(path("agents/", include(own)))
    assert not takes("/agents/health")


def test_the_root_path_is_no_part_of_the_urlconf(lean: Any, settings: Any) -> None:
    takes = lean(path("agents/", include(API)))
    assert takes("/app/agents/health", root_path="/app")
    assert takes("/agents/health", root_path="/app")  # a server that leaves it out of the raw path
    assert not takes("/app/agents/health")
    settings.FORCE_SCRIPT_NAME = "/app"
    assert takes("/app/agents/health")


def test_a_server_without_a_raw_path_is_served(lean: Any) -> None:
    takes = lean(path("agents/", include(API)))
    assert takes("/agents/calls/🦊/sessions".encode().decode("latin1"), raw_path=None, path="/agents/calls/🦊/sessions")


def test_where_https_is_required_django_redirects(lean: Any, settings: Any) -> None:
    takes = lean(path("agents/", include(API)))
    settings.SECURE_SSL_REDIRECT = True
    assert not takes("/agents/health")
    assert takes("/agents/health", scheme="https")
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert takes("/agents/health", headers=[(b"x-forwarded-proto", b"https")])


async def test_a_path_that_is_not_the_apis_is_not_found() -> None:
    answer = await Client(LeanAPI(tests.agents.runner)).get("/agents/nowhere")
    assert (answer.status, answer.detail) == (404, "Not Found")


@pytest.mark.smoke
@pytest.mark.parametrize("mount", ["include"], indirect=True)
@pytest.mark.parametrize("prefix", ["/", "/agents/", "/a b/", "/acme/agents/", "/en/agents/"])
async def test_both_mounts_read_ids_right_under_any_prefix(
    serve: Serve, allow_local: None, settings: Any, prefix: str
) -> None:
    client = await serve()
    settings.ROOT_URLCONF = (
        path("agents/", include(API, namespace="one")),
        path("a b/", include(API, namespace="two")),
        path("<slug:tenant>/agents/", include(API, namespace="three")),
        *i18n_patterns(path("agents/", include(API, namespace="four"))),
        path("", include(API)),
    )
    encoded = quote(prefix)
    for call_id in ("a%2Fb", "a%2Fsessions%2Fb", "x%2Fsessions", "%2F", "%252F"):
        target = f"{encoded}calls/{call_id}/sessions"
        answer = await client.post(target, {})
        assert answer.status == 201, (target, answer.body)
        assert quote(answer.json()["call_id"], safe="") == call_id
        assert (await client.get(f"{target}/{answer.json()['session_id']}")).status == 200
    assert (await client.get(f"{encoded}openapi.json")).json()["paths"][f"{prefix}sessions"]
    for unknown in ("sessions/a/b", "calls/x", "calls/x/sessions/y/z", "calls//", "sessions//x"):
        answer = await client.get(f"{encoded}{unknown}")
        assert answer.status == 404
        assert answer.detail


@pytest.mark.parametrize("mount", ["include"], indirect=True)
async def test_without_a_raw_path_ids_are_read_from_the_decoded_one(serve: Serve, allow_local: None) -> None:
    client = await serve()
    answer = await client.post("/calls/a%2Fb/sessions", {}, raw_path=None)
    assert answer.json()["call_id"] == "a/b"
    assert (await client.get(f"/calls/a%2Fb/sessions/{answer.json()['session_id']}", raw_path=None)).status == 200


@pytest.mark.parametrize("mount", ["include"], indirect=True)
@pytest.mark.parametrize("raw", [b"/app/calls/a%2Fb/sessions", b"/calls/a%2Fb/sessions"])
async def test_with_a_root_path_too(serve: Serve, allow_local: None, raw: bytes) -> None:
    client = await serve()
    answer = await client.post("/app/calls/a%2Fb/sessions", {}, root_path="/app", raw_path=raw)
    assert answer.json()["call_id"] == "a/b"


def test_routes_can_be_reversed(settings: Any) -> None:
    settings.ROOT_URLCONF = (path("agents/", include(API)),)
    assert reverse("visionagents_runner:sessions") == "/agents/sessions"
    assert reverse("visionagents_runner:session", args=[ID]) == f"/agents/sessions/{ID}"
    assert reverse("visionagents_runner:docs") == "/agents/docs"


async def test_an_api_of_the_projects_own_replaces_ours_whole(
    settings: Any, monkeypatch: pytest.MonkeyPatch, transactional_db: None
) -> None:
    from django.core.handlers.asgi import ASGIHandler
    from ninja import NinjaAPI

    from visionagents_runner.asgi.lean import lean_api

    own = NinjaAPI(urls_namespace="own")

    @own.get("/sessions")
    async def sessions(request: HttpRequest) -> dict[str, str]:
        return {"whose": "own"}

    @own.get("/else")
    def other(request: HttpRequest) -> dict[str, str]:
        return {"whose": "own, too"}

    runner = Runner(tests.agents.runner.launchers["default"], ServeOptions(api=own))
    monkeypatch.setattr(tests.agents, "runner", runner)
    assert runner.api is own
    assert lean_api(runner) is None
    settings.ROOT_URLCONF = (path("agents/", include(API)),)
    client = Client(ASGIHandler())
    assert (await client.get("/agents/sessions")).json() == {"whose": "own"}
    assert (await client.get("/agents/else")).json() == {"whose": "own, too"}
    assert (await client.get("/agents/health")).status == 404
    assert (await client.get("/agents/docs")).status == 200
    assert "/agents/sessions" in (await client.get("/agents/openapi.json")).json()["paths"]


async def test_a_project_may_mount_the_urls_of_the_api_itself(settings: Any) -> None:
    from django.core.handlers.asgi import ASGIHandler

    settings.ROOT_URLCONF = (path("own/", Runner(tests.agents.runner.launchers["default"]).api.urls),)
    client = Client(ASGIHandler())
    assert (await client.get("/own/health")).status == 200
    assert "/own/sessions" in (await client.get("/own/openapi.json")).json()["paths"]
