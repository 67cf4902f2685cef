"""Reads WebRTC offers, which come from strangers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aiortc.sdp import SessionDescription

MAX_OFFER_BYTES = 64 * 1024
MAX_CANDIDATES = 64
MAX_LINES = 2000
KINDS = ("audio", "video", "application")

VIDEO_KBPS = 800
"""What a browser is asked not to exceed with its camera."""


class BadOffer(ValueError):
    """The offer is malformed, too large, or asks for what a room does not have."""


@dataclass(frozen=True, slots=True)
class Offer:
    sdp: str
    """As it came, but for the candidates that only a query on the local network could resolve."""

    session: str
    """Names the browser's connection: a later offer of the same one changes it, of another replaces it."""

    kinds: frozenset[str]
    """Which of "audio", "video" and "application" it has a section for."""


def read_offer(sdp: str) -> Offer:
    """
    Raises:
        BadOffer: with a sentence about what is wrong.
    """
    if not isinstance(sdp, str) or len(sdp) > MAX_OFFER_BYTES or len(sdp.encode(errors="replace")) > MAX_OFFER_BYTES:
        raise BadOffer(f"An offer is a text of at most {MAX_OFFER_BYTES} bytes")
    lines = sdp.splitlines()
    if len(lines) > MAX_LINES:
        raise BadOffer(f"An offer has at most {MAX_LINES} lines, this one has {len(lines)}")
    # Each would be asked for on the local network, for a second, one after the other.
    lines = [line for line in lines if not re.match(r"a=candidate:\S+ \S+ \S+ \S+ \S+\.local ", line, re.IGNORECASE)]
    candidates = sum(line.startswith("a=candidate:") for line in lines)
    if candidates > MAX_CANDIDATES:
        raise BadOffer(f"An offer has at most {MAX_CANDIDATES} candidates, this one has {candidates}")
    kinds = [line[2:].split(" ", 1)[0] for line in lines if line.startswith("m=")]
    if not kinds or any(kind not in KINDS for kind in kinds) or len(set(kinds)) != len(kinds):
        raise BadOffer("An offer has one section each, at most, of audio, video and application, and at least one")
    clean = "\r\n".join(lines) + "\r\n"
    try:
        description = SessionDescription.parse(clean)
    except Exception as error:
        # The parser asserts, indexes and converts without a check of its own.
        raise BadOffer("The offer is not a session description (SDP) that can be read") from error
    _check(description, kinds)
    ice, dtls = description.media[0].ice, description.media[0].dtls
    assert ice is not None
    assert dtls is not None
    # Not the session id of the origin: it is another one with each offer of some, aiortc among them.
    session = [ice.usernameFragment or "", *sorted(fingerprint.value for fingerprint in dtls.fingerprints)]
    return Offer(sdp=clean, session=" ".join(session), kinds=frozenset(kinds))


def _check(description: SessionDescription, kinds: list[str]) -> None:
    bundled = [set(group.items) for group in description.group if group.semantic == "BUNDLE"]
    mids = [media.rtp.muxId for media in description.media]
    if len(mids) != len(kinds) or not all(mids) or len(set(mids)) != len(mids):
        raise BadOffer("Each section of an offer has a name (a=mid) of its own")
    if len(mids) > 1 and not any(set(mids) <= names for names in bundled):
        raise BadOffer("The sections of an offer share one connection (a=group:BUNDLE)")
    for media in description.media:
        if media.ice is None or not media.ice.usernameFragment or not media.ice.password:
            raise BadOffer("The offer lacks the credentials of ICE (a=ice-ufrag, a=ice-pwd)")
        if media.dtls is None or not media.dtls.fingerprints:
            raise BadOffer("The offer lacks the fingerprint of its certificate (a=fingerprint)")
        if media.kind != "application" and not media.rtcp_mux:
            raise BadOffer("The offer must send RTP and RTCP on one port (a=rtcp-mux)")


def has_candidates(sdp: str) -> bool:
    return "a=candidate:" in sdp


def limit_video(answer: str) -> str:
    """Ask for video of at most `VIDEO_KBPS`."""
    lines: list[str] = []
    in_video = False
    for line in answer.splitlines():
        if line.startswith("m="):
            in_video = line.startswith("m=video")
        lines.append(line)
        if in_video and line.startswith("c="):
            lines.append(f"b=AS:{VIDEO_KBPS}")
    return "\r\n".join(lines) + "\r\n"
