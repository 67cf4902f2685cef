"""`Pump`: mixes, every 20 ms, what each person of a room hears."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .audio import SILENCE, Samples, mix
from .clock import clock

if TYPE_CHECKING:
    from .people import Person
    from .room import Room

TAIL_FRAMES = 10
"""Frames of silence after the last sound, 200 ms: a browser that gets nothing at once fills in sound of its own."""


class Pump:
    """Everybody hears all agents and all other people. It rests while nothing is to be played."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._clock = clock()
        self._closed = False

    def wake(self) -> None:
        """There may be something to play."""
        if not self._closed:
            self._clock.add(self)

    def close(self) -> None:
        self._closed = True
        self._clock.discard(self)

    def tick(self, number: int) -> None:
        people = tuple(self._room.people.values())
        hearing = [person for person in people if person.media.transport is not None]
        if not hearing and any(person.media.expected for person in people):
            return
        if not people:
            self._clock.discard(self)
            return
        busy = False
        voices: list[Samples] = []
        for connection in self._room.agents:
            frame = connection.play()
            if frame is not None:
                voices.append(frame)
            busy = busy or connection.audible
        spoken: dict[Person, Samples] = {}
        if len(people) > 1:
            for person in people:
                frame = person.media.playout.take()
                if frame is not None:
                    spoken[person] = frame
                busy = busy or person.media.playout.playing
        if self._send(hearing, voices, spoken, number) or busy:
            return
        self._clock.discard(self)

    def _send(self, hearing: list[Person], voices: list[Samples], spoken: dict[Person, Samples], number: int) -> bool:
        """Send the frame to everybody; return whether there is more to send to somebody."""
        everything = [*voices, *spoken.values()]
        shared = mix(everything) if everything else None
        more = False
        for person in hearing:
            sound = shared
            if person in spoken:
                others = voices + [frame for other, frame in spoken.items() if other is not person]
                sound = mix(others) if others else None
            media = person.media
            if sound is not None:
                media.tail = TAIL_FRAMES
                media.send(sound, number)
            elif media.tail:
                media.tail -= 1
                media.send(SILENCE, number)
            more = more or media.tail > 0
        return more
