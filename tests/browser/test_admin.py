"""The admin as an operator uses it: a session is watched while people talk to it, closed, and read afterwards."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, expect

from tests.processes import ROOT

from .conftest import OpenCall
from .pages import SECONDS
from .server import Server, running_server, server_environment

SESSIONS = "/admin/visionagents_runner/agentsession/"
PASSWORD = "operators-only"


class Desk:
    """A server that can be started again on its database, with somebody who operates it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = ExitStack()
        self.server: Server = self._running.enter_context(running_server(folder))
        self.add_person("operator", superuser=True)

    def restart(self) -> None:
        self.stop()
        self.server = self._running.enter_context(running_server(self._folder))

    def stop(self) -> None:
        self._running.close()

    def add_person(self, name: str, *codenames: str, superuser: bool = False) -> None:
        """Somebody with these permissions, or with all."""
        script = (
            "import django, sys; django.setup()\n"
            "from django.contrib.auth.models import Permission, User\n"
            f"user = User.objects.create_user(sys.argv[1], password={PASSWORD!r}, is_staff=True,"
            f" is_superuser={superuser!r})\n"
            "user.user_permissions.set(Permission.objects.filter(codename__in=sys.argv[2:]))\n"
        )
        subprocess.run(
            [sys.executable, "-c", script, name, *codenames],
            cwd=ROOT,
            env=server_environment(self._folder),
            check=True,
            timeout=60,
        )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    yield desk
    desk.stop()


@pytest_asyncio.fixture(loop_scope="package")
async def admin(desk: Desk, browser: Browser) -> AsyncIterator[Page]:
    """A page of the operator, who has signed in. It must not complain of anything."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    problems: list[str] = []

    def complain(message: ConsoleMessage) -> None:
        if message.type == "error" and "favicon" not in message.location["url"]:
            problems.append(f"{message.text} {message.location}")

    page.on("console", complain)
    page.on("pageerror", lambda error: problems.append(str(error)))
    await sign_in(page, desk, "operator")
    yield page
    await context.close()
    assert not problems


async def sign_in(page: Page, desk: Desk, name: str) -> None:
    await page.goto(f"{desk.server.url}/admin/login/?next={SESSIONS}")
    await page.get_by_label("Username").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url(f"**{SESSIONS}")


def page_of(desk: Desk, session_id: str) -> str:
    return f"{desk.server.url}{SESSIONS}{session_id}/change/"


async def what_it_reads(page: Page) -> dict[str, str]:
    """All that the page tells of the session, but for how long ago things were."""
    told = {
        name: await page.locator(f"#{name}").inner_text()
        for name in ("va-heading", "va-steps", "va-tiles", "va-turns", "va-transcript", "va-events", "va-audit-lines")
    }
    return {**told, "timeline": await page.locator("#va-timeline").inner_html()}


@pytest.mark.timeout(300)  # it starts two servers
async def test_a_session_is_watched_closed_and_reads_the_same_after_a_restart(
    desk: Desk, admin: Page, open_call: OpenCall, call_id: str
) -> None:
    call = await open_call(call_id, base=desk.server.url)
    list_row = admin.locator("#result_list tbody tr").filter(has_text=call_id)
    await expect(admin.locator("body")).not_to_contain_text(call_id)
    session_id = await asyncio.to_thread(desk.server.start_agent, call_id)
    await expect(list_row).to_contain_text("active", timeout=SECONDS)  # without a reload

    await admin.goto(page_of(desk, session_id))
    note = admin.locator("#va-watch-note")
    await expect(note).to_have_text("Live")
    transcript, events = admin.locator("#va-transcript"), admin.locator("#va-events")
    await call.join()
    await call.say("what time is it in Tokyo?")
    await expect(transcript).to_contain_text("what time is it in Tokyo?", timeout=SECONDS)
    await expect(transcript).to_contain_text("In Tokyo it is", timeout=SECONDS)
    await expect(events).to_contain_text("get_time", timeout=SECONDS)
    await expect(admin.locator("#va-turns tbody tr")).to_have_count(1, timeout=SECONDS)
    await expect(admin.locator("#va-timeline rect.va-span-tool")).to_have_count(1)
    numbers = await events.locator("tr").evaluate_all("rows => rows.map(row => Number(row.dataset.seq))")
    assert numbers == list(range(1, len(numbers) + 1))  # each once, in order

    await admin.get_by_role("button", name="Close gracefully").click()
    await expect(admin.get_by_role("heading", name="Close gracefully?")).to_be_visible()
    await expect(admin.locator("#content")).to_contain_text(call_id)
    await expect(admin.locator("#content")).to_contain_text("Its agent leaves the call.")
    await admin.get_by_role("button", name="Close 1 session").click()
    await expect(note).to_have_text("Ended", timeout=SECONDS)
    await expect(admin.locator("#va-heading")).to_contain_text("closed")
    await expect(admin.locator("#va-steps")).to_contain_text("requested")
    await expect(admin.locator("#va-audit-lines")).to_contain_text(re.compile(r"operator\s+Asked to close\.\s+admin"))
    assert await admin.get_by_role("button", name="close").count() == 0

    await admin.reload()
    before = await what_it_reads(admin)
    assert "In Tokyo it is" in before["va-transcript"]
    await call.page.goto("about:blank")
    await asyncio.to_thread(desk.restart)
    await admin.goto(page_of(desk, session_id))
    assert await what_it_reads(admin) == before


async def test_rows_that_are_selected_stay_where_they_are(desk: Desk, admin: Page, call_id: str) -> None:
    session_id = await asyncio.to_thread(desk.server.start_agent, f"{call_id}-first")
    await expect(admin.locator("#result_list")).to_contain_text(f"{call_id}-first", timeout=SECONDS)
    box = admin.locator(f"input.action-select[value='{session_id}']")
    await box.check()
    await asyncio.to_thread(desk.server.start_agent, f"{call_id}-second")
    await expect(admin.locator("#va-watch-note")).to_have_text("Waits while you select", timeout=SECONDS)
    assert await admin.locator("#result_list").get_by_text(f"{call_id}-second").count() == 0
    await box.uncheck()
    await box.evaluate("box => box.blur()")
    await expect(admin.locator("#result_list")).to_contain_text(f"{call_id}-second", timeout=SECONDS)
    await admin.locator("#action-toggle").check()  # Django's own script knows the new row too
    boxes = admin.locator("input.action-select")
    assert await boxes.count() == await admin.locator("input.action-select:checked").count() > 1


async def test_a_worker_is_drained_and_takes_sessions_again(desk: Desk, admin: Page, call_id: str) -> None:
    await asyncio.to_thread(desk.server.start_agent, call_id)
    await admin.goto(f"{desk.server.url}/admin/visionagents_runner/worker/?state__exact=running")
    await admin.locator("#result_list tbody th a").first.click()
    await expect(admin.locator("#va-sessions")).to_contain_text(call_id)
    await admin.get_by_role("link", name="Drain").click()
    await expect(admin.locator("#content")).to_contain_text("Goes on until it ends.")
    await admin.get_by_role("button", name="Drain").click()
    await expect(admin.locator("#va-heading")).to_contain_text("draining", timeout=SECONDS)
    await expect(admin.locator("#va-audit-lines")).to_contain_text("Asked to drain.")
    refused: Any = await asyncio.to_thread(desk.server.request, "POST", "/sessions", {"call_id": f"{call_id}-late"})
    assert refused[0] == 503
    assert "draining" in refused[1]["detail"]
    await admin.get_by_role("link", name="Take new sessions again").click()
    await admin.get_by_role("button", name="Take new sessions again").click()
    await expect(admin.locator("#va-heading")).to_contain_text("running", timeout=SECONDS)
    await asyncio.to_thread(desk.server.start_agent, f"{call_id}-late")


async def test_a_page_that_nobody_looks_at_asks_for_nothing(desk: Desk, admin: Page) -> None:
    asked: list[str] = []
    admin.on("request", lambda request: asked.append(request.url))
    await admin.clock.install()
    await admin.reload()
    asked.clear()
    await admin.evaluate(
        "() => { Object.defineProperty(document, 'hidden', { get: () => window.away ?? false }); window.away = true;"
        " document.dispatchEvent(new Event('visibilitychange')); }"
    )
    await admin.clock.run_for(60_000)
    assert asked == []
    async with admin.expect_response(f"**{SESSIONS}"):
        await admin.evaluate("() => { window.away = false; document.dispatchEvent(new Event('visibilitychange')); }")


async def test_who_may_only_view_is_shown_no_words_and_no_button(
    desk: Desk, browser: Browser, open_call: OpenCall, call_id: str
) -> None:
    await asyncio.to_thread(desk.add_person, f"viewer-{call_id}", "view_agentsession", "view_worker")
    session_id = await asyncio.to_thread(desk.server.start_agent, call_id)
    call = await open_call(call_id, base=desk.server.url)
    await call.join()
    await call.say("what time is it in Tokyo?")
    await call.sees("In Tokyo it is")
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    try:
        await sign_in(page, desk, f"viewer-{call_id}")
        await page.goto(page_of(desk, session_id))
        await expect(page.locator("#va-watch-note")).to_have_text("Reload for newer")
        await expect(page.locator("#va-events")).to_contain_text("participant_joined")
        text = await page.locator("#content").inner_text()
        assert "Tokyo" not in text
        assert "get_time" not in text
        assert await page.get_by_role("button", name="close").count() == 0
    finally:
        await context.close()
