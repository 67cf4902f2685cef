"""`PersonMedia`: what one person says and hears, whichever way it travels."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Any

from getstream.video.rtc import PcmData
from vision_agents.core.edge.types import TrackType

from ..conf.settings import get_settings
from ..exceptions import TooMany
from ..quotas.bucket import Bucket
from .audio import RATE, SILENCE, Gate, Samples, power
from .bounds import custom_event, refused
from .events import Media, Renegotiate, Speaking
from .offers import BadOffer, read_offer
from .pcm import PcmLink
from .playout import Playout
from .video import VideoFeed, VideoRelay
from .webrtc import NoMedia, Peer

if TYPE_CHECKING:
    from .people import Person

logger = logging.getLogger(__name__)

MUTED_FRAMES = 75
"""Frames of silence that agents still hear after somebody muted, 1.5 s: they end the turn."""

EXPECTED_SECONDS = 3.0
"""For so long after somebody came, an agent's voice waits for the way to them."""

KEPT_FRAMES = 2
"""What is still heard of an agent that was interrupted: 40 ms."""


class PersonMedia:
    """At most one way is in use: a newer one replaces an older as soon as it works."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.playout = Playout()
        self.tail = 0
        """Frames of silence that this person is still owed after the last sound."""

        self._came_at = time.monotonic()
        self._heard_before = False
        self._peer: Peer | None = None
        self._link: PcmLink | None = None
        self._negotiating = asyncio.Lock()
        self._gate = Gate()
        self._rate = Bucket(rate=60, burst=150)
        self._muted_left = 0
        self._audio_added = False
        self._video_id: str | None = None
        self._videos = 0

    @property
    def may_speak(self) -> bool:
        return self.person.may_speak

    @property
    def transport(self) -> str | None:
        if self._link is not None:
            return "websocket"
        return "webrtc" if self._peer is not None and self._peer.connected else None

    @property
    def expected(self) -> bool:
        """Whether there is no way to the person yet, but likely to be one soon."""
        if self.transport is not None or self._heard_before:
            return False
        return self._peer is not None or time.monotonic() - self._came_at < EXPECTED_SECONDS

    @property
    def channel_open(self) -> bool:
        return self._peer is not None and self._peer.channel_open

    # To the person

    def send(self, samples: Samples, number: int) -> None:
        if self._link is not None:
            self._link.push(samples, number)
        elif self._peer is not None:
            self._peer.out.push(samples, number)

    def trim(self) -> None:
        """An agent was interrupted: what waits to be sent is not worth hearing."""
        if self._link is not None:
            self._link.trim(KEPT_FRAMES)
        if self._peer is not None:
            self._peer.out.trim(KEPT_FRAMES)

    def send_custom(self, data: Any, agent_id: str) -> bool:
        message = json.dumps({"type": "custom", "data": data, "agent_id": agent_id}, ensure_ascii=False)
        return self._peer is not None and self._peer.send_custom(message)

    def show(self, relay: VideoRelay | None) -> None:
        if self._peer is not None:
            self._peer.show(relay)

    # From the person

    def receive(self, samples: Samples) -> None:
        """Take a frame of what the person says.

        Raises:
            PermissionError: the person may only listen.
        """
        person = self.person
        if not self.may_speak:
            raise PermissionError("Who joined as a listener cannot speak: join as a speaker")
        if not person.here or not self._rate.take():
            return
        if person.muted:
            if not self._muted_left:
                return
            self._muted_left -= 1
            samples = SILENCE
        if not self._audio_added:
            self._audio_added = True
            person.room.track_added(person, self._audio_id, TrackType.AUDIO)
        changed = self._gate.feed(power(samples))
        if changed:
            self._tell_speaking()
        pcm = PcmData(RATE, "s16", samples, participant=person.participant)
        person.room.heard(person, pcm, audible=self._gate.loud)
        if len(person.room.people) > 1:
            if changed and not self._gate.open:
                self.playout.settle()
            self.playout.push(samples, audible=self._gate.open)
            if self.playout.playing:
                person.room.pump.wake()

    def receive_custom(self, data: Any) -> None:
        """See `Person.receive_custom`."""
        if not self.may_speak:
            raise PermissionError("Who joined as a listener cannot send events: join as a speaker")
        self.person.room.custom_received(self.person, json.loads(custom_event(data)))

    def mute(self, muted: bool) -> None:
        self._muted_left = MUTED_FRAMES if muted else 0
        if muted:
            self.playout.clear()
            if self._gate.shut():
                self._tell_speaking()

    # Ways

    async def negotiate(self, sdp: str) -> str:
        """See `Person.negotiate`."""
        try:
            offer = read_offer(sdp, speaks_first=bool(get_settings().ICE_SERVERS))
        except BadOffer:
            refused["offers"] += 1
            raise
        async with self._negotiating:
            if not self.person.here:
                raise NoMedia("Who has left the room cannot connect to it")
            peer = self._peer
            first = peer is None or not peer.continues(offer)
            if peer is None or first:
                self._drop_peer()
                peer = self._peer = Peer(self, offer)
                self._tell(Media("webrtc", "connecting"))
            try:
                answer = await peer.answer(offer)
            except NoMedia:
                self.peer_ended(peer, "failed")
                raise
            except BaseException:
                if first and peer is self._peer:
                    self._drop_peer()
                raise
            return answer

    def open_pcm(self) -> PcmLink:
        if not self.person.here:
            raise NoMedia("Who has left the room cannot connect to it")
        if self._link is not None:
            self._link.shut()
        self._drop_peer()
        self._link = PcmLink(self)
        self._connected("websocket")
        return self._link

    def close(self) -> None:
        """Tell the agents that the tracks are gone, and close what is open in the background."""
        self._drop_peer()
        if self._link is not None:
            link, self._link = self._link, None
            link.shut()
        self.audio_paused()
        self.playout.clear()

    def link_closed(self, link: PcmLink) -> None:
        if link is self._link:
            self._link = None
            self.audio_paused()
            self._tell(Media("websocket", "closed"))

    def _connected(self, transport: str) -> None:
        self._heard_before = True
        self._tell(Media(transport, "connected"))
        self.person.room.pump.wake()

    def _drop_peer(self) -> None:
        peer, self._peer = self._peer, None
        if peer is not None:
            self._hide_video()
            self.audio_paused()
            peer.close()

    # The peer's side

    def peer_connected(self, peer: Peer) -> None:
        if peer is not self._peer:
            return
        if self._link is not None:
            link, self._link = self._link, None
            link.shut()
            self._tell(Media("websocket", "closed"))
        self._connected("webrtc")

    def peer_ended(self, peer: Peer, state: str, detail: str = "") -> None:
        if peer is not self._peer:
            return
        self._drop_peer()
        self._tell(Media("webrtc", state, detail))

    def channel_message(self, message: str | bytes) -> None:
        """A message of the data channel: it is dropped where it is none, too large, or one of too many."""
        if not isinstance(message, str) or len(message) > 16 * 1024:
            return
        try:
            self.person.spend("events")
            parsed = json.loads(message)
            if isinstance(parsed, dict) and parsed.get("type") == "custom":
                self.receive_custom(parsed.get("data"))
        except (ValueError, TypeError, RecursionError, PermissionError, TooMany) as error:
            logger.debug("A message of %s's data channel was dropped: %s", self.person, error)

    def audio_paused(self) -> None:
        if self._gate.shut():
            self._tell_speaking()
        self.playout.settle()
        if self._audio_added:
            self._audio_added = False
            self.person.room.track_removed(self.person, self._audio_id, TrackType.AUDIO)

    def video_shown(self, peer: Peer) -> None:
        if peer is self._peer and self._video_id is None:
            self._videos += 1
            self._video_id = f"{self.person.participant.id}:video:{self._videos}"
            self.person.room.track_added(self.person, self._video_id, TrackType.VIDEO)

    def video_hidden(self, peer: Peer) -> None:
        if peer is self._peer:
            self._hide_video()

    def wants_video(self) -> bool:
        return self.person.room.wants_video

    def published_video(self) -> VideoRelay | None:
        return self.person.room.published_video

    # The room's side

    def tracks(self) -> list[tuple[str, TrackType]]:
        """What agents can hear and see of the person now."""
        found = [(self._audio_id, TrackType.AUDIO)] if self._audio_added else []
        return found + ([(self._video_id, TrackType.VIDEO)] if self._video_id is not None else [])

    def watch(self, track_id: str) -> VideoFeed | None:
        """A feed of the person's camera; None if that is not its track."""
        if track_id != self._video_id or self._peer is None or self._peer.camera is None:
            return None
        return self._peer.camera.subscribe(VideoFeed())

    def renegotiate(self) -> None:
        self._tell(Renegotiate())

    # Within

    @property
    def _audio_id(self) -> str:
        return f"{self.person.participant.id}:audio"

    def _hide_video(self) -> None:
        if self._video_id is not None:
            track_id, self._video_id = self._video_id, None
            self.person.room.track_removed(self.person, track_id, TrackType.VIDEO)

    def _tell_speaking(self) -> None:
        self.person.room.tell(Speaking(self.person.participant.id, self._gate.open))

    def _tell(self, event: Media | Renegotiate) -> None:
        if self.person.here:
            self.person.deliver(event)
