"""A page that is in a call while the code of its agent changes."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from playwright.async_api import expect

from tests.processes import ROOT

from .conftest import OpenCall
from .server import running_server

AGENTS = """
from tests.browser.agents import join_call, text_agent
from visionagents_runner import AgentLauncher, Runner

runner = Runner(launchers={"text": AgentLauncher(text_agent, join_call)})
"""
LONG = 60_000


async def test_the_page_and_its_agent_come_again_by_themselves(
    tmp_path: Path, open_call: OpenCall, call_id: str
) -> None:
    code = tmp_path / "changing_agents.py"
    code.write_text(AGENTS)
    settings = json.dumps({"RUNNER": "changing_agents.runner"})
    path = f"{ROOT}{os.pathsep}{tmp_path}"
    with running_server(tmp_path, "--reload", TEST_RUNNER_SETTINGS=settings, PYTHONPATH=path) as server:
        before = await asyncio.to_thread(server.start_agent, call_id, metadata={"table": 4})
        page = await open_call(call_id, base=server.url)
        await page.say("hello")
        await page.sees("Text agent joined")
        await asyncio.to_thread(code.write_text, f"{AGENTS}# changed")
        await expect(page.transcript).to_contain_text("You are in the call again", timeout=LONG)
        joined = page.transcript.get_by_text("Text agent joined")
        await expect(joined).to_have_count(2, timeout=LONG)
        await page.say("are you there?")
        _, sessions = await asyncio.to_thread(server.request, "GET", "/sessions")
        [after, ended] = sorted((each["session_id"] for each in sessions["items"]), key=before.__eq__)
        _, ended = await asyncio.to_thread(server.request, "GET", f"/sessions/{ended}")
        _, after = await asyncio.to_thread(server.request, "GET", f"/sessions/{after}")
        await page.button("Leave").click()
        await page.in_state("left")
    assert (ended["end_reason"], after["status"], after["metadata"]) == ("cancelled", "active", {"table": 4})
