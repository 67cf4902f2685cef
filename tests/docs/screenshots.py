"""``python -m tests.docs.screenshots``: the pictures of the documentation, taken of a real server and a real call.

Somebody speaks (a recording), the agent understands, calls a function and answers aloud; meanwhile the call page is
taken, then the admin. Each picture is taken twice, light and dark, at two pixels a pixel.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.browser.conftest import start_chromium
from tests.browser.pages import SECONDS, CallPage
from tests.browser.server import Server, running_server, server_environment
from tests.processes import ROOT
from tests.recordings import timeline, write_wav

IMAGES = ROOT / "docs" / "images"
SESSIONS = "/admin/visionagents_runner/agentsession/"
CALL = "front-desk"
PASSWORD = "operators-only"
SETTINGS = {
    "RUNNER": "tests.docs.agents.runner",
    "PRICES": {
        "currency": "EUR",
        "session": {"seconds": "1e-5"},
        "llm": {"*": {"input_tokens": "0.15e-6", "output_tokens": "0.6e-6"}},
        "stt": {"*": {"audio_seconds": "7e-5"}},
        "tts": {"*": {"characters": "15e-6"}},
    },
}
PLAIN_DEVICES = """
    const enumerate = navigator.mediaDevices.enumerateDevices.bind(navigator.mediaDevices);
    navigator.mediaDevices.enumerateDevices = async () => (await enumerate()).map((device) =>
        ({ deviceId: device.deviceId, kind: device.kind, label: device.label.replace(/^Fake /, "") }));
"""
"""The browser has stand-ins for a microphone and a speaker, and says so in their names."""

GREETING_SECONDS = 9.0
"""The greeting is over by then, so that the question interrupts nobody."""

QUALITY = 82
"""Of WebP: text has no fringes that can be seen, and a page takes about 100 KB."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=IMAGES, help="the folder that they are written to")
    folder: Path = parser.parse_args().to
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(take_all(folder))


async def take_all(folder: Path) -> None:
    """Write ``call``, ``sessions`` and ``session``, each as ``-light.webp`` and ``-dark.webp``, into ``folder``."""
    with tempfile.TemporaryDirectory() as temporary:
        there = Path(temporary)
        speech = write_wav(there / "speech.wav", timeline(GREETING_SECONDS, "goforward.raw", 300.0))
        with running_server(there, TEST_RUNNER_SETTINGS=json.dumps(SETTINGS)) as server:
            _add_operator(there)
            async with async_playwright() as playwright:
                browser = await start_chromium(
                    playwright,
                    "--use-fake-ui-for-media-stream",
                    "--use-fake-device-for-media-stream",
                    f"--use-file-for-fake-audio-capture={speech}%noloop",
                )
                try:
                    await _take(browser, server, folder)
                finally:
                    await browser.close()


async def _take(browser: Browser, server: Server, folder: Path) -> None:
    admin = await _page(browser, 1360, 850)
    await admin.add_init_script("localStorage.setItem('django.admin.navSidebarIsOpen', 'false')")
    await admin.goto(f"{server.url}/admin/login/?next={SESSIONS}")
    await admin.get_by_label("Username").fill("operator")
    await admin.get_by_label("Password").fill(PASSWORD)
    await admin.get_by_role("button", name="Log in").click()
    await admin.wait_for_url(f"**{SESSIONS}")
    session_id = await _start_sessions(server, admin)

    call = CallPage(await _page(browser, 1280, 800), f"{server.url}/call/default/{CALL}/")
    await call.page.add_init_script(PLAIN_DEVICES)
    await _talk(call)
    await _shoot(call.page, folder / "call")

    await admin.reload()
    await _shoot(admin, folder / "sessions")
    await admin.goto(f"{server.url}{SESSIONS}{session_id}/change/")
    await expect(admin.locator("#va-turns tbody tr")).to_have_count(3, timeout=4 * SECONDS)  # once the answer is over
    await _shoot(admin, folder / "session")


async def _page(browser: Browser, width: int, height: int) -> Page:
    context = await browser.new_context(
        viewport={"width": width, "height": height}, device_scale_factor=2, reduced_motion="reduce", locale="en-GB"
    )
    return await context.new_page()


async def _talk(call: CallPage) -> None:
    """Ask by voice, then twice by text; return while the agent speaks."""
    await call.open()
    await call.join()
    await call.connected("webrtc")
    tile = call.page.get_by_role("list", name="Agents").get_by_role("listitem")
    await call.sees(re.compile(r"The robot went forward 10 meters"))
    await expect(tile).to_contain_text("listening", timeout=SECONDS)
    for question, answer in [("roll 2 dice with 20 sides", "You rolled"), ("what can you do?", "I can tell the time")]:
        await expect(tile).to_contain_text("listening", timeout=SECONDS)
        await call.say(question)
        await call.sees(answer)
    await expect(tile).to_contain_text("speaking", timeout=SECONDS)
    await call.page.get_by_role("button", name="Details").click()
    await call.page.get_by_role("tab", name="Turns").click()


async def _shoot(page: Page, path: Path) -> None:
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        taken = Image.open(io.BytesIO(await page.screenshot(animations="disabled", caret="hide")))
        written = path.with_name(f"{path.name}-{scheme}.webp")
        taken.convert("RGB").save(written, quality=QUALITY, method=6)
        print(f"{written.relative_to(ROOT) if written.is_relative_to(ROOT) else written}: {written.stat().st_size:,} B")


async def _start_sessions(server: Server, admin: Page) -> str:
    """Leave rows: some that go on, some that ended, one that could not be built. Returns the id of the call's."""

    async def start(call_id: str, agent: str) -> str:
        answer = await admin.request.post(
            f"{server.url}/sessions", data={"call_id": call_id, "agent": agent}, headers={"Origin": server.url}
        )
        return str((await answer.json())["session_id"])

    for call_id, agent in [("order-4711", "reception"), ("lesson-3", "tutor"), ("order-4712", "reception")]:
        await asyncio.to_thread(server.request, "DELETE", f"/sessions/{await start(call_id, agent)}")
    await start("trial", "local-model")
    for call_id in ("lesson-4", "lesson-5"):
        await asyncio.to_thread(server.start_agent, call_id, "tutor")
    return await start(CALL, "reception")


def _add_operator(folder: Path) -> None:
    code = (
        "import django; django.setup()\n"
        "from django.contrib.auth.models import User\n"
        f"User.objects.create_superuser('operator', password={PASSWORD!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=server_environment(folder), check=True, timeout=60)


if __name__ == "__main__":
    main()
