"""Every answer of ours says what a browser may do with it."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client

from visionagents_runner.utils.page_headers import guard, page_policy

ADMIN = "/admin/visionagents_runner"
PAGES = ["/", "/docs", "/call/default/x/", "/call/"]
ADMIN_PAGES = [f"{ADMIN}/{page}/" for page in ("agentsession", "worker", "agentkey", "webhookdelivery", "agentkey/add")]
NO_PAGES = ["/health", "/openapi.json", "/sessions/none", "/calls/x/sessions", "/sessions", "/metrics"]


@pytest.fixture
def operator(client: Client, django_user_model: Any) -> Client:
    client.force_login(django_user_model.objects.create_superuser("root"))
    return client


@pytest.mark.django_db
@pytest.mark.parametrize("path", [*PAGES, *ADMIN_PAGES])
def test_a_page_says_what_it_loads_who_may_embed_it_and_what_it_may_use(operator: Client, path: str) -> None:
    headers = operator.get(path).headers
    assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    for device in ("camera", "microphone"):
        allowed = "(self)" if path.startswith("/call/") else "()"
        assert f"{device}={allowed}" in headers["Permissions-Policy"]
    assert headers["Referrer-Policy"] in {"same-origin", "no-referrer"}


@pytest.mark.django_db
@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_no_inline_script_and_nothing_from_elsewhere(operator: Client, path: str) -> None:
    policy = operator.get(path).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy


@pytest.mark.django_db
@pytest.mark.parametrize("path", NO_PAGES)
def test_what_is_no_page_loads_nothing_and_is_kept_nowhere(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "no-" in answer.headers["Cache-Control"]


def test_what_the_host_has_set_stands() -> None:
    response = HttpResponse(headers={"Content-Security-Policy": "default-src 'self'", "Referrer-Policy": "origin"})
    guard(response, "default-src 'none'")
    assert response.headers["Content-Security-Policy"] == "default-src 'self'"
    assert response.headers["Referrer-Policy"] == "origin"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_static_files_of_another_origin_are_let_in(settings: Any) -> None:
    for url, source in (
        ("https://static.example/assets/", "https://static.example"),
        ("//static.example:8443/", "//static.example:8443"),
        ("/static/", None),
    ):
        settings.STATIC_URL = url
        policy = page_policy()
        assert ("static.example" in policy) == (source is not None)
        if source is not None:
            assert f"script-src 'self' {source.removeprefix('//')};" in policy
        assert "connect-src 'self';" in policy
