"""`BrowserEdge`: the edge transport over the rooms of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vision_agents.core.edge import Call, EdgeTransport
from vision_agents.core.edge.types import User

from .call import BrowserCall
from .connection import BrowserConnection
from .conversation import RoomConversation
from .custom import BrowserCustomEvent
from .room import Room, find_room
from .video import VideoFeed
from .voice import AgentVoice

if TYPE_CHECKING:
    import aiortc
    from vision_agents.core import Agent


class BrowserEdge(EdgeTransport[BrowserCall]):
    """Connects one agent to one room; every agent needs an edge of its own. It needs no account, key or network."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events.register(BrowserCustomEvent)
        self.user: User | None = None
        self.audio_track: aiortc.MediaStreamTrack | None = None
        self.video_track: aiortc.MediaStreamTrack | None = None
        self.connection: BrowserConnection | None = None

    @property
    def room(self) -> Room | None:
        """The room that the agent is in; None before it joined and after it left."""
        return self.connection.room if self.connection is not None else None

    async def authenticate(self, user: User) -> None:
        """Take note of the agent's user. There is nobody to prove anything to: room and agent share a process."""
        self.user = user

    async def create_call(self, call_id: str, call_type: str = "default", **kwargs: Any) -> BrowserCall:
        return BrowserCall(call_type=call_type, id=call_id)

    async def join(self, agent: Agent, call: BrowserCall, **kwargs: Any) -> BrowserConnection:
        """Let the agent into the room, which opens if it is the first. Who may not hear it has left by then.

        Raises:
            RuntimeError: this edge is in a room already.
        """
        if self.connection is None and (room := find_room(call.call_type, call.id)) is not None:
            await room.vet()
        if self.connection is not None:
            raise RuntimeError("This BrowserEdge is in a room already: give every agent an edge of its own")
        self.connection = BrowserConnection(agent, call, self.events)
        return self.connection

    def create_audio_track(self) -> AgentVoice:
        """The track that the agent writes its voice to; the room plays it."""
        return AgentVoice()

    async def publish_tracks(
        self, audio_track: aiortc.MediaStreamTrack | None, video_track: aiortc.MediaStreamTrack | None
    ) -> None:
        """Let the people of the room hear and see these tracks; they may be the agent's own.

        Raises:
            RuntimeError: the agent is in no room.
        """
        self.audio_track, self.video_track = audio_track, video_track
        self._connected().publish(audio_track, video_track)

    def add_track_subscriber(self, track_id: str) -> VideoFeed | None:
        """The newest frames of somebody's camera, as a track of its own; None if there is no such track any more.

        A frame that is not read before the next one comes is lost: nothing queues.
        """
        return self.connection.room.watch(track_id) if self.connection is not None else None

    async def create_conversation(self, call: Call, user: User, instructions: str) -> RoomConversation:
        """Return a conversation whose words, partial ones too, reach the people of the room."""
        connection = self._connected()
        conversation = RoomConversation(instructions, agent_id=connection.agent.id)
        connection.converse(conversation)
        return conversation

    async def send_custom_event(self, data: dict[str, Any]) -> None:
        """Send ``data`` to every person in the room.

        Raises:
            RuntimeError: the agent is in no room.
            TypeError, ValueError: it is not JSON, or more than 5 KB of it.
        """
        connection = self._connected()
        connection.room.broadcast(data, agent_id=connection.agent.id)

    def open_demo(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: people join through the room, and there is no page of this edge to open."""

    async def close(self) -> None:
        """Leave the room.

        The agent closes its connection only after all of its components have closed; one that hangs must not keep the
        agent in the room.
        """
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.close()

    def _connected(self) -> BrowserConnection:
        if self.connection is None:
            raise RuntimeError("The agent is not connected to a call")
        return self.connection
