"""Reads WebRTC offers, which come from strangers, and writes anew what aiortc is given of them.

aiortc multiplies: it copies every payload type together with all of its feedback lines, and 37 KB of them hold the
event loop for 11 s. So an offer is read in one pass that counts everything, and aiortc sees only what is negotiated:
Opus, VP8 with its retransmissions, two header extensions, one data channel, and the few candidates that `candidates`
leaves. The bounds are about three times what Chromium 156 and Firefox 153 offer with sound, a camera and a channel.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from .candidates import first_asked

MAX_OFFER_BYTES = 32 * 1024
MAX_LINES = 1000
MAX_LINE_BYTES = 1024
MAX_PAYLOAD_TYPES = 100
MAX_FEEDBACK_PER_TYPE = 16
MAX_SECTION = {
    "rtpmap": 100,
    "fmtp": 100,
    "rtcp-fb": 300,
    "extmap": 50,
    "ssrc": 100,
    "ssrc-group": 16,
    "msid": 16,
    "rid": 16,
    "simulcast": 2,
    "candidate": 200,
    "group": 8,
    "fingerprint": 8,
    "crypto": 8,
    "ice-options": 4,
    "sctpmap": 4,
    "setup": 1,
    "mid": 1,
    "ice-ufrag": 1,
    "ice-pwd": 1,
    "sctp-port": 1,
    "max-message-size": 1,
}
"""Most attributes of a name in one section, and before the first one."""

MAX_OTHER = 50
"""Most of any other name."""

KINDS = ("audio", "video", "application")

VIDEO_KBPS = 800
"""What a browser is asked not to exceed with its camera."""

VIDEO_MACROBLOCKS = 9000
"""How large a picture a browser may send, in squares of 16 by 16: 1920 by 1200, as the screens of laptops have."""

VIDEO_FPS = 30

_DIRECTIONS = frozenset({"sendrecv", "sendonly", "recvonly", "inactive"})
_SETUPS = frozenset({"actpass", "active", "passive"})
_DIGEST_BYTES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
_DYNAMIC = range(96, 128)
_MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
_EXTENSIONS = {"audio": (_MID,), "video": (_MID, _SEND_TIME)}
_FEEDBACK = ("nack", "nack pli", "goog-remb")
"""What aiortc has an answer to, of VP8."""

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]{1,32}")
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")
_HEX_PAIRS = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){15,63}")


class BadOffer(ValueError):
    """The offer is malformed, too large, or asks for what a room does not have."""


@dataclass(frozen=True, slots=True)
class Offer:
    sdp: str
    """What aiortc is given."""

    session: str
    """Names the browser's connection: a later offer of the same one changes it, of another replaces it."""

    kinds: frozenset[str]
    """Which of "audio", "video" and "application" it has a section for."""


@dataclass(slots=True)
class _Part:
    """A section, or what stands before the first one; attributes by name, in their order."""

    kind: str = ""
    formats: Sequence[str] = ()
    attributes: dict[str, list[str]] = field(default_factory=dict)

    def one(self, name: str, above: _Part | None = None) -> str:
        values = self.attributes.get(name) or (above.attributes.get(name) if above is not None else None)
        return values[0] if values else ""

    def all(self, name: str) -> list[str]:
        return self.attributes.get(name, [])


def read_offer(sdp: str, *, speaks_first: bool = False) -> Offer:
    """
    ``speaks_first`` leaves candidates that the worker may ask before they have asked it; see `candidates`.

    Raises:
        BadOffer: with a sentence about what is wrong.
    """
    if not isinstance(sdp, str) or len(sdp) > MAX_OFFER_BYTES or len(sdp.encode(errors="replace")) > MAX_OFFER_BYTES:
        raise BadOffer(f"An offer is a text of at most {MAX_OFFER_BYTES} bytes")
    session, sections = _parts(sdp)
    names = [section.one("mid") for section in sections]
    if not all(_TOKEN.fullmatch(name) for name in names) or len(set(names)) != len(names):
        raise BadOffer("Each section of an offer has a name (a=mid) of its own, of at most 32 characters")
    bundles = [set(group.split()[1:]) for group in session.all("group") if group.split()[:1] == ["BUNDLE"]]
    if len(names) > 1 and not any(set(names) <= bundle for bundle in bundles):
        raise BadOffer("The sections of an offer share one connection (a=group:BUNDLE)")
    lines = ["v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "t=0 0", f"a=group:BUNDLE {' '.join(names)}"]
    for section in sections:
        lines += _section(section, session)
    found = [value for section in sections for value in section.all("candidate")]
    candidates = [f"a=candidate:{value}" for value in (first_asked(found) if speaks_first else ())]
    # With the first section, whose connection the others share.
    start = next((number for number, line in enumerate(lines[6:], 6) if line.startswith("m=")), len(lines))
    lines[start:start] = candidates
    # Not the session id of the origin: it is another one with each offer of some, aiortc among them.
    identity = [sections[0].one("ice-ufrag", session), *sorted(_fingerprints(sections[0], session))]
    kinds = frozenset(section.kind for section in sections)
    return Offer(sdp="\r\n".join(lines) + "\r\n", session=" ".join(identity), kinds=kinds)


# Reading


def _parts(sdp: str) -> tuple[_Part, list[_Part]]:
    session = part = _Part()
    sections: list[_Part] = []
    counts: Counter[str] = Counter()
    lines = sdp.split("\n")
    if len(lines) > MAX_LINES:
        raise BadOffer(f"An offer has at most {MAX_LINES} lines, this one has {len(lines)}")
    if not lines[0].startswith("v=0"):
        raise BadOffer("The offer is not a session description (SDP) that can be read: it begins with v=0")
    for line in lines:
        line = line.rstrip("\r")
        if len(line) > MAX_LINE_BYTES:
            raise BadOffer(f"A line of an offer has at most {MAX_LINE_BYTES} bytes")
        if line.startswith("m="):
            part = _media(line)
            counts.clear()
            sections.append(part)
            if [section.kind for section in sections].count(part.kind) > 1:
                break
        elif line.startswith("a="):
            name, _, value = line[2:].partition(":")
            counts[name] += 1
            if counts[name] > (most := MAX_SECTION.get(name, MAX_OTHER)):
                raise BadOffer(f"A section of an offer has at most {most} lines of a={name[:32]}, this one has more")
            part.attributes.setdefault(name, []).append(value)
    kinds = [section.kind for section in sections]
    if not kinds or len(set(kinds)) != len(kinds):
        raise BadOffer("An offer has one section each, at most, of audio, video and application, and at least one")
    return session, sections


def _media(line: str) -> _Part:
    kind, *rest = line[2:].split()
    if kind not in KINDS or len(rest) < 3 or not rest[0].isdecimal():
        raise BadOffer("An offer has one section each, at most, of audio, video and application, and at least one")
    _, _, *formats = rest
    if len(formats) > MAX_PAYLOAD_TYPES:
        raise BadOffer(
            f"A section of an offer has at most {MAX_PAYLOAD_TYPES} payload types, this one has {len(formats)}"
        )
    return _Part(kind, formats)


# Writing


def _section(section: _Part, session: _Part) -> list[str]:
    if section.kind == "application":
        head, lines = _channel(section)
    else:
        head, lines = _codecs(section)
        lines += _extensions(section)
        lines += _streams(section)
        names = [*section.attributes, *session.attributes]
        lines += [f"a={next((name for name in names if name in _DIRECTIONS), 'sendrecv')}", "a=rtcp-mux"]
        if "rtcp-mux" not in section.attributes:
            raise BadOffer("The offer must send RTP and RTCP on one port (a=rtcp-mux)")
    return [head, "c=IN IP4 0.0.0.0", f"a=mid:{section.one('mid')}", *_security(section, session), *lines]


def _security(section: _Part, session: _Part) -> list[str]:
    ufrag, password = section.one("ice-ufrag", session), section.one("ice-pwd", session)
    if not _UFRAG.fullmatch(ufrag) or not _PASSWORD.fullmatch(password):
        raise BadOffer("The offer lacks the credentials of ICE (a=ice-ufrag, a=ice-pwd)")
    fingerprints = _fingerprints(section, session)
    if not fingerprints:
        raise BadOffer("The offer lacks the fingerprint of its certificate (a=fingerprint), by SHA-256, 384 or 512")
    setup = section.one("setup", session)
    if setup not in _SETUPS:
        raise BadOffer("The offer lacks who begins the encryption (a=setup:actpass)")
    lines = [f"a=ice-ufrag:{ufrag}", f"a=ice-pwd:{password}", f"a=setup:{setup}"]
    return lines + [f"a=fingerprint:{fingerprint}" for fingerprint in fingerprints]


def _fingerprints(section: _Part, session: _Part) -> list[str]:
    found: dict[str, None] = {}
    for value in (*session.all("fingerprint"), *section.all("fingerprint")):
        algorithm, _, digest = value.partition(" ")
        algorithm = algorithm.lower()
        if _HEX_PAIRS.fullmatch(digest) and len(digest) == 3 * _DIGEST_BYTES.get(algorithm, 0) - 1:
            found[f"{algorithm} {digest.upper()}"] = None
    return list(found)


def _channel(section: _Part) -> tuple[str, list[str]]:
    port = section.one("sctp-port")
    if section.formats[0] != "webrtc-datachannel" or not _is_in(range(1, 65536), port):
        raise BadOffer("The data channel of an offer is of the form m=application 9 UDP/DTLS/SCTP webrtc-datachannel")
    return "m=application 9 UDP/DTLS/SCTP webrtc-datachannel", [f"a=sctp-port:{int(port)}"]


def _codecs(section: _Part) -> tuple[str, list[str]]:
    """The line of a section and those of its one codec."""
    offered = set(section.formats)
    maps: dict[str, str] = {}
    for value in section.all("rtpmap"):
        number, _, codec = value.partition(" ")
        if number in offered:
            maps.setdefault(number, codec.strip().lower())
    feedback: Counter[str] = Counter()
    wanted: dict[str, set[str]] = {}
    for value in section.all("rtcp-fb"):
        number, _, what = value.partition(" ")
        feedback[number] += 1
        if feedback[number] > MAX_FEEDBACK_PER_TYPE:
            raise BadOffer(f"A payload type has at most {MAX_FEEDBACK_PER_TYPE} lines of a=rtcp-fb, this one has more")
        wanted.setdefault(number, set()).add(what.strip())
    name = "opus/48000/2" if section.kind == "audio" else "vp8/90000"
    main = next((number for number in section.formats if maps.get(number) == name and _is_in(_DYNAMIC, number)), None)
    if main is None:
        raise BadOffer("The offer cannot be agreed with: it needs Opus for audio and VP8 for video")
    if section.kind == "audio":
        return f"m=audio 9 UDP/TLS/RTP/SAVPF {main}", [f"a=rtpmap:{main} opus/48000/2"]
    lines = [f"a=rtpmap:{main} VP8/90000"]
    asked = wanted.get(main, set()) | wanted.get("*", set())
    lines += [f"a=rtcp-fb:{main} {what}" for what in _FEEDBACK if what in asked]
    again = _retransmission(section, maps, main)
    if again is not None:
        lines += [f"a=rtpmap:{again} rtx/90000", f"a=fmtp:{again} apt={main}"]
    return f"m=video 9 UDP/TLS/RTP/SAVPF {main}" + (f" {again}" if again is not None else ""), lines


def _retransmission(section: _Part, maps: dict[str, str], main: str) -> str | None:
    for value in section.all("fmtp"):
        number, _, parameters = value.partition(" ")
        is_for_main = f"apt={main}" in (parameter.strip() for parameter in parameters.split(";"))
        if is_for_main and maps.get(number) == "rtx/90000" and _is_in(_DYNAMIC, number):
            return number
    return None


def _is_in(numbers: range, text: str) -> bool:
    return text.isdecimal() and text.isascii() and len(text) <= 5 and int(text) in numbers


def _extensions(section: _Part) -> list[str]:
    lines: dict[str, str] = {}
    for value in section.all("extmap"):
        number, _, uri = value.partition(" ")
        number, _, direction = number.partition("/")
        uri = uri.strip()
        if uri in _EXTENSIONS[section.kind] and direction != "inactive" and _is_in(range(1, 15), number):
            lines.setdefault(uri, f"a=extmap:{number} {uri}")
    return list(lines.values())


def _streams(section: _Part) -> list[str]:
    """The number of the stream, and of what is sent again of it."""
    numbers = [value.partition(" ")[0] for value in section.all("ssrc")][:1]
    for group in section.all("ssrc-group"):
        semantics, *members = group.split()
        if semantics == "FID" and len(members) == 2:
            numbers = members
            break
    valid = [number for number in numbers if number.isdecimal() and number.isascii() and len(number) <= 10]
    return [f"a=ssrc:{int(number)} cname:-" for number in valid if int(number) < 2**32]


# Answers


def has_candidates(sdp: str) -> bool:
    return "a=candidate:" in sdp


def limit_video(answer: str) -> str:
    """Ask for video of at most `VIDEO_KBPS`, and pictures that are not larger than those which are decoded."""
    lines: list[str] = []
    in_video = False
    for line in answer.splitlines():
        if line.startswith("m="):
            in_video = line.startswith("m=video")
        lines.append(line)
        if in_video and line.startswith("c="):
            lines.append(f"b=AS:{VIDEO_KBPS}")
        if in_video and line.startswith("a=rtpmap:") and line.endswith(" VP8/90000"):
            number = line.removeprefix("a=rtpmap:").split(" ", 1)[0]
            lines.append(f"a=fmtp:{number} max-fs={VIDEO_MACROBLOCKS};max-fr={VIDEO_FPS}")
    return "\r\n".join(lines) + "\r\n"
