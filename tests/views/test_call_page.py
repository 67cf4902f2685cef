"""The shell of the call page: its address, what it tells, and its headers."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import quote

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.test import Client as DjangoClient
from django.urls import clear_script_prefix, path, reverse
from django.urls.conf import include

from tests.asgi_client import REMOTE, Client

urlpatterns = [path("voice/agents/", include("visionagents_runner.urls", namespace="deep"))]


@pytest.fixture(autouse=True)
def page(settings: Any) -> None:
    """A template that shows the context: the real page is PAGE's."""
    shown = "".join(f'{name}="{{{{ {name} }}}}" ' for name in ("call_type", "call_id", "ws_path", "api_base"))
    settings.TEMPLATES = [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "loaders": [("django.template.loaders.locmem.Loader", {"visionagents_runner/call.html": shown})]
            },
        }
    ]


@pytest.fixture
def browser() -> Client:
    """On another machine, signed in nowhere."""
    return Client(ASGIHandler(), peer=REMOTE, host="agents.example")


def shown(body: bytes) -> dict[str, str]:
    return {name: unescape(value) for name, value in re.findall(r'(\w+)="([^"]*)"', body.decode())}


async def test_the_page_knows_its_call_and_where_to_talk_to(browser: Client) -> None:
    answer = await browser.get("/call/default/my-call/")
    assert answer.status == 200
    assert shown(answer.body) == {
        "call_type": "default",
        "call_id": "my-call",
        "ws_path": "/ws/calls/default/my-call/",
        "api_base": "/",
    }
    assert (await browser.get("/call/default/my-call")).status == 200


@pytest.mark.parametrize("call_id", ["a/b", "100%", "a%2Fb", "\N{WAVING HAND SIGN}", "?#;", "a b", "<b>", "."])
async def test_an_id_may_hold_anything_that_an_id_may_hold(browser: Client, call_id: str) -> None:
    segment = quote(call_id, safe="")
    answer = await browser.get(f"/call/default/{segment}/")
    if call_id == ".":
        assert answer.status == 404
        return
    assert answer.status == 200
    told = shown(answer.body)
    assert (told["call_id"], told["ws_path"]) == (call_id, f"/ws/calls/default/{segment}/")


@pytest.mark.parametrize("target", ["/call/a/", "/call/a/b/c/", "/call//b/", "/call/a/%00/", "/call/a/%ff/"])
async def test_what_names_no_call_is_not_found(browser: Client, target: str) -> None:
    assert (await browser.get(target)).status == 404


async def test_a_prefix_a_namespace_and_a_script_name_are_kept(browser: Client, settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    answer = await browser.get("/site/voice/agents/call/default/a%2Fb/", root_path="/site")
    told = shown(answer.body)
    assert told["ws_path"] == "/site/voice/agents/ws/calls/default/a%2Fb/"
    assert told["api_base"] == "/site/voice/agents/"
    clear_script_prefix()
    assert reverse("deep:call", args=("default", "my-call")) == "/voice/agents/call/default/my-call/"


async def test_only_reading_is_allowed(browser: Client) -> None:
    for target in ("/call/default/my-call/", "/call/"):
        assert (await browser.post(target)).status in {403, 405}
    assert (await browser.request("HEAD", "/call/default/my-call/")).status == 200


async def test_the_headers_shut_out_what_the_page_does_not_need(browser: Client, settings: Any) -> None:
    answer = await browser.get("/call/default/my-call/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "microphone=(self)" in answer.headers["permissions-policy"]
    assert "camera=(self)" in answer.headers["permissions-policy"]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"


async def test_a_new_call_is_made_up_each_time(browser: Client) -> None:
    places = set()
    for _ in range(2):
        answer = await browser.get("/call/?agent=coach&next=//elsewhere.example")
        assert answer.status == 302
        place = answer.headers["location"]
        assert re.fullmatch(r"/call/default/[0-9a-f]{12}/\?agent=coach", place)
        places.add(place)
    assert len(places) == 2
    assert (await browser.get("/call/")).headers["location"].endswith("/")


async def test_a_site_that_wants_everybody_to_sign_in_lets_guests_with_an_invitation_see_the_page(
    browser: Client, settings: Any
) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    browser = browser.like()
    browser.app = ASGIHandler()
    assert (await browser.get("/call/default/my-call/")).status == 200
    assert (await browser.get("/call/")).status == 302


def test_it_shows_under_wsgi_too() -> None:
    answer = DjangoClient().get("/call/default/a%20b/")
    assert (answer.status_code, shown(answer.content)["call_id"]) == (200, "a b")
