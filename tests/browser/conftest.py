"""A real server and a real browser.

`server` and `browser` run once for all of these tests; `chromium` starts other browsers, with a recording in place of
the microphone for example; `open_call` opens call pages and checks at the end that no browser complained of anything.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Playwright, async_playwright

from tests.machine.requirements import require

from .pages import CallPage
from .server import ELSEWHERE, Server, running_server

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
)
INSECURE = ("Cross-Origin-Opener-Policy header has been ignored",)
"""What Chromium complains of at every page under http:// that is not on this machine."""

_FAKE_DEVICES = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")

_calls = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One loop for all of these tests: they share a browser, which belongs to its loop. All of them need one."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.asyncio(loop_scope="package"), append=False)
            item.add_marker(pytest.mark.requires("chromium"))  # asked before a server is started
            item.add_marker(pytest.mark.slow)


class StartChromium(Protocol):
    async def __call__(self, *arguments: str, microphone: Path | None = None, devices: bool = True) -> Browser: ...


class OpenCall(Protocol):
    async def __call__(
        self,
        call_id: str,
        *,
        browser: Browser | None = None,
        query: str = "",
        fragment: str = "",
        base: str = "",
        scripts: tuple[str, ...] = (),
        prepare: Callable[[Any], Awaitable[Any]] | None = None,
        complaints: tuple[str, ...] = (),
        **context: Any,
    ) -> CallPage: ...


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the agents of `tests.browser.agents`: text (without sound), demo, broken, limited (to one)."""
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def call_id() -> str:
    """A call that no other test uses."""
    return f"call-{next(_calls)}"


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def playwright() -> AsyncIterator[Playwright]:
    async with async_playwright() as playwright:
        yield playwright


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def browser(playwright: Playwright) -> AsyncIterator[Browser]:
    """The browser of most tests: its fake microphone beeps once a second, and pages may have it."""
    browser = await start_chromium(playwright, *_FAKE_DEVICES)
    yield browser
    await browser.close()


@pytest_asyncio.fixture(loop_scope="package")
async def chromium(playwright: Playwright) -> AsyncIterator[StartChromium]:
    """Start browsers that differ: ``await chromium(microphone=wav)``; they end with the test.

    ``devices=False`` is a machine that has neither microphone nor camera, and where nobody allows any.
    """
    async with AsyncExitStack() as stack:

        async def start(*arguments: str, microphone: Path | None = None, devices: bool = True) -> Browser:
            fake = _FAKE_DEVICES if devices else ()
            if microphone is not None:
                fake = (*fake, f"--use-file-for-fake-audio-capture={microphone}%noloop")
            browser = await start_chromium(playwright, *fake, *arguments)
            stack.push_async_callback(browser.close)
            return browser

        yield start


async def start_chromium(playwright: Playwright, *arguments: str) -> Browser:
    return await playwright.chromium.launch(
        executable_path=require("chromium"), args=[*_ARGUMENTS, *arguments], headless=True
    )


@pytest_asyncio.fixture(loop_scope="package")
async def open_call(server: Server, browser: Browser) -> AsyncIterator[OpenCall]:
    """Open the page of a call: ``page = await open_call(call_id)``.

    ``scripts`` run in the page before its own; ``prepare(page)`` before it is opened; ``complaints`` are texts of what
    the browser may complain of. What is left goes to ``browser.new_context``.
    """
    contexts: list[BrowserContext] = []
    opened: list[tuple[CallPage, tuple[str, ...]]] = []
    usual = browser

    async def open_page(
        call_id: str,
        *,
        browser: Browser | None = None,
        query: str = "",
        fragment: str = "",
        base: str = "",
        scripts: tuple[str, ...] = (),
        prepare: Callable[[Any], Awaitable[Any]] | None = None,
        complaints: tuple[str, ...] = (),
        **options: Any,
    ) -> CallPage:
        context = await (browser or usual).new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = await context.new_page()
        for script in scripts:
            await page.add_init_script(script)
        if prepare is not None:
            await prepare(page)
        call = CallPage(page, f"{base or server.url}/call/default/{call_id}/{query}{fragment}")
        opened.append((call, complaints))
        return await call.open()

    yield open_page
    # Closing the page is leaving the call, which the server has to see.
    await asyncio.gather(*(context.close() for context in contexts))
    for call, allowed in opened:
        left = [text for text in call.problems if not any(each in text for each in allowed)]
        assert not left, left
