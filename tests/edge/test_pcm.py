"""Plain frames: the way that needs no UDP. And what is said to many: the mix, muting, listeners, interruption."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import numpy as np
import pytest
from django.test import override_settings

from tests.conftest import until
from tests.edge.browser import Ears, loudness, next_event, speak, tone
from visionagents_runner.edge import (
    BrowserCustomEvent,
    Happening,
    Media,
    NoMedia,
    Presence,
    RoomClosed,
    RoomFull,
    Speaking,
    join_room,
)
from visionagents_runner.edge.audio import FRAME_BYTES

pytestmark = pytest.mark.slow


class Phone:
    """A person with a PCM link: says a tone in real time, keeps what it hears."""

    def __init__(self, user_id, *, hertz=0.0, **options):
        self.person = join_room("default", "c", user_id, **options)
        self.link = self.person.open_pcm()
        self.heard = np.zeros(0, dtype=np.int16)
        self._tasks = [asyncio.create_task(self._hear())]
        if hertz:
            self._tasks.append(asyncio.create_task(self._say(tone(hertz, 1.0).tobytes())))

    async def _hear(self):
        async for frame in self.link:
            assert len(frame) == FRAME_BYTES
            self.heard = np.concatenate((self.heard, np.frombuffer(frame, dtype="<i2")))

    async def _say(self, sound):
        loop, number = asyncio.get_running_loop(), 0
        began = loop.time()
        while not self.link.closed:
            start = number % 50 * FRAME_BYTES
            self.link.receive(sound[start : start + FRAME_BYTES])
            number += 1
            await asyncio.sleep(max(0.0, began + number * 0.02 - loop.time()))

    async def close(self):
        self.person.leave()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def phones():
    made = []

    def call(user_id, **options):
        made.append(Phone(user_id, **options))
        return made[-1]

    yield call
    for phone in made:
        await phone.close()


async def test_an_agent_and_a_person_hear_each_other_over_frames(on_call, phones):
    agent = await on_call()
    ears = Ears(agent)
    caller = phones("caller", hertz=440)
    assert caller.person.transport == "websocket"
    assert await next_event(caller.person, Media) == Media("websocket", "connected")
    assert await next_event(caller.person, Speaking) == Speaking(caller.person.participant.id, True)
    await speak(agent, 600, 1.0, rate=16_000)
    await until(lambda: loudness(caller.heard[-24_000:], 600) > 0.2)
    await until(lambda: loudness(ears.heard["caller"][-24_000:], 440) > 0.2)
    assert loudness(caller.heard, 440) < 0.05
    caller.link.close()
    assert caller.person.transport is None
    assert await next_event(caller.person, Media) == Media("websocket", "closed")
    await agent.events.wait()
    assert ears.told == [
        ("TrackAddedEvent", "AUDIO", "caller"),
        ("AudioReceivedEvent", "", "caller"),
        ("TrackRemovedEvent", "AUDIO", "caller"),
    ]


async def test_everybody_hears_all_agents_and_all_others(on_call, phones):
    one = await on_call()
    other = await on_call()
    ears = Ears(one)
    people = {300 * (number + 1): phones(f"p{number}", hertz=300 * (number + 1)) for number in range(3)}
    await asyncio.gather(speak(one, 2000, 2.0), speak(other, 2500, 2.0))
    for own, phone in people.items():
        for hertz in (*people, 2000, 2500):
            if hertz != own:
                await until(lambda phone=phone, hertz=hertz: loudness(phone.heard[-24_000:], hertz) > 0.15)
        assert loudness(phone.heard[-24_000:], own) < 0.02
    assert all(loudness(sound, 2500) < 0.01 for sound in ears.heard.values()), "agents hear people, not each other"


async def test_nothing_is_sent_but_a_little_silence_after_the_last_sound(on_call, phones):
    agent = await on_call()
    caller = phones("caller")
    await speak(agent, 600, 0.5)
    await next_event(caller.person, Speaking, lambda event: not event.speaking)
    await asyncio.sleep(0.3)
    length = len(caller.heard)
    assert 0.68 <= length / 48_000 <= 0.75
    await asyncio.sleep(0.3)
    assert len(caller.heard) == length


async def test_a_flush_is_heard_at_once_and_tells_how_much_of_the_reply_was_played(on_call, phones):
    agent = await on_call()
    caller = phones("caller")
    await agent.conversation.upsert_message("assistant", "a", "Long story", "m1", completed=False)
    await speak(agent, 600, 4.0)
    await until(lambda: len(caller.heard) >= 48_000)
    await agent.audio_track.flush()
    length = len(caller.heard)
    await next_event(caller.person, Speaking, lambda event: not event.speaking)
    cut = await next_event(caller.person, Happening, lambda event: event.kind == "interrupted")
    assert cut.agent_id == agent.id
    assert cut.data["message_id"] == "m1"
    assert 0.2 <= cut.data["heard"] <= 0.6
    await asyncio.sleep(0.4)
    after = caller.heard[length:]
    assert not after[3 * 960 :].any(), "no more than what was on its way"


async def test_a_reply_that_was_played_to_its_end_is_not_interrupted(on_call, phones):
    agent = await on_call()
    caller = phones("caller")
    await speak(agent, 600, 0.2)
    await next_event(caller.person, Speaking, lambda event: not event.speaking)
    await agent.audio_track.flush()
    caller.person.leave()
    assert not [e async for e in caller.person if isinstance(e, Happening) and e.kind == "interrupted"]


async def test_an_agents_state_follows_what_really_plays(on_call, phones):
    agent = await on_call()
    caller = phones("caller")
    states = []

    async def read():
        async for event in caller.person:
            if isinstance(event, Happening) and event.kind == "state":
                states.append(event.data["state"])

    reading = asyncio.create_task(read())
    await caller.person.say("hello")
    await speak(agent, 600, 0.3)
    await until(lambda: states[-3:] == ["thinking", "speaking", "listening"] or states[-1:] == ["listening"], 15)
    assert states[0] == "waiting" or states[0] == "listening"
    assert "thinking" in states
    assert "speaking" in states
    caller.person.leave()
    await reading


async def test_a_muted_person_is_not_heard_and_the_others_are_told(on_call, phones):
    agent = await on_call()
    ears = Ears(agent)
    caller, guest = phones("caller", hertz=440), phones("guest")
    await until(lambda: loudness(guest.heard[-4_800:], 440) > 0.2)
    caller.person.set_muted(True)
    told = await next_event(guest.person, Presence, lambda event: event.muted)
    assert told.participant_id == caller.person.participant.id
    await asyncio.sleep(0.5)
    assert not ears.heard["caller"][-4_800:].any(), "agents hear silence for a while: it ends the turn"
    length = len(guest.heard)
    caller.person.set_muted(False)
    await until(lambda: len(guest.heard) > length + 24_000 and loudness(guest.heard[-4_800:], 440) > 0.2)
    late = join_room("default", "c", "late")
    assert [e.muted async for e in _first(late, Presence, 3)] == [False, False, False]
    late.leave()


async def _first(person, kind, count):
    async for event in person:
        if isinstance(event, kind):
            yield event
            count -= 1
            if not count:
                return


async def test_listeners_hear_and_are_not_heard(on_call, phones):
    agent = await on_call()
    ears = Ears(agent)
    listener = phones("listener", may_speak=False)
    await speak(agent, 600, 0.5)
    await until(lambda: loudness(listener.heard[-4_800:], 600) > 0.2)
    with pytest.raises(PermissionError, match="listener"):
        listener.link.receive(bytes(FRAME_BYTES))
    with pytest.raises(PermissionError, match="listener"):
        await listener.person.say("hello")
    with pytest.raises(PermissionError, match="listener"):
        listener.person.receive_custom({})
    assert ears.told == []


async def test_frames_of_another_size_are_refused_and_too_many_are_dropped(on_call, phones):
    agent = await on_call()
    ears = Ears(agent)
    caller = phones("caller")
    with pytest.raises(ValueError, match="1920 bytes"):
        caller.link.receive(b"\0")
    for _ in range(500):
        caller.link.receive(tone(440, 0.02).tobytes())
    await agent.events.wait()
    assert 150 <= len(ears.frames) < 250


async def test_a_link_that_nobody_reads_holds_no_more_than_half_a_second(on_call):
    agent = await on_call()
    caller = join_room("default", "c", "caller")
    link = caller.open_pcm()
    await speak(agent, 600, 2.0)
    await next_event(caller, Speaking, lambda event: not event.speaking)
    caller.leave()
    assert [frame async for frame in link] == []
    caller = join_room("default", "c", "caller")
    link = caller.open_pcm()
    await speak(agent, 600, 2.0)
    await next_event(caller, Speaking, lambda event: not event.speaking)
    frames = []
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            async for frame in link:
                frames.append(frame)
    assert 0 < len(frames) <= 30
    caller.leave()
    with pytest.raises(NoMedia):
        caller.open_pcm()


async def test_custom_events_of_a_person_reach_the_agents(on_call):
    agent = await on_call()
    got = asyncio.Queue()

    async def on_custom(event: BrowserCustomEvent) -> None:
        await got.put((event.participant.user_id, event.data))

    on_custom.__annotations__["event"] = BrowserCustomEvent
    agent.events.subscribe(on_custom)
    caller = join_room("default", "c", "caller")
    caller.receive_custom({"clicked": "map"})
    assert await asyncio.wait_for(got.get(), 10) == ("caller", {"clicked": "map"})
    with pytest.raises(ValueError, match="5120 bytes"):
        caller.receive_custom({"text": "x" * 6000})
    with pytest.raises(TypeError):
        caller.receive_custom(["no object"])
    caller.leave()


@override_settings(VISIONAGENTS_RUNNER={"MAX_PEOPLE_PER_CALL": 2})
async def test_a_call_takes_so_many_people_and_no_more():
    people = [join_room("default", "c", "caller") for _ in range(2)]
    with pytest.raises(RoomFull, match="2"):
        join_room("default", "c", "caller")
    for person in people:
        person.leave()
    with pytest.raises(RoomClosed):
        people[0].room.join("caller")
