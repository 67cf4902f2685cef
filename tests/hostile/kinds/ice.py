"""ICE and DTLS: whatever comes to the ports that are open for media, from anybody, before a connection and during."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import AsyncExitStack, closing
from random import Random
from typing import Any

from aioice import stun
from aiortc.sdp import SessionDescription

from ..clients import Closed, Seat, Wire, call_path
from . import Attacker, junk, source
from .rtp import Line, line
from .sdp import chromium, renewed


async def _ports(attacker: Attacker, rng: Random, stack: AsyncExitStack) -> tuple[list[tuple[str, int]], Any]:
    """Have the server open ports for media; returns them, and what ICE asks for there."""
    path = call_path(attacker.target.CALL)
    wire = await stack.enter_async_context(Wire.open(attacker.target.port, path, source=source(rng)))
    await wire.hello(token=attacker.target.tokens[rng.choice(("speaker", "listener"))])
    seat = Seat(wire)
    stack.push_async_callback(seat.close)
    answer = await seat.negotiate("\r\n".join(renewed(rng, list(chromium()))) + "\r\n")
    description = SessionDescription.parse(answer)
    found = [
        (candidate.ip, candidate.port)
        for media in description.media
        for candidate in media.ice_candidates
        if candidate.protocol == "udp" and ":" not in candidate.ip
    ]
    return found, description.media[0].ice


def _live_ports(one: Line) -> list[tuple[str, int]]:
    connection = one.page.transport.transport._connection
    return [tuple(pair.remote_addr) for pair in connection._nominated.values()]


async def _throw(attacker: Attacker, ports: list[tuple[str, int]], packets: list[bytes], *, pause: float = 0.0) -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.setblocking(False)
        for number, packet in enumerate(packets):
            attacker.tally.sent()
            try:
                sender.sendto(packet[:60_000], ports[number % len(ports)])
            except OSError:
                attacker.tally.came("not sent")
            if number % 50 == 49:
                await asyncio.sleep(0.01)
            elif pause:
                await asyncio.sleep(pause)
    attacker.tally.came("thrown")


def _binding(rng: Random, username: str, password: str, **more: Any) -> bytes:
    request = stun.Message(message_method=stun.Method.BINDING, message_class=rng.choice(list(stun.Class)))
    request.attributes["USERNAME"] = username
    request.attributes["PRIORITY"] = rng.randrange(2**32)
    request.attributes[rng.choice(("ICE-CONTROLLING", "ICE-CONTROLLED"))] = rng.randrange(2**64)
    if rng.random() < 0.3:
        request.attributes["USE-CANDIDATE"] = None
    if password:
        request.add_message_integrity(password.encode())
    return bytes(request)


def _garbage(rng: Random) -> bytes:
    sort = rng.randrange(6)
    if sort == 0:
        return rng.randbytes(rng.choice((0, 1, 20, 1000, 20_000)))
    if sort == 1:  # STUN that is cut, or longer than it says
        return struct.pack("!HHI", 1, rng.randrange(65536), 0x2112A442) + rng.randbytes(rng.randrange(12, 3000))
    if sort == 2:  # attributes, many
        body = b"".join(
            struct.pack("!HH", rng.randrange(65536), 4) + rng.randbytes(4) for _ in range(rng.choice((5, 2000, 7000)))
        )
        return struct.pack("!HHI", 1, len(body) & 0xFFFF, 0x2112A442) + rng.randbytes(12) + body
    if sort == 3:  # DTLS
        return bytes([rng.choice((20, 21, 22, 23, 63)), 0xFE, rng.choice((0xFF, 0xFD))]) + rng.randbytes(
            rng.randrange(8, 1400)
        )
    if sort == 4:  # a ClientHello of DTLS, more or less
        return b"\x16\xfe\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x9e\x01\x00\x00\x92" + rng.randbytes(160)
    return bytes([rng.choice((0x80, 0x90, 0xBF)), rng.randrange(256)]) + rng.randbytes(rng.randrange(2, 1400))  # (S)RTP


async def garbage(attacker: Attacker, rng: Random) -> None:
    async with AsyncExitStack() as stack:
        ports, _ = await _ports(attacker, rng, stack)
        await _throw(attacker, ports, [_garbage(rng) for _ in range(600)])


async def requests(attacker: Attacker, rng: Random) -> None:
    """Checks with good and bad names and passwords, of both roles, which the server answers and checks in turn."""
    async with AsyncExitStack() as stack:
        ports, ice = await _ports(attacker, rng, stack)
        packets = []
        for _ in range(400):
            name = rng.choice((f"{ice.usernameFragment}:x", "x:y", "x" * 500, "", ":" * 100))
            one = _binding(rng, name, rng.choice((ice.password, ice.password, "wrong", "")))
            packets.append(one if rng.random() < 0.8 else junk.mangled(rng, one))
        await _throw(attacker, ports, packets, pause=0.0005)


async def requests_from_everywhere(attacker: Attacker, rng: Random) -> None:
    """Good checks from one port after the other: each makes a candidate that the server then checks."""
    async with AsyncExitStack() as stack:
        ports, ice = await _ports(attacker, rng, stack)
        for number in range(rng.choice((50, 300))):
            attacker.tally.sent()
            with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
                sender.sendto(_binding(rng, f"{ice.usernameFragment}:x", ice.password), ports[0])
            if number % 20 == 0:
                await asyncio.sleep(0.005)
        attacker.tally.came("thrown")
        await asyncio.sleep(0.5)


async def candidates(attacker: Attacker, rng: Random) -> None:
    """Offers of addresses that nobody could be at."""
    async with AsyncExitStack() as stack:
        path = call_path(attacker.target.CALL)
        wire = await stack.enter_async_context(Wire.open(attacker.target.port, path, source=source(rng)))
        await wire.hello(token=attacker.target.tokens["listener"])
        seat = Seat(wire)
        stack.push_async_callback(seat.close)
        for _ in range(4):
            attacker.tally.sent()
            lines = renewed(rng, list(chromium()))
            many = rng.choice((1, 30, 64))
            ports = (9, 22, 53, 5432, 0, 65535)
            addresses = (
                "127.0.0.1",
                "127.255.255.254",
                "0.0.0.0",
                "::1",
                "::",
                "::ffff:127.0.0.1",
                "127.1",
                "localhost",
                "0x7f000001",
                "127.0.0.1%lo",
                "fe80::1%lo",
            )
            more = [
                f"a=candidate:{each} 1 udp {2**31 - each} {rng.choice(addresses)} {rng.choice(ports)} typ host"
                for each in range(many)
            ]
            answer = await seat.ask("offer", sdp="\r\n".join([*lines[:9], *more, *lines[9:]]) + "\r\n")
            attacker.tally.came(answer.get("code", answer["type"]))
            await asyncio.sleep(0.3)


async def during_a_call(attacker: Attacker, rng: Random) -> None:
    """To the port of an established connection: from strangers, and from its own side."""
    one = await line(attacker, rng)
    packets = [_garbage(rng) for _ in range(500)]
    await _throw(attacker, _live_ports(one), packets)
    connection = one.page.transport.transport._connection
    for packet in packets[:200]:
        attacker.tally.sent()
        try:
            await connection.send(packet[:1400])
        except ConnectionError as error:
            raise Closed(0, str(error)) from None
        await asyncio.sleep(0.001)


async def half_a_handshake(attacker: Attacker, rng: Random) -> None:
    """Records of DTLS from a side that is known by ICE: it is checked, then talks nonsense."""
    async with AsyncExitStack() as stack:
        ports, ice = await _ports(attacker, rng, stack)
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.setblocking(False)
            for number in range(300):
                attacker.tally.sent()
                if number % 10 == 0:
                    request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
                    request.attributes["USERNAME"] = f"{ice.usernameFragment}:x"
                    request.attributes["PRIORITY"] = 1
                    request.attributes["ICE-CONTROLLING"] = 2**64 - 1
                    request.attributes["USE-CANDIDATE"] = None
                    request.add_message_integrity(ice.password.encode())
                    packet = bytes(request)
                else:
                    kind = rng.choice((20, 21, 22, 22, 23))
                    packet = (
                        bytes([kind, 0xFE, 0xFD, 0, 0]) + os.urandom(6) + struct.pack("!H", 400) + rng.randbytes(400)
                    )
                sender.sendto(packet, ports[0])
                await asyncio.sleep(0.001)
        attacker.tally.came("thrown")


async def flood(attacker: Attacker, rng: Random) -> None:
    """Small packets as quick as may be, from a stranger."""
    async with AsyncExitStack() as stack:
        ports, ice = await _ports(attacker, rng, stack)
        one = rng.choice(
            (b"\0", b"\x80" + bytes(20), b"\x16" + bytes(30), _binding(rng, f"{ice.usernameFragment}:x", ice.password))
        )
        await _throw(attacker, ports, [one] * 6000)


ATTACKS = (garbage, requests, requests_from_everywhere, candidates, during_a_call, half_a_handshake, flood)
