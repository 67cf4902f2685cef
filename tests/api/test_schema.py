"""The OpenAPI schema, its page, and what schemathesis makes of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.api.fixtures import Serve
from tests.asgi_client import REMOTE, Client
from visionagents_runner.api.factory import RunnerAPI

pytestmark = pytest.mark.slow


async def test_the_schema_documents_every_route_and_its_answers(client: Client) -> None:
    remote = client.like(peer=REMOTE)
    schema = (await remote.get("/openapi.json")).json()
    assert schema["openapi"].startswith("3.1")
    documented = {
        f"{method.upper()} {path}": set(operation["responses"])
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    }
    asked = {"400", "401", "403", "429"}
    started = {*asked, "201", "409", "413", "422", "429", "500", "503"}
    assert documented == {
        "POST /sessions": started,
        "GET /sessions": {*asked, "200", "422", "503"},
        "GET /sessions/{session_id}": {*asked, "200", "404", "503"},
        "DELETE /sessions/{session_id}": {*asked, "200", "404", "503"},
        "POST /sessions/{session_id}/invitations": {*asked, "201", "404", "409", "413", "422", "503"},
        "GET /sessions/{session_id}/events": {*asked, "200", "404", "422", "503"},
        "GET /sessions/{session_id}/transcript": {*asked, "200", "404", "422", "503"},
        "GET /sessions/{session_id}/metrics": {*asked, "200", "404", "503"},
        "POST /sessions/{session_id}/say": {*asked, "202", "404", "409", "413", "422", "502", "503", "504"},
        "POST /sessions/{session_id}/respond": {*asked, "202", "404", "409", "413", "422", "502", "503", "504"},
        "POST /calls/{call_id}/sessions": started,
        "GET /calls/{call_id}/sessions": {*asked, "200", "422", "503"},
        "GET /calls/{call_id}/sessions/{session_id}": {*asked, "200", "404", "422", "503"},
        "DELETE /calls/{call_id}/sessions/{session_id}": {*asked, "202", "404", "422", "503"},
        "POST /calls/{call_id}/sessions/{session_id}/close": {*asked, "202", "404", "422", "503"},
        "GET /calls/{call_id}/sessions/{session_id}/metrics": {*asked, "200", "404", "422", "503"},
        "GET /health": {"200", "400"},
        "GET /ready": {"200", "400", "503"},
        "GET /metrics": {*asked, "200"},
    }
    start = schema["paths"]["/sessions"]["post"]
    for status in ("429", "503"):
        assert "Retry-After" in start["responses"][status]["headers"]
    properties = start["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert properties["agent"]["enum"] == ["default", None]
    assert set(schema["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == {
        "application/json",
        "text/plain",
        "application/openmetrics-text",
    }
    for operations in schema["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert all(answer["description"] for answer in operation["responses"].values())
    assert (await remote.get("/openapi.json")).json() == schema


async def test_the_schema_is_built_once_and_not_on_the_loop(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    build = RunnerAPI.get_openapi_schema

    def build_and_tell(self: RunnerAPI, **options: Any) -> Any:
        built.append(threading.current_thread().name)
        return build(self, **options)

    monkeypatch.setattr(RunnerAPI, "get_openapi_schema", build_and_tell)
    client = (await serve(work=False)).like(peer=REMOTE)
    answers = await asyncio.gather(*(client.get("/openapi.json") for _ in range(5)))
    under = await client.get("/a%22%C3%A9/openapi.json", root_path='/a"é')
    assert built == ["visionagents-compute_0"]
    assert {answer.status for answer in answers} == {200}
    paths = answers[0].json()["paths"]
    assert under.json()["paths"] == {f'/a"é{path}': operations for path, operations in paths.items()}


async def test_the_page_has_its_assets_from_here(client: Client, settings: Any) -> None:
    for path, url in (("/docs", "openapi.json"), ("/docs/", "../openapi.json")):
        answer = await client.get(path)
        assert answer.status == 200
        page = answer.body.decode()
        assert "//" not in page.replace("<!DOCTYPE", "").replace("/ninja/", "")
        assert f'"url": "{url}"' in page
        assert "ninja/swagger-ui-bundle.js" in page


async def test_without_the_app_ninja_there_is_no_page_rather_than_a_cdns(client: Client, settings: Any) -> None:
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "ninja"]
    answer = await client.get("/docs")
    assert answer.status == 404
    assert "INSTALLED_APPS" in answer.detail


@pytest.fixture
async def server(serve: Serve, allow_local: None) -> AsyncIterator[str]:
    """A real server, on this event loop; its address."""
    import uvicorn

    app = (await serve()).app
    running = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", ws="none", log_level="critical"))
    running.capture_signals = _no_signals  # type: ignore[method-assign]
    task = asyncio.create_task(running.serve())
    while not running.started:
        assert not task.done()
        await asyncio.sleep(0.01)
    host, port = running.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    running.should_exit = True
    await task


def _no_signals() -> Any:
    from contextlib import nullcontext

    return nullcontext()


@pytest.mark.parametrize("mount", ["lean"], indirect=True)
async def test_schemathesis_finds_no_server_error_and_no_untruth(server: str) -> None:
    found = await asyncio.to_thread(examine, server)
    assert {200, 201, 202, 404, 422} <= found


def examine(server: str) -> set[int]:
    """Try every operation with values that its schema allows, then with others. Returns the status codes met."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis import GenerationMode
    from schemathesis.checks import CHECKS, load_all_checks

    load_all_checks()
    checks = [
        CHECKS.get_one(name)
        for name in (
            "not_a_server_error",
            "status_code_conformance",
            "content_type_conformance",
            "response_schema_conformance",
            "response_headers_conformance",
        )
    ]
    schema = schemathesis.openapi.from_url(f"{server}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 19
    statuses: set[int] = set()
    live: dict[str, str] = {}
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(
                max_examples=30,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def examine_one(case: Any) -> None:
                if "session_id" in case.path_parameters and live and len(case.path_parameters["session_id"]) % 2:
                    # No made-up id is that of a session.
                    case.path_parameters.update({name: live[name] for name in case.path_parameters})
                response = case.call_and_validate(checks=checks)
                statuses.add(response.status_code)
                if response.status_code == 201:
                    live.update(response.json())

            try:
                examine_one()
            except Unsatisfiable:
                assert mode is GenerationMode.NEGATIVE  # an operation for which nothing is wrong
    return statuses
