"""The recipe of the agent that looks at the camera."""

from __future__ import annotations

from functools import partial

from vision_agents.core import Agent, User

from ...edge import BrowserEdge
from ...edge.filters import PassThroughFilter
from .. import agent as demo
from ..functions import register_functions
from ..llm import ScriptedLLM
from ..rules import add_rules
from .processor import OutlineProcessor
from .rules import add_vision

GREETING = "Hello! I look at your camera and outline what moves. Press Camera, then ask me what I see."


async def create_agent() -> Agent:
    eyes = OutlineProcessor()
    edge = BrowserEdge()
    llm = ScriptedLLM(word_seconds=demo.WORD_SECONDS)
    add_vision(llm, eyes)
    register_functions(llm, edge)
    add_rules(llm)
    stt, tts = demo.speech_of(edge)
    if stt is not None:
        llm.note = f"{llm.note}; {demo.NOTE_OF_SPEECH}"
    return Agent(
        edge=edge,
        llm=llm,
        stt=stt,
        tts=tts,
        processors=[eyes],
        agent_user=User(id="vision-agent", name="Vision agent"),
        instructions="Scripted answers, no language model.",
        multi_speaker_filter=PassThroughFilter(),
    )


join_call = partial(demo.join_call, greeting=GREETING)
