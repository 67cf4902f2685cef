"""The project's page: from Talk to a call, and back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from .conftest import INSECURE
from .pages import SECONDS, CallPage
from .server import Server

_REFUSED = ("Failed to load resource",)


@pytest_asyncio.fixture(loop_scope="package")
async def home(server: Server, browser: Browser) -> AsyncIterator[Page]:
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    page = await context.new_page()
    problems = CallPage(page, server.url).problems
    await page.goto(server.url)
    yield page
    await context.close()
    left = [text for text in problems if not any(each in text for each in (*_REFUSED, *INSECURE))]
    assert not left, left


async def test_talk_starts_a_session_and_goes_to_its_call(server: Server, home: Page) -> None:
    agents = home.get_by_role("listitem").filter(has=home.get_by_role("heading", name="text"))
    await expect(agents).to_contain_text("Answers by text")
    await home.get_by_role("link", name="Talk to text").click()
    await home.wait_for_url("**/call/default/**")
    call = CallPage(home, home.url)
    await call.in_state("ready")
    await home.keyboard.press("Enter")
    await call.sees("Text agent joined")
    await call.button("Leave").click()
    await home.goto(server.url)
    row = home.get_by_role("table").get_by_role("row").nth(1)
    await expect(row).to_contain_text("talk-")
    await expect(row).to_contain_text("active")
    await row.get_by_role("link").click()
    await call.in_state("ready")


async def test_a_limit_that_is_reached_is_said_on_the_card(server: Server, home: Page) -> None:
    session_id = server.start_agent("the-only-one", "limited")
    try:
        await home.get_by_role("link", name="Talk to limited").click()
        limited = home.get_by_role("listitem").filter(has=home.get_by_role("heading", name="limited"))
        await expect(limited.get_by_role("alert")).to_contain_text("maximum number of concurrent sessions")
        await expect(limited.get_by_role("alert")).to_contain_text("End a call, or try again")
        await expect(home.get_by_role("link", name="Talk to limited")).to_be_enabled()
    finally:
        server.request("DELETE", f"/sessions/{session_id}")


async def test_an_agent_that_cannot_be_built_says_where_to_look(home: Page) -> None:
    await home.get_by_role("link", name="Talk to broken").click()
    broken = home.get_by_role("listitem").filter(has=home.get_by_role("heading", name="broken"))
    await expect(broken.get_by_role("alert")).to_contain_text("Failed to start agent", timeout=SECONDS)


async def test_who_is_not_signed_in_is_shown_where_to(server: Server, home: Page) -> None:
    await home.goto(server.url_from_elsewhere)
    await home.get_by_role("link", name="Talk to text").click()
    text = home.get_by_role("listitem").filter(has=home.get_by_role("heading", name="text"))
    await expect(text.get_by_role("alert")).to_contain_text("Sign in")
    await expect(text.get_by_role("link", name="Sign in")).to_have_attribute("href", "/admin/login/?next=/")


async def test_nothing_scrolls_sideways_on_a_phone(home: Page) -> None:
    await home.set_viewport_size({"width": 360, "height": 740})
    assert await home.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0


async def test_the_documentation_works_under_its_policy(server: Server, home: Page) -> None:
    await home.get_by_role("link", name="API documentation").click()
    operation = home.locator("[id^=operations-sessions]").first
    await expect(operation).to_be_visible(timeout=SECONDS)
    await operation.click()
    await expect(home.get_by_text("Responses").first).to_be_visible()
