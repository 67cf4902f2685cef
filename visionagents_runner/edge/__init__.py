"""`BrowserEdge`: an edge transport in this process. A call is a room that people and agents join.

What people type and what agents answer passes through the room. Audio and video do not yet: an agent's audio track is
kept, and nobody hears it.
"""

from .call import BrowserCall
from .conversation import RoomConversation, watch_words
from .edge import BrowserEdge
from .events import CustomEvent, Presence, RoomEvent, Words
from .people import Person
from .room import Room, RoomClosed, find_room, join_room, open_rooms

__all__ = [
    "BrowserCall",
    "BrowserEdge",
    "CustomEvent",
    "Person",
    "Presence",
    "Room",
    "RoomClosed",
    "RoomConversation",
    "RoomEvent",
    "Words",
    "find_room",
    "join_room",
    "open_rooms",
    "watch_words",
]
