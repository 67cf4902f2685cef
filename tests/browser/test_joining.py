"""Joining and leaving: by WebRTC, over the WebSocket, by text; two people; a connection that breaks."""

from __future__ import annotations

import re

from playwright.async_api import expect

from .conftest import INSECURE, OpenCall, StartChromium
from .pages import SECONDS
from .server import Server
from .socket_of_page import Between


async def test_joining_connects_by_webrtc_and_shows_the_agent(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    session_id = server.start_agent(call_id, metadata={"ticket": "4711"})
    page = await open_call(call_id)
    await page.join()
    await page.connected("webrtc")
    await page.sees("Text agent joined")
    await page.sees("Hello!")  # the agent greets whoever comes
    tile = page.page.get_by_role("list", name="Agents").get_by_role("listitem")
    await expect(tile).to_contain_text("Text agent")
    await expect(tile).to_contain_text("listening", timeout=SECONDS)
    await expect(tile).to_contain_text("no language model")
    session = page.page.get_by_label("Session", exact=True)
    await expect(session).to_contain_text(session_id)
    await session.get_by_text("Metadata", exact=True).click()
    await expect(session).to_contain_text('"ticket": "4711"')
    await expect(session).to_contain_text("WebRTC")
    await expect(page.page.locator("#round-trip")).to_have_text(re.compile(r"^[\d.]+ ms$"), timeout=SECONDS)


async def test_leaving_ends_everything_and_one_can_join_again(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    server.start_agent(call_id)
    page = await open_call(call_id)
    await page.join()
    await page.connected("webrtc")
    await page.button("Leave").click()
    await page.in_state("left")
    await page.sees("You left")
    assert await page.page.locator("html").get_attribute("data-microphone") == "none"
    await page.button("Join again").click()
    await page.connected("webrtc")


async def test_where_udp_is_closed_sound_goes_over_the_websocket(
    server: Server, open_call: OpenCall, chromium: StartChromium, call_id: str
) -> None:
    server.start_agent(call_id)
    browser = await chromium("--webrtc-ip-handling-policy=disable_non_proxied_udp")
    page = await open_call(call_id, browser=browser)
    await page.join()
    await page.connected("websocket")
    await page.sees("Sound goes over the WebSocket")
    await expect(page.page.locator("#transport")).to_have_text("WebSocket")
    await expect(page.button("Camera")).to_be_disabled()


async def test_a_browser_without_webrtc_uses_the_websocket(server: Server, open_call: OpenCall, call_id: str) -> None:
    server.start_agent(call_id)
    page = await open_call(call_id, scripts=("delete window.RTCPeerConnection",))
    await page.join()
    await page.connected("websocket")


async def test_two_people_see_and_hear_each_other_whatever_their_transport(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    server.start_agent(call_id)
    one = await open_call(call_id)
    await one.page.get_by_label("Your name").fill("Operator")
    other = await open_call(call_id, query="?transport=websocket")
    await other.page.get_by_label("Your name").fill("Caller")
    await one.join()
    await one.connected("webrtc")
    await other.join()
    await other.connected("websocket")
    for page, name in ((one, "Caller"), (other, "Operator")):
        await expect(page.page.get_by_role("list", name="Other people")).to_contain_text(name)
        await page.hears()  # the fake microphone beeps
    await other.button("Mute").click()
    await expect(one.page.get_by_role("list", name="Other people")).to_contain_text("muted")
    await other.say("what time is it?")
    await one.sees("what time is it?")
    await one.sees("Caller")
    await other.button("Leave").click()
    await one.sees("Caller left")


async def test_typing_joins_by_text_and_sound_can_be_added_later(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    server.start_agent(call_id)
    page = await open_call(call_id)
    await page.say("what time is it?")
    await page.in_state("joined")
    await page.sees("It is ")
    assert await page.page.locator("html").get_attribute("data-transport") == "none"
    await expect(page.page.locator("#transport")).to_have_text("Text only")
    await page.button("Join with sound").click()
    await page.connected("webrtc")


async def test_a_broken_connection_is_said_and_the_page_joins_again(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    server.start_agent(call_id)
    between = Between()
    page = await open_call(call_id, prepare=between.stand)
    await page.join()
    await page.connected("webrtc")
    await between.break_off()
    await expect(page.page.get_by_role("status").filter(has_text="The connection broke")).to_be_visible()
    await page.sees("You are in the call again")
    await page.connected("webrtc")
    assert between.connections == 2
    await page.say("what time is it?")
    await page.sees("It is ")
    await expect(page.page.get_by_text("The connection broke.")).to_have_count(0)


async def test_where_webrtc_fails_in_the_call_sound_goes_on_over_the_websocket(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    server.start_agent(call_id)
    between = Between()
    page = await open_call(call_id, prepare=between.stand)
    await page.join()
    await page.connected("webrtc")
    await page.button("Camera").click()
    await expect(page.page.get_by_role("button", name="Camera", pressed=True)).to_be_visible()
    between.tell({"type": "media", "transport": "webrtc", "state": "failed"})
    await page.connected("websocket")
    await expect(page.page.get_by_role("status").filter(has_text="No camera over this connection")).to_be_visible()
    await page.say("what time is it?")
    await page.sees("It is ")
    assert between.connections == 1  # nobody left


async def test_closing_the_page_leaves_the_call(server: Server, open_call: OpenCall, call_id: str) -> None:
    server.start_agent(call_id)
    one, other = await open_call(call_id), await open_call(call_id)
    await one.join()
    await other.join()
    others = one.page.get_by_role("list", name="Other people").get_by_role("listitem")
    await expect(others).to_have_count(1)
    await other.page.close(run_before_unload=True)
    await expect(others).to_have_count(0)


async def test_an_invitation_lets_a_guest_listen_but_not_speak(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    server.start_agent(call_id)
    host = await open_call(call_id)
    await host.join()
    panel = host.page.get_by_role("form", name="Invite somebody")
    await panel.get_by_label("They may").select_option("listener")
    await panel.get_by_label("Name").fill("Listener")
    await panel.get_by_role("button", name="Make a link").click()
    link = panel.get_by_label("Link", exact=True)
    await expect(link).to_have_value(re.compile(r"#token="), timeout=SECONDS)
    fragment = "#" + (await link.input_value()).partition("#")[2]

    guest = await open_call(call_id, base=server.url_from_elsewhere, fragment=fragment, complaints=INSECURE)
    await guest.join()
    await expect(host.page.get_by_role("list", name="Other people")).to_contain_text("Listener")
    await expect(guest.page.get_by_role("textbox", name="Type to the agent")).to_be_disabled()
    await expect(guest.page.get_by_text("Your invitation is to listen")).to_be_visible()
    await host.say("what time is it?")
    await guest.sees("It is ")


async def test_a_guest_sees_the_answer_and_no_tools_models_or_metadata(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    session_id = server.start_agent(call_id)
    _, invitation = server.request("POST", f"/sessions/{session_id}/invitations", {"role": "speaker", "name": "Ada"})
    owner = await open_call(call_id)
    await owner.join()
    guest = await open_call(call_id, fragment=f"#token={invitation['token']}")
    await guest.say("roll 2 dice")
    await guest.sees("You rolled ")
    await owner.sees("You rolled ")
    await expect(owner.page.locator("[data-tool=roll_dice]")).to_have_count(1)
    await expect(guest.page.locator("[data-tool]")).to_have_count(0)
    await expect(guest.page.locator("#session-models dd")).to_have_count(0)
    assert "roll_dice" not in await guest.page.content()
