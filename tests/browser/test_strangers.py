"""Where a rule of the project lets anybody start an agent."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import INSECURE, OpenCall
from .server import running_server


async def test_who_has_no_name_talks_to_the_agent_that_they_started(
    open_call: OpenCall, call_id: str, tmp_path: Path
) -> None:
    """By what they may see its session would be hidden from them: the page takes the invitation of the answer."""
    with running_server(
        tmp_path, TEST_RUNNER_SETTINGS=json.dumps({"RUNNER": "tests.browser.agents.open_runner"})
    ) as server:
        base = server.url_from_elsewhere
        page = await open_call(call_id, base=base, complaints=(*INSECURE, "WebSocket"))
        await page.join()
        await page.button("Start an agent").click()
        await page.sees("Text agent joined")
        await page.in_state("joined")
        await page.say("what time is it?")
        await page.sees("It is ")
        await page.page.reload()
        await page.in_state("ready")
        await page.join()
        await page.sees("Text agent")
        stranger = await open_call(call_id, base=base, complaints=(*INSECURE, "WebSocket"))
        await stranger.button("Join").click()
        await stranger.in_state("failed")
        await page.page.goto("about:blank")
