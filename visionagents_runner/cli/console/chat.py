"""`chat`: the conversation of one session, at a terminal or through a pipe."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from rich.console import Console

from ...utils.tasks import HeldTasks
from .capture import TerminalCapture
from .connection import AgentConnection, connect
from .events import describe, short, subscribe, worth_listing
from .lines import LineReader
from .screen import PlainScreen, Screen, TerminalScreen
from .turn import Turn

if TYPE_CHECKING:
    from ...edge import Presence, Words
    from ...sessions.session import LiveSession

T = TypeVar("T")

HELP = """\
/help     these lines
/events   what happened so far
/quit     leave; the call ends if nobody else is on it
All else is said to the agent. A new line interrupts its reply."""
_GREETING_SECONDS = 0.3
_KEPT_EVENTS = 50


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads any more (``| head``): print nothing, where rich would end the process and with it the call."""
        self.quiet = True
        with suppress(OSError, ValueError):
            # What is still in the stream's buffer would fail again when the interpreter exits.
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self.file.fileno())
            os.close(devnull)


class _CallEnded(Exception):
    """The session has ended."""


async def chat(session: LiveSession, *, stdin: TextIO | None = None, console: Console | None = None) -> None:
    """Let whoever is at ``stdin`` (``sys.stdin``) talk to the session's agent, and show on ``console`` what it says.

    Where both are a terminal it is a chat. Elsewhere it reads lines, waits for each reply before it sends the next
    line, and prints plain lines. It returns when

    - the session has ended;
    - the person has left (``/quit``, or the end of input after at least one line) and others are still on the call.
      With nobody else there the call ends, and with it the session, for which it waits.

    Input that is empty from the start (``/dev/null``) is nobody: no room is joined, and the session goes on until it
    ends. When cancelled, it leaves the call, which goes on. What ``session.wait()`` raises is the caller's to report.
    """
    reader = LineReader(sys.stdin if stdin is None else stdin)
    if console is not None:
        await _Chat(session, reader, console).run()
        return
    capture = TerminalCapture()
    try:
        chatting = _Chat(session, reader, _Console(file=capture.terminal, highlight=False))
        if chatting.interactive:
            capture.start(chatting.screen.outside)
        await chatting.run()
    finally:
        capture.stop()


class _Chat:
    def __init__(self, session: LiveSession, reader: LineReader, console: Console) -> None:
        self._session = session
        self._reader = reader
        self.interactive = reader.interactive and console.is_terminal
        self.screen: Screen = TerminalScreen(console) if self.interactive else PlainScreen(console)
        self._turn: Turn | None = None
        self._spoke = asyncio.Event()
        self._events: deque[str] = deque(maxlen=_KEPT_EVENTS)
        self._tasks = HeldTasks()
        self._ended = asyncio.create_task(self._session_ended(), name="console-session-ended")

    async def run(self) -> None:
        unsubscribe: Callable[[], None] | None = None
        connection: AgentConnection | None = None
        left = ended_it = False
        try:
            connection = await self._unless_ended(connect(self._session, self))
            unsubscribe = subscribe(self._session.agent, self._on_event, *worth_listing())
            await (self._converse(connection) if self.interactive else self._relay(connection))
            left = True
        except _CallEnded:
            if self.interactive:
                self.screen.line("The call has ended.")
        finally:
            if unsubscribe is not None:
                unsubscribe()
            if connection is not None:
                ended_it = connection.leave(end=left)
            self._reader.close()
            self.screen.close()
            for task in self._tasks:
                task.cancel()
            if not ended_it:
                self._ended.cancel()
            await asyncio.gather(self._ended, *self._tasks, return_exceptions=True)

    # The two ways to chat

    async def _converse(self, connection: AgentConnection) -> None:
        """At a terminal: lines come whenever they come."""
        connection.enter()
        self.screen.line("Type to talk. /help lists what else there is.")
        self._prompt()
        while (line := await self._unless_ended(self._reader.readline())) is not None:
            text = line.strip()
            self.screen.typed(text)
            if text == "/quit":
                return
            if text and not text.startswith("/"):
                await self._ask(connection, text)
            else:
                self._command(text)
                self._prompt()

    async def _relay(self, connection: AgentConnection) -> None:
        """From a pipe: one line, one reply."""
        line = await self._unless_ended(self._reader.readline())
        if line is None:
            await asyncio.wait({self._ended})
            raise _CallEnded
        connection.enter()
        # An agent that greets does it now; without this its greeting would stand below the first line.
        with suppress(TimeoutError):
            await self._unless_ended(asyncio.wait_for(self._spoke.wait(), _GREETING_SECONDS))
        while line is not None:
            if text := line.strip():
                self.screen.typed(text)
                if text == "/quit":
                    return
                if text.startswith("/"):
                    self._command(text)
                else:
                    turn = await self._ask(connection, text)
                    await self._unless_ended(turn.done.wait())
                    self._report(turn)
            line = await self._unless_ended(self._reader.readline())

    def _command(self, text: str) -> None:
        if text == "/help":
            self.screen.line(HELP)
        elif text == "/events":
            self.screen.line("\n".join(self._events) or "Nothing has happened yet.")
        elif text == "/mute":
            self.screen.line("There is no audio in this chat, so there is nothing to mute.")
        elif text:
            self.screen.line(f"There is no command {text.split()[0]}. /help lists those there are.", "red")

    # Turns

    async def _ask(self, connection: AgentConnection, text: str) -> Turn:
        from vision_agents.core.llm.realtime import Realtime

        agent = self._session.agent
        if self._turn is not None:
            self._turn.interrupt()
        turn = self._turn = Turn(realtime=isinstance(agent.llm, Realtime))
        self._spawn(self._report_when_done(turn))
        try:
            await self._unless_ended(connection.say(text))
        except _CallEnded:
            raise
        except Exception as error:
            turn.fail(f"{type(error).__name__}: {error}")
        else:
            self._spawn(turn.watch_model(agent))
        return turn

    async def _report_when_done(self, turn: Turn) -> None:
        await turn.done.wait()
        self._report(turn)

    def _report(self, turn: Turn) -> None:
        """Say how the turn went, once, unless another one has begun meanwhile."""
        if turn is not self._turn:
            return
        self._turn = None
        if turn.error:
            self.screen.line(turn.error, "red")
        elif (figures := turn.figures()) is not None:
            self.screen.figures(figures)
        self._prompt()

    def _prompt(self) -> None:
        if self._turn is None:
            self.screen.prompt()

    # What the agent and the others do

    def on_words(self, words: Words) -> None:
        own = words.role == "assistant" and words.agent_id == self._session.agent.id
        self.screen.words("agent" if own else words.user_id, words)
        if own and words.completed:
            self._spoke.set()
        if own and self._turn is not None:
            self._turn.on_words(words)
        elif words.completed:
            self._prompt()

    def on_presence(self, presence: Presence) -> None:
        name = self.screen.name(presence.name)
        self.screen.line(f"{self.screen.glyphs.dot} {name} {'is here' if presence.here else 'left'}")
        self._prompt()

    def on_custom_event(self, data: dict[str, Any]) -> None:
        self._events.append(f"custom event {short(data)}")

    async def _on_event(self, event: Any) -> None:
        from vision_agents.core.llm.events import LLMErrorEvent, LLMResponseFinalEvent, ToolEndEvent, ToolStartEvent
        from vision_agents.core.tts.events import TTSSynthesisCompleteEvent

        self._events.append(describe(event))
        turn = self._turn
        if isinstance(event, ToolStartEvent):
            arguments = (f"{name}={short(value)}" for name, value in (event.arguments or {}).items())
            self.screen.tool_called(event.tool_name, ", ".join(arguments))
        elif isinstance(event, ToolEndEvent) and event.success:
            result = event.result
            self.screen.tool_done(result if isinstance(result, str) and result else short(result))
        elif isinstance(event, ToolEndEvent):
            self.screen.tool_failed(event.error or "it failed without saying why")
        elif isinstance(event, LLMErrorEvent) and turn is not None:
            turn.fail(event.error_message)
        elif isinstance(event, LLMErrorEvent):
            self.screen.line(event.error_message, "red")
            self._prompt()
        elif isinstance(event, LLMResponseFinalEvent) and turn is not None:
            turn.on_final(event.text)
        elif isinstance(event, TTSSynthesisCompleteEvent) and turn is not None:
            turn.on_voice(event.synthesis_time_ms)

    # Waiting

    async def _session_ended(self) -> None:
        with suppress(Exception):
            await self._session.wait()

    async def _unless_ended(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``. If the session ends first, cancel it and raise `_CallEnded`."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _CallEnded
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.hold(asyncio.create_task(work, name="console-turn"))
