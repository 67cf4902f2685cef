"""What the people in a room are shown of what an observer tells."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.observe.parts import Ears, Slow, Voice, on_call
from visionagents_runner.edge import BrowserCustomEvent
from visionagents_runner.edge.events import Happening
from visionagents_runner.observe.conversation import Words


async def _until(person: Any, seen: list[Any], kind: str) -> None:
    async with asyncio.timeout(10):
        async for event in person:
            seen.append(event)
            if isinstance(event, Happening) and event.kind == kind:
                return


async def test_people_read_what_is_being_said_while_it_is_said_and_each_word_once() -> None:
    ears = Ears()
    async with on_call(stt=ears, tts=Voice(), llm=Slow()) as (agent, _):
        person = agent.edge.person("guest")
        ears.starts(person.participant)
        ears.murmurs("how are", person.participant)
        ears.says("How are you?", person.participant)
        ears.ends(person.participant)
        seen: list[Any] = []
        await _until(person, seen, "turn")
    partial = [event.data for event in seen if isinstance(event, Happening) and event.kind == "partial"]
    assert [(data["participant_id"], data["text"]) for data in partial] == [(person.participant.id, "how are")]
    final = [(event.user_id, event.text) for event in seen if isinstance(event, Words) and event.completed]
    assert final == [("guest", "How are you?"), ("stub-agent", "All is well.")]


async def test_what_a_page_sends_to_the_agents_is_told_with_who_sent_it() -> None:
    async with on_call() as (agent, diary):
        person = agent.edge.person("guest")
        event = BrowserCustomEvent(participant=person.participant, data={"colour": "red"})
        agent.edge.events.send(event)
        told = await diary.wait_for("custom")
    assert told == {"data": {"colour": "red"}, "from": {"participant_id": person.participant.id, "user_id": "guest"}}
