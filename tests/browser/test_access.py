"""Keyboard alone, screen readers, dark mode, phone width, reduced motion."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from .conftest import OpenCall
from .pages import SECONDS
from .server import Server

_CONTRAST = """
() => {
    const parse = (text) => {
        const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
        return [r, g, b, a];
    };
    const luminance = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map((v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const ground = (element) => {
        for (let each = element; each; each = each.parentElement) {
            const colour = parse(getComputedStyle(each).backgroundColor);
            if (colour[3] > 0) return colour;
        }
        return [255, 255, 255, 1];
    };
    const weak = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || !element.checkVisibility() || element.closest(":disabled")) continue;
        const style = getComputedStyle(element);
        const [one, other] = [luminance(parse(style.color)), luminance(ground(element))].sort((a, b) => b - a);
        const ratio = (one + 0.05) / (other + 0.05);
        const what = `${element.tagName}.${element.className} ${element.textContent}`;
        if (ratio < 4.5) weak.push(`${what}: ${ratio.toFixed(2)}`);
    }
    return weak;
}
"""


async def test_a_call_can_be_made_with_the_keyboard_alone(server: Server, open_call: OpenCall, call_id: str) -> None:
    server.start_agent(call_id)
    page = await open_call(call_id)
    keys = page.page.keyboard
    await expect(page.button("Join")).to_be_focused()
    await keys.press("Enter")
    await page.in_state("joined")
    await page.connected("webrtc")
    await keys.press("m")
    await expect(page.page.get_by_role("button", name="Mute", pressed=True)).to_be_visible()
    await keys.press("/")
    await expect(page.page.get_by_role("textbox", name="Type to the agent")).to_be_focused()
    await keys.type("what time is it?")  # m here is a letter
    await keys.press("Enter")
    await page.sees("It is ")
    await keys.press("Escape")
    await keys.press("m")
    await expect(page.page.get_by_role("button", name="Mute", pressed=False)).to_be_visible()
    await expect(page.page.get_by_role("tab", name="Events")).to_be_visible()
    toggle = page.page.get_by_role("button", name="Details")
    await expect(toggle).to_have_attribute("aria-expanded", "true")
    await keys.press("Escape")
    await expect(toggle).to_have_attribute("aria-expanded", "false")
    await page.page.get_by_role("tab", name="Events").focus()
    await keys.press("ArrowRight")
    await expect(page.page.get_by_role("tab", name="Turns", selected=True)).to_be_focused()
    await keys.press("?")
    await expect(page.page.get_by_text("mute, unmute")).to_be_visible()
    await page.page.get_by_label("Use these single keys").uncheck()
    await page.page.get_by_role("tab", name="Turns").focus()
    await keys.press("m")
    await expect(page.page.get_by_role("button", name="Mute", pressed=False)).to_be_visible()
    await page.button("Leave").focus()
    await keys.press("Enter")
    await page.in_state("left")
    await expect(page.button("Join again")).to_be_focused()


async def test_every_control_has_a_name_and_shows_its_focus(server: Server, open_call: OpenCall, call_id: str) -> None:
    server.start_agent(call_id)
    page = await open_call(call_id)
    await page.join()
    await page.sees("Hello!")
    seen: list[str] = []
    first = ""
    await page.page.locator("body").evaluate("(body) => { body.tabIndex = -1; body.focus(); }")
    for _ in range(60):
        await page.page.keyboard.press("Tab")
        about: dict[str, Any] = await page.page.evaluate(
            """() => {
                const at = document.activeElement;
                const style = getComputedStyle(at);
                const labels = [...(at.labels ?? [])].map((label) => label.textContent).join(" ");
                const name = at.ariaLabel || labels || at.textContent;
                return { what: at.outerHTML.slice(0, 80), name: name.trim(), outline: parseFloat(style.outlineWidth),
                         style: style.outlineStyle, body: at === document.body };
            }"""
        )
        if about["body"] or about["what"] == first:
            break
        first = first or about["what"]
        assert about["name"], about
        assert about["outline"] >= 1, about
        assert about["style"] != "none", about
        seen.append(about["name"])
    for name in ("Mute", "Leave", "Send", "Microphone", "Copy the session id", "Details"):
        assert any(name in each for each in seen), (name, seen)


async def test_what_is_said_is_announced_once_it_is_final(server: Server, open_call: OpenCall, call_id: str) -> None:
    server.start_agent(call_id)
    page = await open_call(call_id)
    await page.join()
    await page.say("what time is it?")
    announcer = page.page.locator("[aria-live=polite]")
    await expect(announcer).to_contain_text("You: what time is it?")
    await expect(announcer).to_contain_text(re.compile("Text agent: It is .*"), timeout=SECONDS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_has_enough_contrast(server: Server, open_call: OpenCall, call_id: str, scheme: Any) -> None:
    server.start_agent(call_id)
    page = await open_call(call_id, color_scheme=scheme)
    assert await page.page.evaluate(_CONTRAST) == []
    await page.join()
    await page.say("what time is it?")
    await page.sees("It is ")
    await expect(page.transcript.locator(".latency")).to_be_visible()
    assert await page.page.evaluate(_CONTRAST) == []
    await page.page.get_by_role("tab", name="Turns").click()
    assert await page.page.evaluate(_CONTRAST) == []
    ground = await page.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is (scheme == "light")


@pytest.mark.parametrize("width", [360, 768, 1100])
async def test_nothing_scrolls_sideways(server: Server, open_call: OpenCall, call_id: str, width: int) -> None:
    server.start_agent(call_id)
    page = await open_call(call_id, viewport={"width": width, "height": 740})
    overflow = "() => [document.documentElement, document.body].map((each) => each.scrollWidth - innerWidth)"
    await page.join()
    await page.say("x" * 300)  # a word that does not end
    await page.sees("I have no rule")
    assert max(await page.page.evaluate(overflow)) <= 0
    names = ["Call", "Conversation", "Session"] if width < 1100 else []
    for name in (*names, "Events", "Turns", "Audio"):
        await page.page.get_by_role("tab", name=name).click()
        assert max(await page.page.evaluate(overflow)) <= 0, name


async def test_on_a_phone_the_text_box_and_the_agents_state_are_at_hand(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    server.start_agent(call_id)
    page = await open_call(call_id, viewport={"width": 360, "height": 640}, has_touch=True)
    await page.join()
    await expect(page.page.get_by_role("textbox", name="Type to the agent")).to_be_in_viewport()
    await expect(page.page.locator("#now")).to_have_text("Text agent: listening", timeout=SECONDS)
    await expect(page.button("Leave")).to_be_in_viewport()
    await page.page.get_by_role("tab", name="Session").click()
    await expect(page.page.get_by_role("combobox", name="Microphone")).to_be_in_viewport()
    await expect(page.page.get_by_role("textbox", name="Type to the agent")).to_be_hidden()


async def test_without_javascript_the_page_says_that_it_needs_it(server: Server, browser: Browser) -> None:
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{server.url}/call/default/no-script/")
    await expect(page.get_by_text("This page needs JavaScript")).to_be_visible()
    await context.close()
