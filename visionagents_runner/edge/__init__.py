"""`BrowserEdge`: an edge transport in this process. A call is a room that people and agents join.

People hear the agents and each other, over WebRTC or over plain PCM frames, and agents hear the people. Cameras reach
the agents that look at them, and the video of an agent reaches everybody. What is typed and said, who is there, who
speaks and what agents do reaches people as events.

| file | has |
|---|---|
| `room`, `people`, `connection` | who is there: `Room`, `Person`, an agent's `BrowserConnection` |
| `edge`, `call`, `conversation`, `custom` | what an agent sees: `BrowserEdge` |
| `media` | what one person says and hears, whichever way it travels |
| `webrtc`, `opus`, `vp8` | one way: aiortc |
| `offers`, `candidates`, `ice_guard`, `rtp`, `sctp` | what strangers may make of that way |
| `pcm` | the other way: frames of 20 ms |
| `voice`, `playout`, `pump`, `clock`, `audio` | the mix, every 20 ms |
| `video` | one reader a track, the newest frame to all who watch |
| `state`, `events` | what people are told |

Everything belongs to one event loop. Nothing queues without bound, and whoever leaves or vanishes leaves nothing.
"""

from ..observe.conversation import Words, watch_words
from .bounds import MAX_CUSTOM_EVENT_BYTES
from .call import BrowserCall
from .conversation import RoomConversation
from .custom import BrowserCustomEvent
from .edge import BrowserEdge
from .events import CustomEvent, Happening, Media, Presence, Renegotiate, RoomEvent, Speaking
from .offers import BadOffer
from .pcm import PcmLink
from .people import Person
from .room import Room, RoomClosed, RoomFull, Share, find_room, join_room, open_rooms
from .webrtc import NoMedia

__all__ = [
    "MAX_CUSTOM_EVENT_BYTES",
    "BadOffer",
    "BrowserCall",
    "BrowserCustomEvent",
    "BrowserEdge",
    "CustomEvent",
    "Happening",
    "Media",
    "NoMedia",
    "PcmLink",
    "Person",
    "Presence",
    "Renegotiate",
    "Room",
    "RoomClosed",
    "RoomConversation",
    "RoomEvent",
    "RoomFull",
    "Share",
    "Speaking",
    "Words",
    "find_room",
    "join_room",
    "open_rooms",
    "watch_words",
]
