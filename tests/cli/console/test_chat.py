"""The chat around a real agent: piped, at a terminal, and on an edge that is not ours."""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import sys
import threading

import pytest
from rich.console import Console
from vision_agents.core.agents.conversation import InMemoryConversation
from vision_agents.core.edge import EdgeTransport
from vision_agents.core.edge.types import Connection
from vision_agents.core.llm.llm import LLMResponseFinal

from tests.conftest import until
from visionagents_runner.cli.console import chat
from visionagents_runner.demo.functions import register_functions
from visionagents_runner.demo.llm import ScriptedLLM
from visionagents_runner.demo.rules import add_rules
from visionagents_runner.edge import find_room, join_room, open_rooms
from visionagents_runner.testing import EchoLLM, join_call, stub_agent

pytestmark = pytest.mark.slow

CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Session:
    """Has of a LiveSession what the chat uses."""

    call_type = "default"
    call_id = "c"

    def __init__(self, agent, join=join_call):
        self.agent = agent
        self.closed_with = None
        self.task = asyncio.create_task(join(agent, self.call_type, self.call_id))

    async def wait(self):
        await asyncio.shield(self.task)

    def request_close(self, *, by="", force=False, reason=None):
        self.closed_with = (by, reason)
        self.task.cancel()


@pytest.fixture(autouse=True)
def known_user(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "caller")


@pytest.fixture
async def start():
    """Start sessions; whatever is left of them ends with the test."""
    sessions = []

    def start(agent=None, **options):
        sessions.append(Session(agent or stub_agent(), **options))
        return sessions[-1]

    yield start
    for session in sessions:
        session.task.cancel()
        await asyncio.gather(session.task, return_exceptions=True)
        await session.agent.close()
    assert open_rooms() == ()


@pytest.fixture
def pipe():
    read, write = os.pipe()
    with os.fdopen(read) as reading, os.fdopen(write, "w", buffering=1) as writing:
        yield reading, writing


@pytest.fixture
def pty():
    master, slave = os.openpty()
    with os.fdopen(slave) as terminal, os.fdopen(master, "wb", buffering=0) as keyboard:
        yield terminal, keyboard


@pytest.fixture
def output():
    return io.StringIO()


def scripted_agent():
    llm = ScriptedLLM()
    register_functions(llm)
    add_rules(llm)
    return stub_agent(llm=llm)


async def piped(session, text, output):
    await asyncio.wait_for(chat(session, stdin=io.StringIO(text), console=Console(file=output)), 20)
    return output.getvalue()


def on_terminal(session, terminal, output):
    console = Console(file=output, force_terminal=True, width=70, color_system="standard")
    return asyncio.create_task(chat(session, stdin=terminal, console=console))


def screen_of(output):
    return CODES.sub("", output.getvalue())


class TestPiped:
    async def test_each_line_waits_for_the_reply_to_the_one_before(self, start, output):
        session = start()
        shown = await piped(session, "one\n\n  two  \nthree", output)
        assert shown == (
            "you> one\nagent> You said: one\nyou> two\nagent> You said: two\nyou> three\nagent> You said: three\n"
        )

    async def test_at_the_end_of_input_the_call_ends_if_nobody_else_is_on_it(self, start, output):
        session = start()
        await piped(session, "one\n", output)
        assert session.task.done()
        assert session.task.exception() is None
        assert session.closed_with is None, "the call itself has ended: nobody closed the session"

    async def test_with_somebody_else_there_the_call_goes_on(self, start, output):
        session = start()
        guest = join_room("default", "c", "guest")
        shown = await piped(session, "one\n", output)
        assert "· guest is here\n" in shown
        assert not session.task.done()
        assert list(guest.room.people) == [guest.participant.id]
        guest.leave()
        guest.room.end()

    async def test_without_a_single_line_nobody_joins_and_the_session_goes_on(self, start, output):
        session = start()
        chatting = asyncio.create_task(piped(session, "", output))
        await until(lambda: session.agent.on_call_for() > 0)
        guest = join_room("default", "c", "guest")
        while not output.getvalue():  # the chat may not be listening yet
            await guest.say("hello")
            await asyncio.sleep(0.005)
        assert not chatting.done()
        assert [person.name for person in guest.room.people.values()] == ["guest"]
        guest.room.end()
        await chatting
        assert set(output.getvalue().splitlines()) == {"agent> You said: hello"}

    async def test_a_real_pipe_and_its_end(self, start, output, pipe):
        reading, writing = pipe
        session = start()
        chatting = asyncio.create_task(chat(session, stdin=reading, console=Console(file=output)))
        writing.write("one\n")
        await until(lambda: "You said: one" in output.getvalue())
        assert not chatting.done()
        writing.close()
        await asyncio.wait_for(chatting, 20)
        assert session.task.done()

    async def test_the_chat_ends_when_the_session_ends_by_itself(self, start, output, pipe):
        reading, _ = pipe
        session = start()
        chatting = asyncio.create_task(chat(session, stdin=reading, console=Console(file=output)))
        await until(lambda: find_room("default", "c") is not None)
        session.agent.edge.end_call()
        await asyncio.wait_for(chatting, 20)

    async def test_the_chat_ends_when_the_session_ends_instead_of_a_reply(self, start, output):
        agent = stub_agent()

        async def simple_response(*args, **kwargs):
            agent.edge.end_call()

        agent.simple_response = simple_response
        await piped(start(agent), "one\ntwo\n", output)
        assert output.getvalue() == "you> one\n"

    async def test_a_session_that_fails_to_join_ends_the_chat_without_raising(self, start, output):
        async def fails(agent, call_type, call_id):
            raise RuntimeError("no such call")

        session = start(join=fails)
        assert await piped(session, "one\n", output) == ""

    async def test_tool_calls_show_with_their_result_or_error(self, start, output):
        shown = await piped(start(scripted_agent()), "my name is Caller\nroll 1000 dice\n", output)
        assert shown == (
            "you> my name is Caller\n→ remember_name(person='caller', name='Caller')\n✓ Caller\n"
            "agent> Nice to meet you, Caller.\n"
            "you> roll 1000 dice\n→ roll_dice(count=1000)\n✗ I have 1 to 100 dice, not 1000\n"
            "agent> That did not work: I have 1 to 100 dice, not 1000.\n"
        )

    async def test_a_greeting_stands_above_the_first_line_and_is_not_taken_for_a_reply(self, start, output):
        async def greets(agent, call_type, call_id):
            call = await agent.create_call(call_type, call_id)
            async with agent.join(call, participant_wait_timeout=0):
                await agent.wait_for_participant()
                await agent.say("Welcome!")
                await agent.finish()

        shown = await piped(start(join=greets), "one\n", output)
        assert shown == "agent> Welcome!\nyou> one\nagent> You said: one\n"

    async def test_an_llm_error_is_shown_and_the_next_line_is_sent(self, start, output):
        class Failing(EchoLLM):
            async def simple_response(self, text, participant=None):
                if text == "bad":
                    self.on_llm_error(error=RuntimeError("quota exceeded"))
                    yield LLMResponseFinal(text="")
                    return
                async for item in super().simple_response(text, participant):
                    yield item

        shown = await piped(start(stub_agent(llm=Failing())), "bad\ngood\n", output)
        assert shown == "you> bad\nquota exceeded\nyou> good\nagent> You said: good\n"

    async def test_a_model_that_raises_without_an_event_does_not_hang_the_chat(self, start, output):
        class Raising(EchoLLM):
            async def simple_response(self, text, participant=None):
                raise ValueError("bad key")
                yield

        shown = await piped(start(stub_agent(llm=Raising())), "one\ntwo\n", output)
        assert shown == "you> one\nValueError: bad key\nyou> two\nValueError: bad key\n"

    async def test_a_model_that_says_nothing_does_not_hang_the_chat(self, start, output):
        class Silent(EchoLLM):
            async def simple_response(self, text, participant=None):
                for item in ():
                    yield item

        assert "The model gave no answer." in await piped(start(stub_agent(llm=Silent())), "one\n", output)

    async def test_commands_are_not_said_to_the_agent(self, start, output):
        session = start()
        shown = await piped(session, "/help\n/mute\n/nonsense x\none\n/events\n/quit\nnever\n", output)
        assert "/events   what happened so far" in shown
        assert "There is no audio in this chat" in shown
        assert "There is no command /nonsense" in shown
        assert re.search(r"\d\d:\d\d:\d\d plugin.llm_response_final text='You said: one'", shown)
        assert "never" not in shown
        assert [m.content for m in session.agent.conversation.messages] == ["one", "You said: one"]
        assert session.task.done()

    async def test_output_that_nobody_reads_any_more_does_not_end_the_call(self, start, monkeypatch):
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "w") as gone:
            monkeypatch.setattr(sys, "stdout", gone)
            session = start()
            await asyncio.wait_for(chat(session, stdin=io.StringIO("one\ntwo\n")), 20)
        assert [m.content for m in session.agent.conversation.messages][2:] == ["two", "You said: two"]


class TestTerminal:
    async def test_a_chat_from_the_prompt_to_the_figures(self, start, output, pty):
        terminal, keyboard = pty
        session = start(scripted_agent())
        chatting = on_terminal(session, terminal, output)
        await until(lambda: screen_of(output).endswith("  you › "))  # noqa: RUF001
        keyboard.write(b"my name is Caller\n")
        await until(lambda: screen_of(output).count("  you › ") == 2)  # noqa: RUF001
        lines = screen_of(output).split("\n")
        assert lines[1:4] == [
            "  you ›         → remember_name(person='caller', name='Caller')",  # noqa: RUF001
            "        ✓ Caller",
            "agent › Nice to meet you, Caller.",  # noqa: RUF001
        ]
        assert re.fullmatch(r" +model \d+ ─ \d+ ms", lines[4])
        keyboard.write(b"/quit\n")
        await asyncio.wait_for(chatting, 20)
        assert session.task.done()

    async def test_the_reply_streams(self, start, output, pty):
        terminal, keyboard = pty
        step = asyncio.Event()

        class Slow(EchoLLM):
            async def simple_response(self, text, participant=None):
                async for item in super().simple_response(text, participant):
                    yield item
                    if isinstance(item, LLMResponseFinal):
                        return
                    await step.wait()
                    step.clear()

        chatting = on_terminal(start(stub_agent(llm=Slow())), terminal, output)
        keyboard.write(b"hi\n")
        await until(lambda: screen_of(output).endswith("agent › You "))  # noqa: RUF001
        step.set()
        await until(lambda: screen_of(output).endswith("agent › You said: "))  # noqa: RUF001
        chatting.cancel()
        await asyncio.gather(chatting, return_exceptions=True)

    async def test_a_new_line_interrupts_the_reply(self, start, output, pty):
        terminal, keyboard = pty

        class Endless(EchoLLM):
            async def simple_response(self, text, participant=None):
                async for item in super().simple_response(text, participant):
                    yield item
                    if text == "first":
                        await asyncio.Event().wait()

        chatting = on_terminal(start(stub_agent(llm=Endless())), terminal, output)
        keyboard.write(b"first\n")
        await until(lambda: "You " in screen_of(output))
        keyboard.write(b"second\n")
        await until(lambda: "You said: second" in screen_of(output))
        await until(lambda: screen_of(output).endswith("  you › "))  # noqa: RUF001
        assert screen_of(output).count("model ") == 1
        keyboard.write(b"\x04")
        await asyncio.wait_for(chatting, 20)

    async def test_cancelling_leaves_the_room_but_does_not_end_the_call(self, start, output, pty):
        terminal, _ = pty
        session = start()
        chatting = on_terminal(session, terminal, output)
        await until(lambda: screen_of(output).endswith("  you › "))  # noqa: RUF001
        room = session.agent.edge.room
        assert [person.name for person in room.people.values()] == ["caller"]
        chatting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await chatting
        assert not room.people
        assert not session.task.done()
        assert output.getvalue().endswith("\n")
        assert asyncio.get_running_loop().remove_reader(terminal.fileno()) is False

    async def test_what_others_do_shows_above_the_prompt(self, start, output, pty):
        terminal, keyboard = pty
        session = start()
        chatting = on_terminal(session, terminal, output)
        await until(lambda: screen_of(output).endswith("  you › "))  # noqa: RUF001
        guest = join_room("default", "c", "guest", name="Guest")
        await until(lambda: "Guest is here" in screen_of(output))
        await guest.say("hello")
        await until(lambda: "agent › You said: hello" in screen_of(output))  # noqa: RUF001
        assert "guest › hello" in screen_of(output)  # noqa: RUF001
        guest.leave()
        await until(lambda: "Guest left" in screen_of(output))
        await until(lambda: screen_of(output).endswith("  you › "))  # noqa: RUF001
        keyboard.write(b"/quit\n")
        await asyncio.wait_for(chatting, 20)

    async def test_the_end_of_the_call_ends_the_chat_and_drops_what_was_half_typed(self, start, output, pty):
        terminal, keyboard = pty
        session = start()
        chatting = on_terminal(session, terminal, output)
        await until(lambda: screen_of(output).endswith("  you › "))  # noqa: RUF001
        keyboard.write(b"rm -rf")
        session.agent.edge.end_call()
        await asyncio.wait_for(chatting, 20)
        assert "The call has ended.\n" in screen_of(output)
        keyboard.write(b"x\n")
        assert os.read(terminal.fileno(), 100) == b"x\n"


class ForeignConnection(Connection):
    async def close(self):
        pass

    async def wait_for_participant(self, timeout=None):
        pass

    def idle_since(self):
        return 0.0


class ForeignCall:
    id = "c"


class ForeignEdge(EdgeTransport):
    """An edge that is not ours: it has no room for the console to join."""

    async def authenticate(self, user):
        pass

    async def create_call(self, call_id, **kwargs):
        return ForeignCall()

    def create_audio_track(self):
        from getstream.video.rtc import AudioStreamTrack

        return AudioStreamTrack()

    def open_demo(self, *args, **kwargs):
        pass

    async def join(self, agent, call, **kwargs):
        return ForeignConnection()

    async def publish_tracks(self, audio_track, video_track):
        pass

    async def create_conversation(self, call, user, instructions):
        return InMemoryConversation(instructions, [])

    def add_track_subscriber(self, track_id):
        return None

    async def send_custom_event(self, data):
        pass


class TestOnAnotherEdge:
    async def test_what_is_typed_reaches_the_agent_and_its_words_come_back(self, start, output):
        from visionagents_runner.models import EndReason

        session = start(stub_agent(edge=ForeignEdge()))
        shown = await piped(session, "one\ntwo\n", output)
        assert shown == "you> one\nagent> You said: one\nyou> two\nagent> You said: two\n"
        messages = session.agent.conversation.messages
        assert [(m.role, m.content) for m in messages[:2]] == [("user", "one"), ("assistant", "You said: one")]
        assert session.closed_with == ("console", EndReason.FINISHED)
        assert "upsert_message" not in vars(session.agent.conversation)

    async def test_people_who_came_keep_the_call_going(self, start, output, pipe):
        from vision_agents.core.edge.events import ParticipantJoinedEvent
        from vision_agents.core.edge.types import Participant

        reading, writing = pipe
        session = start(stub_agent(edge=ForeignEdge()))
        chatting = asyncio.create_task(chat(session, stdin=reading, console=Console(file=output)))
        writing.write("one\n")
        await until(lambda: "You said: one" in output.getvalue())
        guest = Participant(original=None, user_id="guest", id="guest")
        session.agent.edge.events.send(ParticipantJoinedEvent(participant=guest, call=ForeignCall()))
        writing.write("two\n")
        await until(lambda: "You said: two" in output.getvalue())
        writing.close()
        await asyncio.wait_for(chatting, 20)
        assert session.closed_with is None
        assert not session.task.done()


async def test_a_chat_leaves_no_task_and_no_thread_that_keeps_the_process(start, output):
    session = start()
    tasks = asyncio.all_tasks()
    await piped(session, "one\n", output)
    await until(lambda: session.agent.closed)
    assert asyncio.all_tasks() <= tasks
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "read-stdin")


def test_importing_the_console_does_not_load_vision_agents():
    code = "import sys, visionagents_runner.cli.console; sys.exit('vision_agents' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
