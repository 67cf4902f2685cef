"""The transcript and the drawer: words as they come, tools, interruptions, times, events."""

from __future__ import annotations

import json
import re
from typing import Any

from playwright.async_api import expect

from .conftest import OpenCall
from .pages import SECONDS, CallPage
from .server import Server
from .socket_of_page import Between

TURN = {
    "how": "speech",
    "end_of_turn_ms": 420.0,
    "recognition_ms": 230.0,
    "model_ms": 310.0,
    "voice_ms": 120.0,
    "total_ms": 1080.0,
    "interrupted": False,
}


class Call:
    """A page in a call, and the server's side of it to add what only speech brings about."""

    def __init__(self, page: CallPage, between: Between, agent_id: str, user_id: str) -> None:
        self.page = page
        self.between = between
        self.agent_id = agent_id
        self.user_id = user_id

    def happened(self, kind: str, **data: Any) -> None:
        self.between.happened(kind, self.agent_id, data)

    def words(self, message_id: str, role: str, text: str, *, completed: bool = False) -> None:
        who = {"user_id": self.user_id if role == "user" else "text-agent", "participant_id": ""}
        message = {"message_id": message_id, "role": role, "text": text, "completed": completed}
        self.between.tell({"type": "words", "agent_id": self.agent_id, **who, **message})

    def speaks(self, speaking: bool) -> None:
        self.between.tell({"type": "speaking", "participant_id": self.agent_id, "speaking": speaking})


async def in_a_call(server: Server, open_call: OpenCall, call_id: str, **options: Any) -> Call:
    server.start_agent(call_id)
    between = Between()
    page = await open_call(call_id, prepare=between.stand, **options)
    await page.join()
    await page.sees("Text agent joined")
    await page.sees("Hello!")
    agent = page.page.get_by_role("list", name="Agents").get_by_role("listitem")
    agent_id = str(await agent.get_attribute("data-participant"))
    return Call(page, between, agent_id, between.user_id)


async def test_typed_text_is_answered_with_its_tool_call_and_its_time(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    server.start_agent(call_id)
    page = await open_call(call_id)
    await page.join()
    await page.say("what time is it in Tokyo?")
    await expect(page.transcript.locator(".from-me")).to_have_text(re.compile("what time is it in Tokyo"))
    tool = page.transcript.locator("[data-tool=get_time]")
    await expect(tool).to_have_attribute("data-tool-state", "ok", timeout=SECONDS)
    await tool.locator("summary").click()
    await expect(tool).to_contain_text('"timezone": "Tokyo"')
    await page.sees("In Tokyo it is ")
    await expect(page.transcript.locator(".latency")).to_contain_text(re.compile(r"model \d+ — \d+ ms"))
    assert await page.transcript.locator(".from-me").count() == 1  # not once more when the server tells it back


async def test_a_tool_that_fails_says_why(server: Server, open_call: OpenCall, call_id: str) -> None:
    server.start_agent(call_id)
    page = await open_call(call_id)
    await page.say("roll 1000 dice")
    tool = page.transcript.locator("[data-tool=roll_dice]")
    await expect(tool).to_have_attribute("data-tool-state", "failed", timeout=SECONDS)
    await expect(tool).to_contain_text("I have 1 to 100 dice")


async def test_partial_words_are_grey_and_become_the_final_ones_in_place(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    call = await in_a_call(server, open_call, call_id)
    mine = call.page.transcript.locator(".from-me")
    said = {"participant_id": "", "user_id": call.user_id, "role": "user", "message_id": "partial-1"}
    call.happened("partial", text="go for", **said)
    await expect(mine).to_have_class(re.compile("partial"))
    call.happened("partial", text="go forward ten", **said)
    await expect(mine).to_contain_text("go forward ten")
    grey = await mine.locator(".words").evaluate("(words) => getComputedStyle(words).color")
    call.words("final-1", "user", "Go forward ten meters.", completed=True)
    await expect(mine).to_contain_text("Go forward ten meters.")
    await expect(mine).to_have_count(1)
    assert await mine.locator(".words").evaluate("(words) => getComputedStyle(words).color") != grey


async def test_an_interrupted_reply_is_struck_where_it_was_cut(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    call = await in_a_call(server, open_call, call_id)
    call.words("reply-1", "assistant", "The robot went forward ten meters and stands still.")
    call.happened("interrupted", message_id="reply-1", heard=0.5)
    row = call.page.transcript.locator("[data-message=reply-1]")
    await expect(row.locator("s")).to_have_text("meters and stands still.")
    await expect(row).to_contain_text("interrupted")
    await expect(call.page.page.locator("#announcer")).to_contain_text("Text agent was interrupted")


async def test_the_time_of_a_turn_is_under_its_reply_and_in_the_drawer(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    call = await in_a_call(server, open_call, call_id)
    call.words("question", "user", "How fast?", completed=True)
    call.happened("turn", **TURN)  # voice is heard before the words are all there
    call.words("reply-1", "assistant", "Fast.", completed=True)
    row = call.page.transcript.locator("[data-message=reply-1]")
    await expect(row).to_contain_text("end of turn 420 · recognition 230 · model 310 · voice 120 — 1080 ms, slow")
    call.happened("turn", **{**TURN, "voice_ms": None, "total_ms": 960.0})
    tab = call.page.page.get_by_role("tab", name="Turns")
    await tab.click()
    turns = call.page.page.get_by_role("list", name="Turns, the latest first").get_by_role("listitem")
    await expect(turns).to_have_count(2)
    await expect(turns.last).to_contain_text("1080 ms")
    await expect(turns.last.get_by_role("img")).to_have_attribute("aria-label", re.compile("recognition 230 ms"))
    await expect(call.page.page.get_by_text("2 turns, median 960 ms, 1 over 1 s")).to_be_visible()


async def test_events_can_be_filtered_and_copied_as_json(server: Server, open_call: OpenCall, call_id: str) -> None:
    call = await in_a_call(server, open_call, call_id, permissions=["clipboard-read", "clipboard-write", "microphone"])
    call.happened("tool_started", tool_call_id="1", name="get_weather", arguments={"city": "Kyoto"})
    events = call.page.page.get_by_role("list", name="Events").get_by_role("listitem")
    await expect(events.filter(has_text="get_weather")).to_be_visible()
    await call.page.page.get_by_label("Filter").fill("kyoto")
    await expect(events).to_have_count(1)
    await call.page.button("Copy all as JSON").click()
    await expect(call.page.button("Copied")).to_be_visible()
    copied = json.loads(await call.page.page.evaluate("navigator.clipboard.readText()"))
    assert [(each["kind"], each["data"]["arguments"]) for each in copied] == [("tool_started", {"city": "Kyoto"})]


async def test_an_agents_state_follows_what_is_told_and_what_sounds(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    call = await in_a_call(server, open_call, call_id)
    tile = call.page.page.get_by_role("list", name="Agents").get_by_role("listitem")
    call.happened("state", state="thinking")
    await expect(tile).to_contain_text("thinking")
    call.speaks(True)
    await expect(tile).to_contain_text("speaking")
    call.speaks(False)
    await expect(tile).to_contain_text("thinking")


async def test_a_long_call_does_not_grow_without_bound(server: Server, open_call: OpenCall, call_id: str) -> None:
    call = await in_a_call(server, open_call, call_id)
    for number in range(600):
        call.words(f"long-{number}", "assistant", f"Sentence {number}.", completed=True)
        call.happened("custom", data={"number": number})
        call.happened("turn", **TURN)
    await call.page.sees("Sentence 599.")
    page = call.page.page
    assert await page.locator("#transcript > li").count() <= 400
    assert await page.locator("#events > li").count() <= 500
    await page.get_by_role("tab", name="Turns").click()
    await expect(page.locator("#turns > li")).to_have_count(60)
    assert await page.locator("#announcer > *").count() <= 5


async def test_words_of_other_people_are_text_and_never_markup(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    call = await in_a_call(server, open_call, call_id)
    hostile = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    call.words("hostile", "assistant", hostile, completed=True)
    call.happened("tool_ended", tool_call_id="x", name=hostile, ok=False, error=hostile, result=None, ms=1)
    call.happened("error", component="llm", type="X", message=hostile, recoverable=True)
    await expect(call.page.transcript.locator("[data-message=hostile]")).to_contain_text(hostile)
    assert await call.page.page.locator("main img, main script").count() == 0


async def test_the_transcript_stays_at_its_end_when_the_drawer_opens_while_words_come(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    call = await in_a_call(server, open_call, call_id)
    for number in range(20):
        call.words(f"m{number}", "assistant", f"Sentence {number}", completed=True)
    await call.page.sees("Sentence 19")
    page = call.page.page
    scroller = page.locator("#transcript-scroll")
    at_end = (
        "document.getElementById('latest').hidden && {0}.scrollHeight - {0}.scrollTop - {0}.clientHeight < 1".format(
            "document.getElementById('transcript-scroll')"
        )
    )
    await page.wait_for_function(at_end, timeout=SECONDS)
    # The browser tells of an earlier scroll once the drawer has taken its room, and before anybody could follow.
    await scroller.evaluate(
        "scroller => { document.getElementById('drawer-toggle').click(); scroller.dispatchEvent(new Event('scroll')); }"
    )
    await page.wait_for_function(at_end, timeout=SECONDS)
    call.words("last", "assistant", "The last sentence", completed=True)
    await call.page.sees("The last sentence")
    await page.wait_for_function(at_end, timeout=SECONDS)
