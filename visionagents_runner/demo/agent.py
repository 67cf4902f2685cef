"""The recipe of the demo agent."""

from __future__ import annotations

import asyncio
import functools

from vision_agents.core import Agent, User
from vision_agents.core.stt import STT
from vision_agents.core.tts import TTS

from ..edge import BrowserEdge
from ..edge.filters import PassThroughFilter
from .functions import register_functions
from .llm import ScriptedLLM
from .rules import add_rules
from .speech import installed
from .voice import SilentTTS

GREETING = "Hello! I speak English, and there is no language model behind me. Ask me what I can do."
NOTE_OF_SPEECH = "understands and speaks English"
WORD_SECONDS = 0.015
"""Pause between two words of a reply, so that it can be seen to stream, and interrupted."""


async def create_agent() -> Agent:
    """Build the demo agent, with speech where that is installed.

    Raises:
        SpeechUnavailable: a setting names a model that is none. What cannot be known yet, a download that does not
            come say, is told as an error of the session when it happens, which goes on by text.
    """
    edge = BrowserEdge()
    llm = ScriptedLLM(word_seconds=WORD_SECONDS)
    register_functions(llm, edge)
    add_rules(llm)
    stt, tts = speech_of(edge)
    if stt is not None:
        llm.note = f"{llm.note}; {NOTE_OF_SPEECH}"
    return Agent(
        edge=edge,
        llm=llm,
        stt=stt,
        tts=tts,
        agent_user=User(id="demo-agent", name="Demo agent"),
        instructions="Scripted answers, no language model.",
        # Everybody is listened to: speech of several people is told apart by where it comes from.
        multi_speaker_filter=PassThroughFilter(),
    )


def speech_of(edge: BrowserEdge) -> tuple[STT | None, TTS]:
    """Return ears and a voice for an agent on ``edge``: local ones where installed, else none and a silent one."""
    if not installed():
        return None, SilentTTS()
    from .speech import LocalSTT, LocalTTS
    from .speech.models import recognition_model, voice_model

    recognition_model(), voice_model()  # raises what is wrong in the settings, before there is a session
    return LocalSTT(), LocalTTS(audible=functools.partial(_somebody_hears, edge))


def _somebody_hears(edge: BrowserEdge) -> bool:
    """Whether anybody in the room takes audio: nothing need be spoken to people who only type and read."""
    return edge.room is not None and any(person.transport is not None for person in edge.room.people.values())


async def join_call(agent: Agent, call_type: str, call_id: str, *, greeting: str = GREETING) -> None:
    call = await agent.create_call(call_type, call_id)
    async with agent.join(call, participant_wait_timeout=0):
        # A task of its own: the call may end, or be ended, before anybody ever comes.
        greeter = asyncio.create_task(_greet(agent, greeting))
        try:
            await agent.finish()
        finally:
            greeter.cancel()
            await asyncio.gather(greeter, return_exceptions=True)


async def _greet(agent: Agent, greeting: str) -> None:
    await agent.wait_for_participant()
    await agent.say(greeting)
