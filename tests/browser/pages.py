"""`CallPage`: the call page as somebody uses it, by what they see and hear of it."""

from __future__ import annotations

import re

from playwright.async_api import Error, Locator, Page, expect

SECONDS = 15_000.0
"""How long to wait for something, in milliseconds: a machine that tests may be busy."""


class CallPage:
    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.problems: list[str] = []
        """What the browser complained of: errors of scripts, of the console, of the content security policy."""
        page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    async def open(self) -> CallPage:
        await self.page.goto(self.url)
        await self.in_state("ready")
        return self

    async def in_state(self, state: str) -> None:
        """Wait until the page is ready, joining, joined, reconnecting, left or failed."""
        await self.page.locator(f"html[data-state={state}]").wait_for(timeout=SECONDS)

    async def join(self) -> None:
        await self.button("Join").click()
        await self.in_state("joined")

    async def connected(self, transport: str) -> None:
        """Wait until sound goes by "webrtc" or "websocket"."""
        try:
            await self.page.locator(f"html[data-transport={transport}][data-media=connected]").wait_for(timeout=SECONDS)
        except Error as error:
            at = await self.page.locator("html").evaluate("html => ({...html.dataset})")
            said = await self.transcript.inner_text()
            raise AssertionError(f"No sound by {transport}: {at}, {self.problems}, {said}") from error

    async def say(self, text: str) -> None:
        await self.page.get_by_role("textbox", name="Type to the agent").fill(text)
        await self.page.keyboard.press("Enter")

    async def sees(self, text: str | re.Pattern[str]) -> None:
        """Wait until the transcript has ``text``."""
        await expect(self.transcript).to_contain_text(text, timeout=SECONDS)

    @property
    def transcript(self) -> Locator:
        return self.page.get_by_role("region", name="Transcript")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def notice(self, text: str) -> Locator:
        """A problem that was announced at once, with ``text`` in it."""
        return self.page.get_by_role("alert").filter(has_text=text)

    async def measured(self, name: str) -> float:
        """A number that the page measured, by its name in the status panel: peak, received, lost, rttMs, ..."""
        value = await self.page.locator("#status").evaluate("(status, name) => status.dataset[name]", name)
        return float(value or 0)

    async def hears(self) -> None:
        """Wait until something audible played."""
        await expect(self.page.locator("#status")).to_have_attribute(
            "data-peak", re.compile(r"0\.(?!00)"), timeout=SECONDS
        )
