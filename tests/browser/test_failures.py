"""What the page says when something fails, and what it offers to do about it: each failure that has words."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from . import socket_of_page
from .conftest import INSECURE, OpenCall, StartChromium
from .pages import SECONDS, CallPage
from .server import Server
from .socket_of_page import Between

_SOCKET_CLOSED = ("WebSocket connection to",)


async def join_by_text(page: CallPage) -> None:
    """Join as everybody can who has no microphone: the call goes on without."""
    await page.button("Join").click()
    await page.in_state("joined")


# The microphone


async def test_a_machine_without_a_microphone_joins_all_the_same(
    server: Server, open_call: OpenCall, chromium: StartChromium, call_id: str
) -> None:
    server.start_agent(call_id)
    page = await open_call(call_id, browser=await chromium("--use-fake-ui-for-media-stream", devices=False))
    await join_by_text(page)
    await expect(page.notice("No microphone was found")).to_contain_text("Plug one in")
    await expect(page.button("Try the microphone again")).to_be_visible()
    await expect(page.button("Mute")).to_be_disabled()
    await page.say("what time is it?")
    await page.sees("It is ")


async def test_a_refused_microphone_says_how_to_allow_it_and_tries_again(
    server: Server, open_call: OpenCall, chromium: StartChromium, call_id: str
) -> None:
    server.start_agent(call_id)
    # Devices, but nobody who allows them: headless, the browser refuses by itself.
    browser = await chromium("--use-fake-device-for-media-stream", devices=False)
    page = await open_call(call_id, browser=browser)
    await join_by_text(page)
    await expect(page.notice("The microphone is not allowed")).to_contain_text("set Microphone to Allow")
    await page.connected("webrtc")  # one can listen
    await page.page.context.grant_permissions(["microphone"])
    await page.button("Try the microphone again").click()
    await page.page.locator("html[data-microphone=on]").wait_for(timeout=SECONDS)
    await expect(page.notice("The microphone is not allowed")).to_have_count(0)


async def test_a_microphone_in_use_is_told_from_one_that_is_not_there(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    server.start_agent(call_id)
    busy = "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotReadableError'))"
    page = await open_call(call_id, scripts=(busy,))
    await join_by_text(page)
    await expect(page.notice("The microphone cannot be opened")).to_contain_text("Another program may be using it")


async def test_an_unplugged_microphone_is_noticed(server: Server, open_call: OpenCall, call_id: str) -> None:
    server.start_agent(call_id)
    keep = """
        const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (wanted) => (window.opened = await open(wanted));
    """
    page = await open_call(call_id, scripts=(keep,))
    await page.join()
    await page.connected("webrtc")
    await page.page.evaluate("() => window.opened.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
    await expect(page.notice("The microphone was unplugged")).to_be_visible()
    assert await page.page.locator("html").get_attribute("data-microphone") == "none"


async def test_an_insecure_page_says_where_the_microphone_works(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    session_id = server.start_agent(call_id)
    status, invitation = server.request("POST", f"/sessions/{session_id}/invitations", {"role": "speaker"})
    assert status == 201
    page = await open_call(
        call_id, base=server.url_from_elsewhere, fragment=f"#token={invitation['token']}", complaints=INSECURE
    )
    await join_by_text(page)
    await expect(page.notice("needs a secure page")).to_contain_text("https://")
    await page.say("what time is it?")
    await page.sees("It is ")


# The browser


async def test_a_silent_page_asks_for_a_click(server: Server, open_call: OpenCall, call_id: str) -> None:
    server.start_agent(call_id)
    blocked = """
        const play = HTMLMediaElement.prototype.play;
        HTMLMediaElement.prototype.play = function () {
            return window.allowed ? play.call(this) : Promise.reject(new DOMException('', 'NotAllowedError'));
        };
    """
    page = await open_call(call_id, scripts=(blocked,))
    await page.join()
    await expect(page.notice("keeps this page silent")).to_be_visible(timeout=SECONDS)
    await page.page.evaluate("() => { window.allowed = true; }")
    await page.button("Play sound").click()
    await expect(page.notice("keeps this page silent")).to_have_count(0)


async def test_an_old_browser_can_still_type(server: Server, open_call: OpenCall, call_id: str) -> None:
    server.start_agent(call_id)
    page = await open_call(call_id, scripts=("delete window.RTCPeerConnection; delete window.AudioWorkletNode",))
    await join_by_text(page)
    await expect(page.notice("cannot carry sound")).to_contain_text("current Firefox")
    await page.say("what time is it?")
    await page.sees("It is ")


async def test_where_no_way_carries_sound_one_can_still_type(server: Server, open_call: OpenCall, call_id: str) -> None:
    server.start_agent(call_id)
    refused = {"type": "error", "code": "no_media", "detail": "No media here", "fatal": False}
    between = Between(instead={"offer": refused, "pcm": refused})
    page = await open_call(call_id, prepare=between.stand)
    await join_by_text(page)
    await expect(page.notice("There is no sound in this call")).to_be_visible()
    await page.say("what time is it?")
    await page.sees("It is ")


# The server


async def test_a_server_that_is_gone(open_call: OpenCall, call_id: str) -> None:
    async def gone(page: Page) -> None:
        await socket_of_page.hang_up(page)
        await page.route("**/health", lambda route: route.abort())

    page = await open_call(call_id, prepare=gone, complaints=(*_SOCKET_CLOSED, "net::ERR_FAILED"))
    await page.button("Join").click()
    await page.in_state("failed")
    await expect(page.notice("The server does not answer")).to_be_visible()
    await expect(page.button("Try again")).to_be_visible()


async def test_a_proxy_that_knows_no_websockets(open_call: OpenCall, call_id: str) -> None:
    page = await open_call(call_id, prepare=socket_of_page.hang_up, complaints=_SOCKET_CLOSED)
    await page.button("Join").click()
    await page.in_state("failed")
    await expect(page.notice("but not to WebSockets")).to_contain_text("proxy")


async def test_what_the_agent_does_not_take_can_be_sent_again(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    server.start_agent(call_id)
    refused = {"type": "error", "code": "say_failed", "detail": "The agent did not take it", "fatal": False}
    page = await open_call(call_id, prepare=Between(instead={"say": refused}).stand)
    await page.join()
    await page.say("what time is it?")
    await page.sees("Not sent: The agent did not take it")
    await expect(page.button("Send again")).to_be_visible()


async def test_what_was_typed_to_a_server_that_is_gone_can_be_sent_again(open_call: OpenCall, call_id: str) -> None:
    page = await open_call(call_id, prepare=socket_of_page.hang_up, complaints=_SOCKET_CLOSED)
    await page.say("is anybody there?")
    await page.in_state("failed")
    await page.sees("Not sent")
    await expect(page.button("Send again")).to_be_visible()


# Whether one may


async def test_who_is_not_signed_in_is_shown_where_to(server: Server, open_call: OpenCall, call_id: str) -> None:
    page = await open_call(call_id, base=server.url_from_elsewhere, complaints=INSECURE)
    await page.button("Join").click()
    await page.in_state("failed")
    await expect(page.notice("Sign in to join this call")).to_be_visible()
    link = page.page.get_by_role("link", name="Sign in")
    assert f"/admin/login/?next=%2Fcall%2Fdefault%2F{call_id}%2F" in str(await link.get_attribute("href"))


async def test_who_has_no_permission_is_told_whom_to_ask(server: Server, open_call: OpenCall, call_id: str) -> None:
    async def sign_in(page: Page) -> None:
        cookie = {"name": "sessionid", "value": server.visitor, "url": server.url_from_elsewhere}
        await page.context.add_cookies([cookie])  # type: ignore[list-item]

    page = await open_call(call_id, base=server.url_from_elsewhere, prepare=sign_in, complaints=INSECURE)
    await page.button("Join").click()
    await page.in_state("failed")
    await expect(page.notice("You may not join this call")).to_contain_text("invitation link")


async def test_a_void_invitation(open_call: OpenCall, call_id: str) -> None:
    page = await open_call(call_id, fragment="#token=made-up")
    await page.button("Join").click()
    await page.in_state("failed")
    await expect(page.notice("This invitation is not valid any more")).to_contain_text("Ask for a new link")


async def test_a_full_call(open_call: OpenCall, call_id: str) -> None:
    for _ in range(2):  # as many as the server of the tests lets in
        page = await open_call(call_id)
        await page.say("hello")
        await page.in_state("joined")
    late = await open_call(call_id)
    await late.button("Join").click()
    await late.in_state("failed")
    await expect(late.notice("This call is full")).to_be_visible()


async def test_whose_place_the_server_still_holds_after_a_break_gets_in_again(
    open_call: OpenCall, call_id: str
) -> None:
    between = Between()
    page = await open_call(call_id, prepare=between.stand)
    await page.join()
    # It has not noticed that the network has changed, and takes whom it has lost for somebody else who is there.
    between.refusals = ["full", "too_many"]
    await between.break_off()
    await page.sees("You are in the call again")
    assert between.connections == 4


@pytest.mark.parametrize(
    ("code", "close", "words"),
    [
        ("elsewhere", 4409, "lives in another process"),
        ("too_fast", 4429, "That was too fast"),
        ("too_large", 4413, "That was too long"),
        ("bad_message", 4400, "reload the page"),
        ("call_ended", 4410, "The call has ended"),
        ("server_error", 1011, "The server failed"),
    ],
)
async def test_every_other_refusal_has_words(
    open_call: OpenCall, call_id: str, code: str, close: int, words: str
) -> None:
    async def refuse(page: Page) -> None:
        await socket_of_page.refuse(page, code, close)

    page = await open_call(call_id, prepare=refuse)
    await page.button("Join").click()
    await page.in_state("failed")
    await expect(page.page.locator(".notice").filter(has_text=words)).to_be_visible()


# The agent


async def test_a_call_without_an_agent_offers_to_start_one(open_call: OpenCall, call_id: str) -> None:
    page = await open_call(call_id, query="?agent=demo")
    await page.say("hello")
    card = page.page.get_by_role("region", name="No agent is in this call yet")
    await expect(card).to_be_visible()
    await expect(card.get_by_label("Agent")).to_have_value("demo")  # the one that the address names
    await card.get_by_label("Agent").select_option("text")
    await card.get_by_role("button", name="Start an agent").click()
    await page.sees("Text agent joined")
    await expect(card).to_be_hidden()


async def test_an_agent_that_cannot_be_built_says_so_in_place(open_call: OpenCall, call_id: str) -> None:
    page = await open_call(call_id, complaints=("500 (Internal Server Error)",))
    await page.say("hello")
    card = page.page.get_by_role("region", name="No agent is in this call yet")
    await card.get_by_label("Agent").select_option("broken")
    await card.get_by_role("button", name="Start an agent").click()
    await expect(card).to_contain_text("Failed to start agent", timeout=SECONDS)
    await expect(card.get_by_role("button", name="Start an agent")).to_be_enabled()


async def test_an_agent_that_has_gone_says_why_and_can_be_started_again(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    session_id = server.start_agent(call_id)
    page = await open_call(call_id)
    await page.join()
    await page.sees("Text agent joined")
    assert server.request("DELETE", f"/sessions/{session_id}")[0] == 200
    card = page.page.get_by_role("region", name="The agent has left")
    await expect(card).to_contain_text("The session was closed.")
    await card.get_by_role("button", name="Start the agent again").click()
    await expect(card).to_be_hidden(timeout=SECONDS)
    await page.say("what time is it?")
    await page.sees("It is ")


async def test_an_agent_without_a_voice_says_how_to_give_it_one(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    not_installed = """
        new MutationObserver((_, observer) => {
            if (!document.body) return;
            document.body.dataset.voiceHint = "pip install it";
            observer.disconnect();
        }).observe(document, { childList: true, subtree: true });
    """
    server.start_agent(call_id)
    page = await open_call(call_id, scripts=(not_installed,))
    await page.join()
    await expect(page.page.get_by_text("pip install it")).to_be_visible()


async def test_a_guest_learns_why_the_session_ended(server: Server, open_call: OpenCall, call_id: str) -> None:
    session_id = server.start_agent(call_id)
    _, invitation = server.request("POST", f"/sessions/{session_id}/invitations", {"role": "speaker"})
    page = await open_call(call_id, fragment=f"#token={invitation['token']}")
    await page.join()
    await page.sees("Text agent joined")
    server.request("DELETE", f"/sessions/{session_id}")
    await page.in_state("failed")
    await expect(page.notice("The session has ended")).to_contain_text("The session was closed.")
