"""Offers: a browser's and aiortc's, with lines repeated, multiplied, changed, lost, and numbers beyond reason."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import cache
from pathlib import Path
from random import Random

import aiortc

from ..clients import Closed, Seat, Wire, call_path
from . import Attacker, junk, source

_MOST_BYTES = 64 * 1024
_UFRAG = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


@cache
def chromium() -> tuple[str, ...]:
    return tuple(Path(__file__).with_name("chromium.sdp").read_text().splitlines())


async def aiortc_offer() -> list[str]:
    connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    connection.addTransceiver("audio", direction="recvonly")
    connection.addTransceiver("video", direction="recvonly")
    connection.createDataChannel("events")
    offer = await connection.createOffer()
    await connection.close()
    return str(offer.sdp).splitlines()


def renewed(rng: Random, lines: list[str]) -> list[str]:
    """The same offer of another browser: other credentials, so that it begins a new connection."""
    name = "".join(rng.choice(_UFRAG) for _ in range(8))
    return [f"a=ice-ufrag:{name}" if line.startswith("a=ice-ufrag:") else line for line in lines]


def video_section(lines: list[str]) -> int:
    return next(number for number, line in enumerate(lines) if line.startswith("m=video"))


def retransmissions(types: int = 150, feedback: int = 1650) -> str:
    """The offer of 37 KB: one video section with many rtx payload types and many feedback lines."""
    numbers = [96, *[number for number in range(1, 256) if number != 96 and not 72 <= number < 77][:types]]
    lines = [
        "v=0", "o=- 1 2 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE 0",
        f"m=video 9 UDP/TLS/RTP/SAVPF {' '.join(map(str, numbers))}", "c=IN IP4 0.0.0.0",
        "a=mid:0", "a=recvonly", "a=rtcp-mux", "a=ice-ufrag:abcd",
        "a=ice-pwd:abcdefghijklmnopqrstuvwx", "a=setup:actpass",
        "a=fingerprint:sha-256 " + ":".join(["AA"] * 32), "a=rtpmap:96 VP8/90000",
    ]  # fmt: skip
    for number in numbers[1:]:
        lines += [f"a=rtpmap:{number} rtx/90000", f"a=fmtp:{number} apt=96"]
    lines += ["a=rtcp-fb:* nack"] * feedback
    return "\r\n".join(lines) + "\r\n"


def _many_feedbacks(rng: Random, lines: list[str]) -> list[str]:
    what = rng.choice(("nack", "nack pli", "ccm fir", "goog-remb", "x" * 100))
    number = rng.choice(("96", "111", "*", "97", "999"))
    at = video_section(lines) + 1
    return [*lines[:at], *[f"a=rtcp-fb:{number} {what}"] * rng.choice((50, 400, 1700)), *lines[at:]]


def _many_types(rng: Random, lines: list[str]) -> list[str]:
    at = video_section(lines)
    count = rng.choice((40, 150, 500))
    numbers = [rng.choice((number % 128, number)) for number in range(96, 96 + count)]
    codec = rng.choice(("rtx", "VP8", "H264", "x"))
    more = [f"a=rtpmap:{number} {codec}/90000" for number in numbers]
    if codec == "rtx":
        more += [f"a=fmtp:{number} apt=96" for number in numbers]
    return [*lines[:at], f"{lines[at]} {' '.join(map(str, numbers))}", *lines[at + 1 :], *more][:1999]


def _many_sections(rng: Random, lines: list[str]) -> list[str]:
    at = video_section(lines)
    section = lines[at : at + 60]
    return lines + section * rng.choice((1, 5, 30))


def _many_candidates(rng: Random, lines: list[str]) -> list[str]:
    number = rng.choice((10, 60, 65, 1000))
    address = rng.choice(("127.0.0.1", "127.0.0.{}", "::1", "a.local", "{}.local", "127.0.0.1 ", "999.0.0.1", ""))
    ports, types = (9, 0, 1, 65535, 70000, -1), ("host", "srflx raddr 127.0.0.1 rport 9", "relay", "x")
    more = [
        f"a=candidate:{each} 1 udp {2**31 - each} {address.format(each % 250 + 1)} "
        f"{rng.choice(ports)} typ {rng.choice(types)}"
        for each in range(number)
    ]
    return [*lines[:10], *more, *lines[10:]]


def _many_extensions(rng: Random, lines: list[str]) -> list[str]:
    at = rng.choice((4, video_section(lines) + 1))
    uri = rng.choice(("urn:ietf:params:rtp-hdrext:sdes:mid", "x" * 200, "{}"))
    return [
        *lines[:at],
        *(f"a=extmap:{each} {uri.format(each)}" for each in range(rng.choice((20, 300, 1500)))),
        *lines[at:],
    ]


def _many_streams(rng: Random, lines: list[str]) -> list[str]:
    group = f"a=ssrc-group:FID {' '.join(str(each) for each in range(2000))}"
    return [
        *lines,
        *(f"a=ssrc:{each} cname:x" for each in range(rng.choice((100, 1500)))),
        *rng.choice(([], [group] * 3)),
    ]


def _many_fingerprints(rng: Random, lines: list[str]) -> list[str]:
    one = rng.choice(
        (
            "a=fingerprint:sha-256 " + ":".join(["AA"] * 32),
            "a=fingerprint:x y",
            "a=ice-options:" + "x " * 100,
            "a=group:BUNDLE " + "0 " * 500,
            "a=mid:0",
            "a=setup:active",
        )
    )
    return [*lines[:4], *[one] * rng.choice((10, 500)), *lines[4:]]


def _long_parameters(rng: Random, lines: list[str]) -> list[str]:
    more = rng.choice(
        (
            "a=fmtp:96 " + ";".join(f"{each}={each}" for each in range(4000)),
            "a=fmtp:96 apt=" + "9" * 3000,
            "a=fmtp:111 " + "x" * 40_000,
            "a=fmtp:96 " + "=;" * 20_000,
            "a=rtpmap:96 " + "VP8/" * 10_000,
            "a=sctpmap:" + "9" * 4000 + " webrtc-datachannel 1",
            "a=max-message-size:" + "9" * 4000,
            "a=msid:" + "x " * 20_000,
        )
    )
    at = rng.randrange(5, len(lines))
    return [*lines[:at], more, *lines[at:]]


def _large_numbers(rng: Random, lines: list[str]) -> list[str]:
    found = list(lines)
    for _ in range(10):
        at = rng.randrange(len(found))
        words = found[at].split(" ")
        spot = rng.randrange(len(words))
        words[spot] = rng.choice(("-1", "0", "65536", "4294967296", "9" * 300, "1e9", "0x10", "٣", "NaN", ""))
        found[at] = " ".join(words)
    return found


def _lines_moved(rng: Random, lines: list[str]) -> list[str]:
    found = list(lines)
    for _ in range(rng.randrange(1, 15)):
        kind, at = rng.randrange(4), rng.randrange(len(found))
        if kind == 0:
            del found[at]
        elif kind == 1:
            found.insert(rng.randrange(len(found)), found[at])
        elif kind == 2:
            found[at : at + 1] = [found[at]] * rng.choice((2, 100))
        else:
            found[at] = found[at][: rng.randrange(len(found[at]) + 1)] + junk.text(rng)[:200]
        found = found or ["v=0"]
    return found[:3000]


def _mangled(rng: Random, lines: list[str]) -> list[str]:
    return junk.mangled(rng, "\r\n".join(lines).encode("utf-8", "replace")).decode("utf-8", "replace").split("\r\n")


def _as_it_is(rng: Random, lines: list[str]) -> list[str]:
    return lines


CHANGES: tuple[Callable[[Random, list[str]], list[str]], ...] = (
    _many_feedbacks, _many_types, _many_sections, _many_candidates, _many_extensions, _many_streams, _many_fingerprints,
    _long_parameters, _large_numbers, _lines_moved, _lines_moved, _mangled, _as_it_is,
)  # fmt: skip


async def _offer(attacker: Attacker, seat: Seat, sdp: str) -> None:
    attacker.tally.sent()
    answer = await seat.ask("offer", 35.0, sdp=sdp)
    attacker.tally.came(answer.get("code", answer["type"]))


async def _seat(attacker: Attacker, rng: Random, stack: AsyncExitStack, role: str = "") -> Seat:
    path = call_path(attacker.target.CALL)
    wire = await stack.enter_async_context(Wire.open(attacker.target.port, path, source=source(rng)))
    await wire.hello(token=attacker.target.tokens[role or rng.choice(("speaker", "listener"))])
    seat = Seat(wire)
    stack.push_async_callback(seat.close)
    return seat


async def _offers(attacker: Attacker, rng: Random, *changes: Callable[[Random, list[str]], list[str]]) -> None:
    async with AsyncExitStack() as stack:
        try:
            seat = await _seat(attacker, rng, stack)
            for change in changes:
                lines = list(chromium()) if rng.random() < 0.6 else await aiortc_offer()
                lines = change(rng, renewed(rng, lines))
                if rng.random() < 0.3:
                    lines = rng.choice(CHANGES)(rng, [*lines, "m=video 9 UDP/TLS/RTP/SAVPF 96"])
                sdp = "\r\n".join(lines) + "\r\n"
                await _offer(
                    attacker, seat, sdp.encode("utf-8", "replace")[: _MOST_BYTES - 4000].decode("utf-8", "ignore")
                )
        except Closed as closed:
            attacker.tally.came(f"closed {closed.code} {closed.words}".strip())
        except TimeoutError:
            attacker.tally.came("no answer")


async def multiplied(attacker: Attacker, rng: Random) -> None:
    await _offers(attacker, rng, *rng.sample(CHANGES[:7], 4))


async def long_or_large(attacker: Attacker, rng: Random) -> None:
    await _offers(attacker, rng, _long_parameters, _large_numbers, _long_parameters, _large_numbers)


async def moved_and_mangled(attacker: Attacker, rng: Random) -> None:
    await _offers(attacker, rng, _lines_moved, _mangled, _lines_moved, _mangled, _as_it_is)


async def many_retransmissions(attacker: Attacker, rng: Random) -> None:
    """The product of rtx payload types and feedback lines, from within bounds to beyond."""
    async with AsyncExitStack() as stack:
        seat = await _seat(attacker, rng, stack, "listener")
        for types, feedback in ((5, 10), (20, 50), (30, 60), (rng.randrange(1, 150), rng.randrange(1, 1650))):
            with suppress(TimeoutError):
                await _offer(attacker, seat, retransmissions(types, feedback))


async def one_connection_after_the_other(attacker: Attacker, rng: Random) -> None:
    """Good offers, each of a new connection, as quick as they are answered."""
    async with AsyncExitStack() as stack:
        seat = await _seat(attacker, rng, stack)
        for _ in range(8):
            await _offer(attacker, seat, "\r\n".join(renewed(rng, list(chromium()))) + "\r\n")


async def one_connection_again(attacker: Attacker, rng: Random) -> None:
    """Offers that change the same connection, with sections that come and go and turn."""
    async with AsyncExitStack() as stack:
        seat = await _seat(attacker, rng, stack)
        lines = renewed(rng, list(chromium()))
        for _ in range(8):
            way = rng.choice(("sendrecv", "recvonly", "inactive", "sendonly"))
            changed = [f"a={way}" if line == "a=sendrecv" else line for line in lines]
            if rng.random() < 0.3:
                changed = rng.choice(CHANGES)(rng, changed)
            await _offer(attacker, seat, "\r\n".join(changed)[: _MOST_BYTES - 10] + "\r\n")


async def at_once(attacker: Attacker, rng: Random) -> None:
    async with AsyncExitStack() as stack:
        seats = [await _seat(attacker, rng, stack) for _ in range(4)]
        sdp = "\r\n".join(rng.choice(CHANGES)(rng, renewed(rng, list(chromium()))))[: _MOST_BYTES - 10] + "\r\n"
        done = await asyncio.gather(
            *(_offer(attacker, seat, sdp) for seat in seats for _ in range(5)), return_exceptions=True
        )
        for error in done:
            if isinstance(error, BaseException):
                attacker.tally.came(type(error).__name__)


ATTACKS = (
    multiplied, multiplied, long_or_large, moved_and_mangled, many_retransmissions, one_connection_after_the_other,
    one_connection_again, at_once,
)  # fmt: skip
