"""Talking: people speak (recordings), agents understand and answer aloud, and the page plays it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.recordings import TRANSCRIPTS, timeline, write_wav

from .conftest import OpenCall, StartChromium
from .pages import SECONDS
from .server import Server
from .sound import loud_seconds, recognise, share_found, start_recording, stop_recording

QUESTION = "goforward.raw"  # "go forward ten meters"
LONG = "librivox/sense_and_sensibility_01_austen_64kb-0870.wav"
UNDERSTOOD = re.compile(r"go forward (ten|10) met(er|re)s", re.IGNORECASE)
ANSWER = "The robot went forward 10 meters"
QUIET_SECONDS = 60.0
"""A microphone that says nothing more: the fake one would start again, or beep."""

GREETING_SECONDS = 9.0
"""The greeting is over by then, so that the question interrupts nobody."""


@pytest.mark.parametrize("transport", ["webrtc", "websocket"])
async def test_a_spoken_question_is_understood_answered_aloud_and_kept(
    server: Server, open_call: OpenCall, chromium: StartChromium, call_id: str, tmp_path: Path, transport: str
) -> None:
    session_id = server.start_agent(call_id, agent="demo")
    samples = timeline(GREETING_SECONDS, QUESTION, QUIET_SECONDS)
    browser = await chromium(microphone=write_wav(tmp_path / "question.wav", samples))
    page = await open_call(call_id, browser=browser, query=f"?transport={transport}" * (transport == "websocket"))
    await page.join()
    await page.connected(transport)
    await start_recording(page.page)
    await page.sees(UNDERSTOOD)
    await page.sees("move_robot")
    await page.sees(ANSWER)
    await page.hears()
    tile = page.page.get_by_role("list", name="Agents").get_by_role("listitem")
    await expect(tile).to_contain_text("speaking", timeout=SECONDS)
    await expect(tile).to_contain_text("listening", timeout=SECONDS)
    await expect(page.transcript).to_contain_text(re.compile(r"end of turn \d+ .*\d+ ms"), timeout=SECONDS)

    heard = await stop_recording(page.page)
    assert loud_seconds(heard) > 2.0
    words = await asyncio.to_thread(recognise, heard)
    assert share_found(ANSWER, words) > 0.6, words

    await _kept(server, session_id)


async def _kept(server: Server, session_id: str) -> None:
    """The transcript is in the database, and the tool call with it."""
    for _ in range(50):
        status, history = server.request("GET", f"/sessions/{session_id}/events?limit=200")
        assert status == 200, history
        events = [(event["kind"], event["data"]) for event in history["items"]]
        said = [data["text"] for kind, data in events if kind == "message"]
        if any(ANSWER in text for text in said) and any(kind == "turn" for kind, _ in events):
            break
        await asyncio.sleep(0.1)
    assert any(UNDERSTOOD.search(text) for text in said), said
    assert any(ANSWER in text for text in said), said
    assert any(kind == "tool_ended" and data["name"] == "move_robot" and data["ok"] for kind, data in events)
    [turn] = [data for kind, data in events if kind == "turn" and data["how"] == "speech"]
    assert turn["total_ms"] > 0


async def test_who_speaks_while_the_agent_does_interrupts_it(
    server: Server, open_call: OpenCall, chromium: StartChromium, call_id: str, tmp_path: Path
) -> None:
    server.start_agent(call_id, agent="demo")
    samples = timeline(3.5, QUESTION, QUIET_SECONDS)
    browser = await chromium(microphone=write_wav(tmp_path / "interruption.wav", samples))
    page = await open_call(call_id, browser=browser)
    await page.join()
    await page.connected("webrtc")
    # The greeting is cut where it was, and what was said meanwhile is answered.
    await expect(page.transcript.locator("s").first).to_be_visible(timeout=SECONDS)
    await expect(page.transcript.locator("s").first).to_contain_text("Ask me what I can do")
    await page.sees(UNDERSTOOD)
    await page.sees(ANSWER)


async def test_two_people_hear_each_other_and_not_themselves(
    server: Server, open_call: OpenCall, chromium: StartChromium, call_id: str, tmp_path: Path
) -> None:
    server.start_agent(call_id, agent="text")  # it has no voice: all that plays is people's
    speaks = await chromium(microphone=write_wav(tmp_path / "one.wav", timeline(8.0, LONG, QUIET_SECONDS)))
    listens = await chromium(microphone=write_wav(tmp_path / "other.wav", timeline(QUIET_SECONDS)))
    other = await open_call(call_id, browser=listens)
    await other.join()
    await other.connected("webrtc")
    one = await open_call(call_id, browser=speaks, query="?transport=websocket")
    await one.page.get_by_label("Your name").fill("Caller")
    await one.join()
    await one.connected("websocket")
    await asyncio.gather(start_recording(one.page), start_recording(other.page))
    tile = other.page.get_by_role("list", name="Other people").get_by_role("listitem").filter(has_text="Caller")
    await expect(tile).to_have_attribute("data-speaking", "true", timeout=SECONDS)
    await expect(tile).not_to_have_attribute("data-speaking", "true", timeout=SECONDS)
    mine, theirs = await asyncio.gather(stop_recording(one.page), stop_recording(other.page))
    words = await asyncio.to_thread(recognise, theirs)
    assert share_found(TRANSCRIPTS[LONG], words) > 0.6, words
    assert loud_seconds(mine) == 0


async def test_the_camera_goes_to_the_agent_and_its_picture_comes_back(
    server: Server, open_call: OpenCall, call_id: str
) -> None:
    server.start_agent(call_id, agent="vision")
    page = await open_call(call_id)
    await page.join()
    await page.connected("webrtc")
    await page.button("Camera").click()
    video = page.page.get_by_role("list", name="Agents").locator("video")
    await expect(video).to_be_visible(timeout=SECONDS)
    await page.page.wait_for_function(_PICTURE, timeout=SECONDS)
    await page.say("What do you see?")
    await page.sees(re.compile(r"mov(es|ing)"))


_PICTURE = """
() => {
  const video = document.querySelector('#agents video');
  if (!video || video.readyState < 2 || !video.videoWidth) return false;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  return data.some((value, index) => index % 4 !== 3 && value > 60);
}
"""
