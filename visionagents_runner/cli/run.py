"""One session in the console: what ``runagent`` and `Runner.run` do."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ..exceptions import StartFailed
from ..models import EndReason, SessionStatus
from ..server.banner import print_line, print_report
from ..server.forced_exit import leave_if_held
from ..sessions.session import LiveSession
from ..sessions.video import check_video
from ..store import database
from ..telemetry.logs import clean_level, configure_logging
from ..utils.credentials import without_credentials
from ..utils.text import one_line, visible
from ..utils.validation import clean_call_part
from ..worker.worker import AgentWorker
from .loading import say
from .page import CallPage, somebody_may_look

if TYPE_CHECKING:
    from ..registry import AgentRegistry
    from ..worker.launcher import AgentLauncher

logger = logging.getLogger(__name__)


def run_session(
    runner: AgentRegistry,
    *,
    agent: str | None = None,
    call_type: str = "default",
    call_id: str | None = None,
    debug: bool = False,
    log_level: str = "INFO",
    no_demo: bool = False,
    video_track_override: str | None = None,
    port: int | None = None,
    splash: bool = True,
) -> int:
    """Run one agent on one call until the call ends or a signal closes it. Returns the exit code.

    That is 0 after an end in order, Ctrl-C and SIGTERM included, and 1 if the agent could not be built, could not
    join, or failed. Unless ``no_demo``, people can join in a browser: the call page is served on this machine for an
    agent on this project's edge (see `runpage`); one on another edge opens that one's demo.

    Raises:
        RunnerError: it cannot run as asked; the message says the fix.
    """
    clean_call_part("call_type", call_type)
    call_id = clean_call_part("call_id", str(uuid.uuid4()) if call_id is None else call_id)
    launcher = runner.launcher(agent)
    if video_track_override is not None:
        video_track_override = check_video(video_track_override)
    page = CallPage(runner, port) if not no_demo and somebody_may_look() else None
    level = clean_level(log_level)
    if level == "INFO" and sys.stdout.isatty():
        level = "WARNING"  # vision-agents logs every word that is said: it would drown the chat
    configure_logging(agents=level, http=level)
    if splash:
        print_report(runner, url=None)
        say(f"the agent {launcher.name} and its models")
    conversation = _Conversation(runner, launcher, page)
    try:
        code = asyncio.run(
            conversation.run(call_type, call_id, no_demo=no_demo, video_track_override=video_track_override),
            debug=debug,
        )
    finally:
        if page is not None:
            page.close()
    leave_if_held(code)
    return code


def _close_if_chat_failed(session: LiveSession, chatting: asyncio.Future[None]) -> None:
    if not chatting.cancelled() and (error := chatting.exception()) is not None:
        logger.error("The chat failed; closing the session", exc_info=error)
        session.request_close(by="the chat failed")


def _log_failed_warm_up(name: str, warming: asyncio.Future[None]) -> None:
    if not warming.cancelled() and (error := warming.exception()) is not None:
        logger.warning("Warming up the agent %r failed: %s: %s", name, type(error).__name__, error)


class _Conversation:
    """The life of the one session, and what signals do to it."""

    def __init__(self, runner: AgentRegistry, launcher: AgentLauncher, page: CallPage | None) -> None:
        self._runner = runner
        self._page = page
        self._launcher = launcher
        self._signals = 0
        self._session: LiveSession | None = None
        self._warming: list[asyncio.Task[None]] = []
        self._starting: asyncio.Task[LiveSession] | None = None

    async def run(self, call_type: str, call_id: str, *, no_demo: bool, video_track_override: str | None) -> int:
        # Whoever is on the page may start the other agents of the project too.
        launchers = {self._launcher.name: self._launcher} if self._page is None else self._runner.launchers
        worker = AgentWorker(launchers, runner=self._runner.path)
        await worker.start(warm_up=False)
        restore = self._take_signals()
        try:
            if self._page is not None:
                self._page.prepare()
            # What goes wrong here goes wrong again in the session, whose row keeps it.
            await asyncio.wait({self._warm_up(self._launcher)})
            if self._signals:
                return 0
            return await self._converse(call_type, call_id, no_demo, video_track_override)
        finally:
            for warming in self._warming:
                warming.cancel()
            await worker.stop()
            if self._page is not None:
                await self._page.stop()
            restore()
            await asyncio.to_thread(database.close)

    async def _converse(self, call_type: str, call_id: str, no_demo: bool, video_track_override: str | None) -> int:
        self._starting = asyncio.ensure_future(
            self._launcher.start_session(
                call_id, call_type, video_track_override_path=video_track_override, source="command"
            )
        )
        try:
            session = await self._starting
        except StartFailed as error:
            if self._signals:
                return 0
            print(
                f"Error: {error}. The traceback is in the log above and on session {error.session_id}.", file=sys.stderr
            )
            return 1
        self._session = session
        print(one_line(f"Session {session.id} on {session.call_type}/{session.call_id}"), file=sys.stderr)
        if self._signals:
            self._close()
        if not no_demo:
            await self._open_demo(session)
        if self._page is not None:
            await self._open_page(session, self._page)
        from .console import chat

        chatting = asyncio.ensure_future(chat(session))
        chatting.add_done_callback(partial(_close_if_chat_failed, session))
        try:
            await session.wait()
        except Exception as error:
            message = visible(without_credentials(str(error)))
            print(f"Error: the session failed: {type(error).__name__}: {message}", file=sys.stderr)
        finally:
            chatting.cancel()
            await asyncio.wait({chatting})
        if session.end_reason is not None:
            print(f"Session ended: {session.end_reason.label}", file=sys.stderr)
        return 1 if session.status is SessionStatus.FAILED else 0

    async def _open_demo(self, session: LiveSession) -> None:
        """Have an edge with a demo page of its own (Stream's, say) open it."""
        open_demo = getattr(session.agent.edge, "open_demo_for_agent", None)
        if open_demo is None:
            return
        try:
            await open_demo(session.agent, session.call_type, session.call_id)
        except Exception as error:
            logger.warning("The demo page could not be opened (%s: %s); the call goes on", type(error).__name__, error)

    async def _open_page(self, session: LiveSession, page: CallPage) -> None:
        """Let people join an agent on this project's edge in the browser."""
        from ..edge import BrowserEdge

        if isinstance(session.agent.edge, BrowserEdge) and (address := await page.serve(session)) is not None:
            print_line("open", address)
            page.open_browser(address)
            for launcher in self._runner.launchers.values():
                if launcher is not self._launcher:
                    self._warm_up(launcher)

    def _warm_up(self, launcher: AgentLauncher) -> asyncio.Task[None]:
        warming = asyncio.ensure_future(launcher.warmup())
        warming.add_done_callback(partial(_log_failed_warm_up, launcher.name))
        self._warming.append(warming)
        return warming

    # Signals

    def _take_signals(self) -> Callable[[], None]:
        loop = asyncio.get_running_loop()
        taken = []
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
                loop.add_signal_handler(signal_number, self._on_signal)
                taken.append(signal_number)

        def restore() -> None:
            for signal_number in taken:
                loop.remove_signal_handler(signal_number)

        return restore

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals > 2:
            os._exit(1)
        self._close()

    def _close(self) -> None:
        for warming in self._warming:
            warming.cancel()
        sessions = [self._session] if self._session is not None else list(self._launcher.sessions.values())
        for session in sessions:
            session.request_close(by="signal", reason=EndReason.REQUESTED, force=self._signals > 1)
