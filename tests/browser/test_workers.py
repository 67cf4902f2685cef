"""A page that one worker serves, an agent that another one runs: one database, and Redis between them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.machine.requirements import require
from tests.recordings import timeline, write_wav

from . import socket_of_page
from .conftest import OpenCall, StartChromium
from .pages import SECONDS, CallPage
from .server import Server, running_server
from .sound import loud_seconds, recognise, share_found, start_recording, stop_recording
from .test_talking import ANSWER, GREETING_SECONDS, QUESTION, QUIET_SECONDS, UNDERSTOOD

NOTE_OFFERS = """
    window.offers = [];
    const send = WebSocket.prototype.send;
    WebSocket.prototype.send = function (data) {
        const {type, id} = typeof data === "string" ? JSON.parse(data) : {};
        if (type === "offer") window.offers.push(id);
        return send.call(this, data);
    };
"""


class Fleet:
    """Workers on one database."""

    def __init__(self, folder: Path, redis_url: str, stack: ExitStack) -> None:
        self._folder = folder
        self._redis_url = redis_url
        self._stack = stack

    def add(self) -> Server:
        return self._stack.enter_context(running_server(self._folder, REDIS_URL=self._redis_url))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    url = require("redis")
    with ExitStack() as stack:
        yield Fleet(tmp_path_factory.mktemp("fleet"), url, stack)


@pytest.fixture(scope="module")
def agents(fleet: Fleet) -> Server:
    """The worker that runs the agents."""
    return fleet.add()


@pytest.fixture(scope="module")
def pages(fleet: Fleet, agents: Server) -> Server:
    """The worker that serves the pages."""
    return fleet.add()


@pytest.mark.parametrize("transport", ["webrtc", "websocket"])
async def test_a_spoken_question_is_answered_aloud_by_an_agent_of_another_worker(
    agents: Server,
    pages: Server,
    open_call: OpenCall,
    chromium: StartChromium,
    call_id: str,
    tmp_path: Path,
    transport: str,
) -> None:
    agents.start_agent(call_id, agent="demo")
    samples = timeline(GREETING_SECONDS, QUESTION, QUIET_SECONDS)
    browser = await chromium(microphone=write_wav(tmp_path / "question.wav", samples))
    query = "?transport=websocket" * (transport == "websocket")
    page = await open_call(call_id, browser=browser, base=pages.url, query=query)
    await page.join()
    await page.connected(transport)
    await start_recording(page.page)
    await page.sees(UNDERSTOOD)
    await page.sees(ANSWER)
    await page.hears()
    tile = page.page.get_by_role("list", name="Agents").get_by_role("listitem")
    await expect(tile).to_contain_text("speaking", timeout=SECONDS)
    await expect(tile).to_contain_text("listening", timeout=SECONDS)
    heard = await stop_recording(page.page)
    assert loud_seconds(heard) > 2.0
    words = await asyncio.to_thread(recognise, heard)
    assert share_found(ANSWER, words) > 0.6, words


async def test_a_page_that_waits_follows_to_the_agent(
    agents: Server, pages: Server, open_call: OpenCall, call_id: str
) -> None:
    page = await open_call(call_id, base=pages.url, scripts=(NOTE_OFFERS,))
    await page.join()
    await page.connected("webrtc")
    await expect(page.page.get_by_role("region", name="No agent is in this call yet")).to_be_visible()
    agents.start_agent(call_id)
    await page.sees("Text agent joined")
    await expect(page.page.get_by_role("region", name="No agent is in this call yet")).to_be_hidden()
    await page.connected("webrtc")
    offers = await page.page.evaluate("() => window.offers")
    assert len(offers) >= 2
    assert len(set(offers)) == len(offers)  # or it would take the answer to one for that to another
    await page.say("roll 2 dice")
    await page.sees(re.compile(r"I rolled|rolled", re.IGNORECASE))
    await page.in_state("joined")


async def test_a_page_that_cannot_reach_the_agent_says_why_in_the_words_of_the_server(
    pages: Server, open_call: OpenCall, call_id: str
) -> None:
    detail = "No worker has taken the session of this invitation yet: try again in a moment"

    async def refuse(page: Page) -> None:
        await socket_of_page.refuse(page, "elsewhere", 4409, detail)

    page = await open_call(call_id, base=pages.url, prepare=refuse)
    await page.button("Join").click()
    await page.in_state("failed")
    await expect(page.notice("cannot be reached now")).to_contain_text(f"{detail}.")
    await expect(page.notice("another process")).to_have_count(0)
    await expect(page.button("Try again")).to_be_visible()


async def test_a_page_whose_agent_dies_with_its_worker_comes_back_by_itself(
    fleet: Fleet, pages: Server, open_call: OpenCall, call_id: str
) -> None:
    mortal = await asyncio.to_thread(fleet.add)
    mortal.start_agent(call_id)
    page: CallPage = await open_call(call_id, base=pages.url)
    await page.say("hello")
    await page.sees("Text agent joined")
    mortal.process.kill()
    # That it reconnects shows for a fifth of a second at least; what it says afterwards stays.
    await expect(page.transcript).to_contain_text("You are in the call again", timeout=60_000)
    await page.in_state("joined")
    pages.start_agent(call_id)
    await page.say("are you there?")
    await page.sees("Text agent joined")
