"""How much of a body reaches whom, on any ASGI server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents import runner
from tests.asgi_client import Client
from visionagents_runner.asgi.application import AgentsApplication

pytestmark = pytest.mark.urls("tests.asgi.test_body_limit")

SMALL, LARGE = 1000, 5000
CHUNKED = {"transfer-encoding": "chunked"}


async def upload(request: Any) -> Any:
    from django.http import HttpResponse

    return HttpResponse(str(len(request.body)))


def _urlpatterns() -> list[Any]:
    from django.urls import include, path
    from django.views.decorators.csrf import csrf_exempt

    return [path("upload/", csrf_exempt(upload)), path("agents/", include("visionagents_runner.urls"))]


urlpatterns = _urlpatterns()


@pytest.fixture(autouse=True, params=["auto", False], ids=["lean", "include"])
def limits(request: pytest.FixtureRequest, settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {
        **settings.VISIONAGENTS_RUNNER,
        "LEAN_API": request.param,
        "ALLOW_LOCAL": True,
        "MAX_BODY_BYTES": SMALL,
        "MAX_PROJECT_BODY_BYTES": LARGE,
    }
    settings.ALLOWED_HOSTS = ["*"]


def client(application: Any = None) -> Client:
    site = AgentsApplication(runner, application)
    site.managed = True
    return Client(site)


async def chunks(size: int) -> Any:
    for _ in range(size // 100):
        yield b"x" * 100


@pytest.mark.parametrize("chunked", [True, False])
async def test_the_api_takes_little_and_a_page_of_the_project_more(chunked: bool) -> None:
    async def status(path: str, size: int) -> int:
        if chunked:
            return (await client().request("POST", path, body=chunks(size), headers=CHUNKED)).status
        return (await client().request("POST", path, body=b"x" * size)).status

    assert await status("/agents/sessions", LARGE) == 413
    assert await status("/upload/", LARGE) == 200
    assert await status("/upload/", LARGE + 100) == 413


async def test_a_path_that_nobody_answers_takes_little() -> None:
    answer = await client().request("POST", "/nowhere/", body=chunks(SMALL + 100), headers=CHUNKED)
    assert (answer.status, answer.detail) == (413, f"The request body is larger than {SMALL} bytes")


async def test_what_another_application_may_answer_is_a_path_of_the_project() -> None:
    sizes = []

    async def other(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            sizes.append(len(message["body"]))
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    assert (await client(other).request("POST", "/nowhere/", body=chunks(LARGE), headers=CHUNKED)).status == 204
    assert sum(sizes) == LARGE
    sizes.clear()
    assert (await client(other).request("POST", "/nowhere/", body=chunks(10 * LARGE), headers=CHUNKED)).status == 413
    assert sum(sizes) <= LARGE
