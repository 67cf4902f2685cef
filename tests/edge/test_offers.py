"""What offers may hold, and what is left of them: those in the folder `offers` are of Chromium 156 and Firefox 153."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from aiortc.sdp import SessionDescription

from visionagents_runner.edge import BadOffer, background, join_room, offers
from visionagents_runner.edge.candidates import MOST, first_asked
from visionagents_runner.edge.offers import limit_video, read_offer

REAL = {path.stem: path.read_bytes().decode() for path in sorted((Path(__file__).parent / "offers").glob("*.sdp"))}
CHROMIUM = REAL["chromium-speaker"]


@pytest.mark.parametrize("name", REAL)
def test_of_an_offer_only_what_a_room_negotiates_is_left(name):
    offer = read_offer(REAL[name])
    assert offer.kinds == {"audio", "video", "application"}
    audio, video, channel = SessionDescription.parse(offer.sdp).media
    assert [codec.mimeType for codec in audio.rtp.codecs] == ["audio/opus"]
    assert [codec.mimeType for codec in video.rtp.codecs] == ["video/VP8", "video/rtx"]
    assert {feedback.type for feedback in video.rtp.codecs[0].rtcpFeedback} == {"nack", "goog-remb"}
    assert video.rtp.codecs[1].parameters == {"apt": video.rtp.codecs[0].payloadType}
    assert channel.sctp_port == 5000
    speaks = name.endswith("speaker")
    assert (audio.direction, video.direction) == (("sendrecv",) * 2 if speaks else ("recvonly",) * 2)
    assert len(video.ssrc) == 2 if speaks else len(video.ssrc) < 2
    assert "candidate" not in offer.sdp
    assert len(offer.sdp) < 2500


@pytest.mark.parametrize("name", REAL)
async def test_what_is_left_of_an_offer_is_answered_section_by_section(name):
    person = join_room("default", "c", "caller")
    answer = SessionDescription.parse(await person.negotiate(REAL[name]))
    asked = SessionDescription.parse(REAL[name])
    assert [(media.kind, media.rtp.muxId) for media in answer.media] == [
        (media.kind, media.rtp.muxId) for media in asked.media
    ]
    for mine, theirs in zip(answer.media[:2], asked.media[:2], strict=True):
        codecs = {codec.payloadType: codec.mimeType.lower() for codec in theirs.rtp.codecs}
        assert all(codecs[codec.payloadType] == codec.mimeType.lower() for codec in mine.rtp.codecs)
    assert answer.media[1].rtp.codecs[0].parameters["max-fs"] == 9000
    person.leave()
    await background.idle()


@pytest.mark.parametrize("name", REAL)
def test_browsers_may_offer_twice_as_much_as_they_do_today(name):
    seen: Counter[str] = Counter()
    for line in REAL[name].split("\r\n"):
        if line.startswith("m="):
            assert 2 * len(line.split()[3:]) <= offers.MAX_PAYLOAD_TYPES
            seen.clear()
        attribute = line[2:].split(":", 1)[0]
        seen[attribute] += line.startswith("a=")
        most = offers.MAX_SECTION.get(attribute, offers.MAX_OTHER)
        assert most == 1 or 2 * seen[attribute] <= most
        assert 2 * len(line) <= offers.MAX_LINE_BYTES
    assert 2 * len(REAL[name]) <= offers.MAX_OFFER_BYTES
    assert 2 * REAL[name].count("\n") <= offers.MAX_LINES


def _more(line: str, count: int) -> str:
    return CHROMIUM.replace("m=application", f"{line}\r\n" * count + "m=application")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (_more("a=rtcp-fb:96 nack", 20), "payload type has at most 16 lines"),
        (_more("a=rtcp-fb:* nack", 600), "at most 300 lines of a=rtcp-fb"),
        (_more("a=rtcp-fb:* nack", 1650), "32768 bytes"),
        (_more("a=x", 900), "at most 1000 lines"),
        (CHROMIUM.replace(" 96 97", " 96 97" + " 98" * 150), "at most 100 payload types, this one has 17"),
        (_more("a=rtpmap:97 rtx/90000", 150), "100 lines of a=rtpmap"),
        (_more("a=fmtp:97 apt=96", 150), "100 lines of a=fmtp"),
        (_more("a=extmap:3 urn:x", 60), "50 lines of a=extmap"),
        (_more("a=ssrc:1 cname:x", 120), "100 lines of a=ssrc"),
        (_more("a=ssrc-group:SIM 1 2 3", 20), "16 lines of a=ssrc-group"),
        (_more("a=msid:a b", 20), "16 lines of a=msid"),
        (_more("a=rid:1 send", 20), "16 lines of a=rid"),
        (_more("a=simulcast:send 1", 3), "2 lines of a=simulcast"),
        (_more("a=candidate:1 1 udp 1 192.0.2.1 5000 typ host", 201), "200 lines of a=candidate"),
        (_more("a=fingerprint:sha-256 AA:BB", 9), "8 lines of a=fingerprint"),
        (_more("a=crypto:1 AES", 9), "8 lines of a=crypto"),
        (_more("a=setup:actpass", 1), "1 lines of a=setup"),
        (_more("a=ice-pwd:x", 1), "1 lines of a=ice-pwd"),
        (_more("a=ice-options:trickle", 9), "4 lines of a=ice-options"),
        (_more("a=unheard-of", 51), "50 lines of a=unheard-of"),
        (_more("a=" + "x" * 2000, 1), "1024 bytes"),
        ("a=x\r\n" + CHROMIUM, "begins with v=0"),
        (CHROMIUM + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n", "one section each"),
        (CHROMIUM.replace("m=video", "m=text"), "one section each"),
        (CHROMIUM.replace("VP8", "VP9"), "Opus for audio and VP8 for video"),
        (CHROMIUM.replace("sha-256", "md5"), "fingerprint"),
        (CHROMIUM.replace("a=setup:actpass", "a=setup:holdconn"), "a=setup"),
        (CHROMIUM.replace("a=sctp-port:5000", "a=sctp-port:70000"), "webrtc-datachannel"),
        (CHROMIUM.replace("a=mid:1", "a=mid:" + "1" * 40), "a=mid"),
        (CHROMIUM.replace("a=rtcp-mux", "a=x"), "rtcp-mux"),
        (CHROMIUM.replace("a=ice-ufrag:", "a=ice-ufrag:\N{SNOWMAN}"), "ice-ufrag"),
    ],
)
def test_what_is_more_than_any_browser_offers_is_refused_in_words(bad, words):
    with pytest.raises(BadOffer, match=words):
        read_offer(bad)


def test_the_largest_offer_leaves_no_more_than_any_other():
    feedback = "".join(f"a=rtcp-fb:{number} nack {kind}\r\n" for number in range(35, 52) for kind in range(10))
    most = CHROMIUM.replace("m=application", f"{feedback}m=application").replace(" 96 97", " 96 97" + " 98" * 60)
    most = most.replace("a=mid:1", "a=rtpmap:97 rtx/90000\r\n" * 60 + "a=mid:1")
    assert len(read_offer(most).sdp) == len(read_offer(CHROMIUM).sdp)


def test_a_camera_is_asked_for_pictures_that_are_decoded():
    answer = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=rtpmap:96 VP8/90000\r\n"
    assert "a=fmtp:96 max-fs=9000;max-fr=30\r\n" in limit_video(answer)


def candidate(host: str, port: int = 50000, kind: str = "srflx", transport: str = "udp", component: int = 1) -> str:
    return f"1 {component} {transport} 2113937151 {host} {port} typ {kind} generation 0"


@pytest.mark.parametrize(
    "unwanted",
    [
        candidate("127.0.0.1"),
        candidate("10.1.2.3"),
        candidate("172.16.0.1"),
        candidate("192.168.1.1"),
        candidate("169.254.169.254"),
        candidate("100.64.0.1"),
        candidate("0.0.0.0"),
        candidate("255.255.255.255"),
        candidate("224.0.0.251"),
        candidate("::1"),
        candidate("::"),
        candidate("fe80::1"),
        candidate("fd00::1"),
        candidate("ff02::1"),
        candidate("::ffff:8.8.8.8"),
        candidate("64:ff9b::a00:1"),
        candidate("2002:a00:1::"),
        candidate("8.8.8.8", port=53),
        candidate("8.8.8.8", port=70000),
        candidate("8.8.8.8", transport="tcp"),
        candidate("8.8.8.8", component=2),
        candidate("8.8.8.8", kind="prflx"),
        candidate("0b1f4a5c-1111.local"),
        candidate("a.example"),
        candidate("134744072"),
        "",
        "1 1 udp",
    ],
)
def test_nobody_is_asked_first_whom_a_browser_elsewhere_could_not_be(unwanted):
    assert first_asked([unwanted]) == []


def test_a_worker_behind_a_nat_asks_a_few_public_addresses_first(monkeypatch):
    many = [candidate(f"8.8.{number}.8", kind="host") for number in range(50)]
    found = first_asked([many[0], *many, candidate("2001:4860::8", transport="UDP")])
    assert found == [f"{number} 1 udp 1 8.8.{number}.8 50000 typ host" for number in range(MOST)]
    monkeypatch.setattr("visionagents_runner.edge.candidates._own_addresses", lambda: frozenset({"8.8.0.8"}))
    assert first_asked(many[:2]) == ["0 1 udp 1 8.8.1.8 50000 typ host"]
    with_candidate = CHROMIUM.replace("a=mid:1", f"a=candidate:{many[1]}\r\na=mid:1")
    media = SessionDescription.parse(read_offer(with_candidate, speaks_first=True).sdp).media
    assert [[each.ip for each in section.ice_candidates] for section in media] == [["8.8.1.8"], [], []]
    assert "candidate" not in read_offer(with_candidate).sdp


def test_later_offers_of_a_connection_are_known_by_its_credentials():
    first, second = REAL["firefox-speaker"], REAL["firefox-listener"]
    assert read_offer(first).session == read_offer(first.replace("a=sendrecv", "a=recvonly")).session
    assert read_offer(first).session != read_offer(second).session
