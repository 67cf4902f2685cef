"""`BrowserConnection`: one agent's place in a room."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vision_agents.core.edge.events import (
    AudioReceivedEvent,
    CallEndedEvent,
    ParticipantJoinedEvent,
    ParticipantLeftEvent,
    TrackAddedEvent,
    TrackRemovedEvent,
)
from vision_agents.core.edge.types import Connection, Participant, TrackType
from vision_agents.core.llm.llm import AudioLLM

from ..observe.conversation import Words
from ..utils.tasks import HeldTasks
from .audio import Samples
from .call import BrowserCall
from .conversation import RoomConversation
from .custom import BrowserCustomEvent
from .events import Presence, Speaking
from .room import Room, room_of
from .state import SETTLE_SECONDS, AgentState
from .video import VideoRelay
from .voice import AgentVoice, Reply, Source, source_of

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack
    from getstream.video.rtc import PcmData
    from vision_agents.core import Agent
    from vision_agents.core.events.manager import EventManager

PLUGIN_NAME = "browser"

UNREAD_FRAMES = 50
"""Frames after which what an agent without ears did not read is thrown away, 1 s."""

QUIET_FRAMES = 10
"""Frames without its voice, 200 ms, after which an agent is not speaking any more."""


class BrowserConnection(Connection):
    """Made by `BrowserEdge.join`; entering the room is part of making it."""

    def __init__(self, agent: Agent, call: BrowserCall, events: EventManager) -> None:
        self.agent = agent
        self.call = call
        self.conversation: RoomConversation | None = None
        self._events = events
        self._emptied_at = 0.0
        self._waiters: set[asyncio.Future[None]] = set()
        self._ending = HeldTasks()
        self._closed = False
        self._voice: Source | None = None
        self._quiet = QUIET_FRAMES
        self._unread = 0
        self._stop_overhearing: Callable[[], None] = lambda: None
        self.wants_video: bool = agent._needs_video()
        self.publishes_video: bool = agent.publish_video
        self.video: VideoRelay | None = None
        """What the agent shows to everybody."""

        self.room: Room = room_of(call.call_type, call.id)
        self.state = AgentState(agent, self.room.tell)
        self.room.attach(self)
        self.state.people_there(bool(self.room.people))

    async def close(self) -> None:
        """Leave the room. Closing twice does nothing."""
        self._closed = True
        self._emptied_at = 0.0
        self._stop_overhearing()
        self._fall_silent()
        self.state.close()
        voice, self._voice = self._voice, None
        if voice is not None:
            voice.close()
        video, self.video = self.video, None
        if video is not None:
            video.close()
        self.room.detach(self)
        self._wake()

    def publish(self, audio: MediaStreamTrack | None, video: MediaStreamTrack | None) -> None:
        """Let the people hear and see these tracks."""
        if audio is not None and self._voice is None:
            self._voice = source_of(audio)
            self._voice.on_audio = self.room.pump.wake
            if isinstance(self._voice, AgentVoice):
                self._voice.on_cut = self._interrupted
            self.room.pump.wake()
        if video is not None and self.video is None:
            self.video = VideoRelay(video)
        if self.publishes_video:
            self.room.renegotiate()

    def converse(self, conversation: RoomConversation) -> None:
        """Let the people read what is written into the agent's conversation."""
        self.conversation = conversation
        self._stop_overhearing = conversation.tell_words_to(self._overhear)

    async def wait_for_participant(self, timeout: float | None = None) -> None:
        """Return as soon as a person is in the room, at once if one is.

        Raises:
            TimeoutError: nobody came within ``timeout`` seconds.
            ConnectionError: the agent left the room first.
        """
        if not self.room.people and not self._closed:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait_for(waiter, timeout)
            finally:
                self._waiters.discard(waiter)
        if self._closed:
            raise ConnectionError("The agent left the call while it waited for somebody to join")

    def idle_since(self) -> float:
        """When the last person left, as of ``time.time()``; 0.0 while somebody is there, and before anybody came."""
        return self._emptied_at

    # The room's side

    @property
    def name(self) -> str:
        """What people call the agent."""
        user = self.agent.agent_user
        return user.name or user.id or ""

    def presence(self, *, here: bool) -> Presence:
        user = self.agent.agent_user
        return Presence(
            user_id=user.id or "",
            participant_id=self.agent.id,
            name=self.name,
            is_agent=True,
            here=here,
            wants_video=self.wants_video,
            publishes_video=self.publishes_video,
            publishes_audio=self.agent.publish_audio,
        )

    def person_joined(self, participant: Participant) -> None:
        self._emptied_at = 0.0
        self.state.people_there(True)
        self._events.send(ParticipantJoinedEvent(plugin_name=PLUGIN_NAME, participant=participant, call=self.call))
        self._wake()

    def person_left(self, participant: Participant) -> None:
        if not self.room.people:
            self._emptied_at = time.time()
            if self._voice is not None:
                self._voice.clear()  # whoever comes next would hear the end of what was said to others
            self._fall_silent()
            self.state.people_there(False)
        self._events.send(ParticipantLeftEvent(plugin_name=PLUGIN_NAME, participant=participant, call=self.call))

    async def hear(self, participant: Participant, text: str, message_id: str) -> None:
        """Store what a person typed in the agent's conversation and ask the agent to reply."""
        self.state.turn(True)
        if self.conversation is not None:
            await self.conversation.send_message("user", participant.user_id, text, message_id=message_id)
        await self.agent.simple_response(text, participant=participant)

    def audio_received(self, participant: Participant, pcm: PcmData, *, audible: bool) -> None:
        if audible:
            self.state.voiced(participant.id, time.monotonic())
        self._drop_unread()
        self._events.send(AudioReceivedEvent(plugin_name=PLUGIN_NAME, participant=participant, pcm_data=pcm))

    def track_added(self, participant: Participant, track_id: str, track_type: TrackType) -> None:
        self._events.send(
            TrackAddedEvent(plugin_name=PLUGIN_NAME, participant=participant, track_id=track_id, track_type=track_type)
        )

    def track_removed(self, participant: Participant, track_id: str, track_type: TrackType) -> None:
        self._events.send(
            TrackRemovedEvent(
                plugin_name=PLUGIN_NAME, participant=participant, track_id=track_id, track_type=track_type
            )
        )

    def custom_received(self, participant: Participant, data: dict[str, Any]) -> None:
        self._events.send(BrowserCustomEvent(plugin_name=PLUGIN_NAME, participant=participant, data=data))

    # The pump's side

    @property
    def audible(self) -> bool:
        """Whether the agent's voice is playing, or waits to be played."""
        return self._quiet < QUIET_FRAMES or (self._voice is not None and self._voice.waiting > 0)

    def play(self) -> Samples | None:
        """The next frame of the agent's voice; None if it says nothing now."""
        frame = self._voice.take() if self._voice is not None else None
        if frame is not None:
            if self._quiet >= QUIET_FRAMES:
                self._speaking(True)
            if self._quiet:
                self.state.played(time.monotonic())
            self._quiet = 0
        elif self._quiet < QUIET_FRAMES:
            self._quiet += 1
            if self._quiet == QUIET_FRAMES:
                self._speaking(False)
        return frame

    def _drop_unread(self) -> None:
        """Empty the audio stream of an agent that neither recognises speech nor has a model that listens.

        vision-agents 0.6.9 fills it without bound, and then nobody reads it: 350 MB an hour for each person.
        """
        if self.agent.stt is None and not isinstance(self.agent.llm, AudioLLM):
            self._unread += 1
            if self._unread >= UNREAD_FRAMES:
                self._unread = 0
                self.agent._audio_input_stream.clear()

    def _fall_silent(self) -> None:
        if self._quiet < QUIET_FRAMES:
            self._quiet = QUIET_FRAMES
            self._speaking(False)

    def _speaking(self, speaking: bool) -> None:
        self.room.tell(Speaking(self.agent.id, speaking))
        self.state.speaking(speaking)

    def _interrupted(self, cut: list[Reply]) -> None:
        self.room.trim()
        self._fall_silent()
        for reply in cut:
            self.state.happened("interrupted", {"message_id": reply.message_id, "heard": round(reply.heard, 3)})

    def _overhear(self, words: Words) -> None:
        shown = self.state.shown(words)
        if shown is not None:
            self.room.overhear(shown)
        if words.role != "assistant":
            return
        if isinstance(self._voice, AgentVoice):
            self._voice.begin_reply(words.message_id)
        if words.completed:
            self.state.turn(False, after=SETTLE_SECONDS)

    def call_ended(self) -> None:
        """Tell the agent that the call is over.

        The agent closes itself inside its handler of this event, and closing cancels and awaits every handler that the
        event bus knows, this one included: neither would ever end, and ``agent.closed`` never become True
        (vision-agents 0.6.9). So the bus must not know of it; the reference is kept here instead.
        """
        known: set[asyncio.Task[None]] = self._events._handler_tasks
        before = set(known)
        self._events.send(CallEndedEvent(plugin_name=PLUGIN_NAME, call=self.call))
        started = known - before
        known.difference_update(started)
        for task in started:
            self._ending.hold(task)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
