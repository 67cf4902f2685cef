"""`Peer`: one person's WebRTC connection, from offer to close.

What one connection can take, whatever is sent to it: 256 packets unread and 128 that wait for others (0.8 MB), 256 KB
of messages, as much again to be sent, 128 packets for retransmission of each stream (0.4 MB), and for a camera 1 MB
undecoded and 10 pictures (35 MB at 1920 by 1200): 4 MB with sound alone, 40 MB with a camera; besides, 256 KB of the
kernel for each address of the machine. Whoever sends what no browser does, and goes on with it, is shut out.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from aioice import stun
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.codecs import get_capabilities
from aiortc.mediastreams import MediaStreamTrack
from OpenSSL import SSL

from ..conf.settings import get_settings
from ..utils.garbage import collect_soon
from ..utils.tasks import spawn
from .audio import Samples
from .background import in_background
from .bounds import refused
from .ice_guard import IceGuard
from .offers import BadOffer, Offer, has_candidates, limit_video
from .opus import OpusIn, OpusOut, opus_only
from .rtp import RtpWatch, take_decoder
from .sctp import SctpWatch
from .video import MAX_OUT_FPS, VideoFeed, VideoRelay
from .vp8 import Vp8In

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
CONNECT_SECONDS = 15.0
CLOSE_SECONDS = 5.0
WATCH_SECONDS = 2.5
CONSENT_FAILURES = 2
"""Unanswered questions, of 3.5 s each, after which the other side is gone. aioice by itself takes 30 s and more."""

PAUSED_SECONDS = 5.0
"""Without a packet of audio or a frame of video for so long, the track counts as removed until one comes."""

CHANNEL = "events"


class NoMedia(ConnectionError):
    """WebRTC cannot work here: nothing to connect to, or nothing that answers in time."""


class Owner(Protocol):
    """Whose connection it is."""

    @property
    def may_speak(self) -> bool: ...
    def receive(self, samples: Samples) -> None: ...
    def audio_paused(self) -> None: ...
    def video_shown(self, peer: Peer) -> None: ...
    def video_hidden(self, peer: Peer) -> None: ...
    def channel_message(self, message: str | bytes) -> None: ...
    def peer_connected(self, peer: Peer) -> None: ...
    def peer_ended(self, peer: Peer, state: str, detail: str = "") -> None: ...
    def wants_video(self) -> bool: ...
    def published_video(self) -> VideoRelay | None: ...


class Peer:
    """Never waits without bound, and leaves nothing behind once `close` was called."""

    def __init__(self, owner: Owner, offer: Offer) -> None:
        self.connected = False
        self.out = OpusOut()
        self.camera: VideoRelay | None = None
        """What the person's camera shows, while the browser sends and an agent wants it."""

        self._owner = owner
        self._session = offer.session
        self._busy = asyncio.Lock()
        self._closing = False
        self._came = asyncio.Event()
        self._audio_in: OpusIn | None = None
        self._video_in: Vp8In | None = None
        self._video_out: VideoFeed | None = None
        self._watched: set[Any] = set()
        self._camera_wanted = False
        self._channel: RTCDataChannel | None = None
        servers = [RTCIceServer(**server) for server in get_settings().ICE_SERVERS]
        self._connection = RTCPeerConnection(
            RTCConfiguration(iceServers=servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        _never_renegotiate(self._connection)
        self._connection.on("track", self._on_track)
        self._connection.on("datachannel", self._on_channel)
        self._connection.on("connectionstatechange", self._on_state)
        self._watching = spawn(self._watch(), name="webrtc-watch")

    @property
    def closed(self) -> bool:
        return self._closing

    @property
    def channel_open(self) -> bool:
        return self._channel is not None and self._channel.readyState == "open" and not self._closing

    def continues(self, offer: Offer) -> bool:
        """Whether the offer is of the same connection of the browser, and not of a new one."""
        return not self._closing and offer.session == self._session

    async def answer(self, offer: Offer) -> str:
        """
        Raises:
            BadOffer: it cannot be agreed with.
            NoMedia: this machine has no address that the browser could reach, or it took too long.
        """
        async with self._busy:
            if self._closing:
                raise NoMedia("The connection was closed meanwhile")
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._take(offer)
                    await self._connection.setLocalDescription()
            except TimeoutError:
                raise NoMedia("WebRTC took too long to be set up") from None
        sdp = self._connection.localDescription.sdp
        if not has_candidates(sdp):
            raise NoMedia("This machine has no network address for WebRTC")
        return limit_video(sdp)

    async def _take(self, offer: Offer) -> None:
        known = {transceiver.kind for transceiver in self._connection.getTransceivers()}
        if "audio" in offer.kinds and "audio" not in known:
            transceiver = self._connection.addTransceiver(self.out)
            transceiver.setCodecPreferences(opus_only())
            take_decoder(transceiver.receiver)
        if "video" in offer.kinds and "video" not in known:
            self._video_out = VideoFeed(outlives_source=True, max_fps=MAX_OUT_FPS)
            transceiver = self._connection.addTransceiver(self._video_out)
            transceiver.setCodecPreferences(_vp8())
            self._video_in = Vp8In(transceiver.receiver)
        try:
            await self._connection.setRemoteDescription(RTCSessionDescription(sdp=offer.sdp, type="offer"))
        except Exception as error:
            raise BadOffer("The offer cannot be agreed with: it needs Opus for audio and VP8 for video") from error
        self._watch_transports()
        for transceiver in self._connection.getTransceivers():
            self._direct(transceiver)

    def _watch_transports(self) -> None:
        # There are no sockets yet: they come with the answer.
        for transport in {*self._transports()} - self._watched:
            self._watched.add(transport)
            IceGuard(transport.transport._connection, self._refuse)
            RtpWatch(transport, self._refuse)
        sctp = self._connection.sctp
        if sctp is not None and sctp not in self._watched:
            self._watched.add(sctp)
            SctpWatch(sctp, self._refuse)

    def _refuse(self, why: str) -> None:
        """End it, because of what the other side sends."""
        if not self._closing:
            refused["connections"] += 1
            logger.warning("A WebRTC connection is closed: %s", _lower(why))
            self._owner.peer_ended(self, "failed", why)
            self.close()

    def _direct(self, transceiver: RTCRtpTransceiver) -> None:
        offered = transceiver._offerDirection or "inactive"
        comes, goes = offered in ("recvonly", "sendrecv"), offered in ("sendonly", "sendrecv")
        if transceiver.kind == "audio":
            comes = comes and self._owner.may_speak
            if self._audio_in is None and transceiver._codecs:
                self._audio_in = OpusIn(transceiver.receiver, transceiver._codecs[0], self._owner.receive)
        else:
            relay = self._owner.published_video()
            comes = comes and self._owner.may_speak and self._owner.wants_video()
            goes = goes and relay is not None
            self.show(relay)
            if not comes and self.camera is not None:
                self._owner.video_hidden(self)
            self._camera_wanted = comes
        transceiver.direction = _DIRECTIONS[comes, goes]

    def show(self, relay: VideoRelay | None) -> None:
        """Show an agent's video to the person, as far as it was negotiated."""
        if self._video_out is None or self._video_out.relay is relay:
            return
        if relay is not None:
            relay.subscribe(self._video_out)
        elif self._video_out.relay is not None:
            self._video_out.relay.unsubscribe(self._video_out)

    def send_custom(self, message: str) -> bool:
        """Send over the data channel; False if it is not open, or the browser does not read."""
        if not self.channel_open or self._channel is None or self._channel.bufferedAmount > 256 * 1024:
            return False
        self._channel.send(message)
        return True

    def close(self) -> None:
        """Close in the background, in bounded time. Closing twice does nothing."""
        if self._closing:
            return
        self._closing = True
        if self._watching is not asyncio.current_task():
            self._watching.cancel()
        self.out.stop()
        if self._video_out is not None:
            self._video_out.stop()
        if self.camera is not None:
            self.camera.close()
        if self._video_in is not None:
            self._video_in.stop()
        in_background(self._shut(), name="webrtc-close")

    async def _shut(self) -> None:
        # An answer that is under way would open sockets after the close.
        async with self._busy:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._connection.close()
            except TimeoutError:
                logger.warning("A WebRTC connection did not close in %s s", CLOSE_SECONDS)
                for transport in self._transports():
                    for protocol in transport.transport._connection._protocols:
                        protocol.transport.close()
        self._connection.remove_all_listeners()
        self._channel = None
        collect_soon()

    # What aiortc tells

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "video" and self.camera is None and self._video_in is not None and not self._closing:
            self.camera = VideoRelay(self._video_in, always=True, on_frame=self._on_camera)

    def _on_camera(self) -> None:
        if self._camera_wanted:
            self._owner.video_shown(self)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if channel.label != CHANNEL or self.channel_open:
            channel.close()
            return
        self._channel = channel
        channel.on("message", self._owner.channel_message)

    def _on_state(self) -> None:
        state = self._connection.connectionState
        if self._closing:
            return
        if state == "connected":
            self._came.set()
            if not self.connected:
                self.connected = True
                self._owner.peer_connected(self)
        elif state in ("failed", "closed"):
            self._owner.peer_ended(self, "closed" if state == "closed" and self.connected else "failed")

    # Whether anybody is there

    async def _watch(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._came.wait()
        except TimeoutError:
            self._owner.peer_ended(self, "failed")
            return
        packets, paused_since, failures = 0, 0.0, 0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = loop.time()
            if self.camera is not None and now - self.camera.frame_at > PAUSED_SECONDS:
                self._owner.video_hidden(self)
            seen = self._audio_in.packets if self._audio_in is not None else 0
            if seen != packets:
                packets, paused_since, failures = seen, now, 0
                continue
            if now - paused_since > PAUSED_SECONDS:
                self._owner.audio_paused()
            failures = 0 if await self._consents() else failures + 1
            if failures >= CONSENT_FAILURES:
                self._owner.peer_ended(self, "failed")
                return

    async def _consents(self) -> bool:
        """Ask the other side over ICE whether it is there (RFC 7675); repeated for 3.5 s."""
        for transport in {transport.transport for transport in self._transports()}:
            connection = transport._connection
            if not connection._nominated or connection.remote_password is None:
                return False
            for pair in tuple(connection._nominated.values()):
                request = connection.build_request(pair, nominate=False)
                key = connection.remote_password.encode()
                try:
                    await pair.protocol.request(request, pair.remote_addr, integrity_key=key, retransmissions=2)
                except stun.TransactionError:
                    return False
        return True

    def _transports(self) -> list[Any]:
        found = [transceiver.receiver.transport for transceiver in self._connection.getTransceivers()]
        if self._connection.sctp is not None:
            found.append(self._connection.sctp.transport)
        return found


def _never_renegotiate(connection: Any) -> None:
    """Encrypt as agreed at the beginning: to agree again takes as long as a hundred packets, and no browser does."""
    [certificate] = connection._RTCPeerConnection__certificates
    make = certificate._create_ssl_context

    def make_context(srtp_profiles: list[Any]) -> SSL.Context:
        context: SSL.Context = make(srtp_profiles)
        context.set_options(SSL.OP_NO_RENEGOTIATION)
        return context

    certificate._create_ssl_context = make_context


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


_DIRECTIONS: dict[tuple[bool, bool], str] = {
    (True, True): "sendrecv",
    (True, False): "recvonly",
    (False, True): "sendonly",
    (False, False): "inactive",
}


def _vp8() -> list[Any]:
    return [codec for codec in get_capabilities("video").codecs if codec.mimeType in ("video/VP8", "video/rtx")]
