"""A peer that sends what no browser does: the call goes on, or ends with words, and nothing is held up or piles up."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from aioice import stun
from aiortc.rtp import RtpPacket
from OpenSSL import SSL

from tests.conftest import until
from tests.edge.browser import Browser, Camera, Ears, browser, loudness, next_event
from tests.edge.hostile import (
    Frames,
    Lag,
    bit_rate_without_streams,
    chunk,
    goodbye,
    key_frame,
    nack,
    picture_wish,
    rtp,
    send_sctp,
    transport_of,
)
from tests.edge.test_video import Eye
from visionagents_runner.edge import BrowserEdge, Media, background, ice_guard, join_room, sctp, vp8
from visionagents_runner.edge.bounds import refused
from visionagents_runner.edge.opus import OpusOut, seconds_in
from visionagents_runner.edge.rtp import Missing, Statistics
from visionagents_runner.testing import stub_agent
from visionagents_runner.websockets.calls.events import to_message

pytestmark = pytest.mark.slow

HELD = 0.5
"""Seconds that count as held up here, where other tests run beside: each of these attacks held the loop for longer."""


@pytest.fixture(autouse=True)
def nothing_is_logged_as_an_error(caplog):
    yield
    ours = ("visionagents_runner", "asyncio", "aiortc", "aioice")
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR and each.name.startswith(ours)]


async def connected(person, page) -> None:
    await page.connect()
    await next_event(person, Media, lambda event: event.state == "connected")


def connection_of(person):
    """The server's side."""
    return person.media._peer._transports()[0].transport._connection


# ICE


async def test_nobody_is_asked_who_has_not_asked_first():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bystander:
        own = _own_address()
        bystander.bind((own, 0))
        bystander.setblocking(False)
        person = join_room("default", "c", "caller")
        page = Browser(person, hertz=None)
        await page.pc.setLocalDescription(await page.pc.createOffer())
        port = bystander.getsockname()[1]
        told = "".join(
            f"a=candidate:{number} 1 udp 2113937151 {address} {port} typ host\r\n"
            for number, address in enumerate((own, "127.0.0.1", "224.0.0.251", "255.255.255.255"))
        )
        offer = page.pc.localDescription.sdp
        await person.negotiate(offer.replace("a=ice-ufrag", f"{told}a=ice-ufrag", 1))
        connection = connection_of(person)
        target = next(each for each in connection._local_candidates if each.host == own)
        head = struct.pack("!HHI12s", 1, 8, stun.COOKIE, bytes(12))
        for datagram in (b"", b"\x80" * 60, b"\x16" * 60, head + connection.local_username.encode() + bytes(4)):
            bystander.sendto(datagram, (target.host, target.port))
        await asyncio.sleep(0.3)
        assert connection._check_list == []
        assert connection._queue.empty()
        with pytest.raises(BlockingIOError):
            bystander.recv(1)
        person.leave()
        await page.close()
    await background.idle()


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent
        return str(probe.getsockname()[0])


async def test_strangers_at_the_socket_get_no_answer_and_change_nothing():
    person = join_room("default", "c", "caller")
    other = join_room("default", "c", "other")
    async with browser(other, hertz=700), browser(person, hertz=None) as page:
        await next_event(person, Media, lambda event: event.state == "connected")
        connection = connection_of(person)
        target = next(each for each in connection._local_candidates if ":" not in each.host)
        question = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        question.attributes["USERNAME"] = f"{connection.local_username}:{connection.remote_username}"
        question.attributes["PRIORITY"] = 1
        unsigned = bytes(question)
        question.add_message_integrity(b"not the password at all")
        broken = struct.pack("!HHI12s", 1, 8, stun.COOKIE, bytes(12)) + struct.pack("!HH", 0x24, 1) + b"\x00" * 4
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.bind(("", 0))
            stranger_port = stranger.getsockname()[1]
            for datagram in (b"", b"\x00", b"\x80" * 60, b"\x16" * 60, unsigned, bytes(question), broken, broken[:20]):
                stranger.sendto(datagram, (target.host, target.port))
            page.heard = page.heard[:0]
            await until(lambda: loudness(page.heard[-24_000:], 700) > 0.2)
            with pytest.raises(BlockingIOError):
                stranger.recv(1)
        assert all(pair.remote_addr[1] != stranger_port for pair in connection._check_list)
        assert person.transport == "webrtc"


async def test_only_so_many_addresses_are_asked_back():
    person = join_room("default", "c", "caller")
    async with browser(person, hertz=None):
        await next_event(person, Media, lambda event: event.state == "connected")
        connection = connection_of(person)
        protocol = next(each for each in connection._protocols if ":" not in each.local_candidate.host)
        nominated = {pair.remote_addr for pair in connection._nominated.values()}
        sent = []
        protocol.send_stun = lambda message, address: sent.append((message.message_class, address))
        for port in range(2000, 2400):
            question = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
            question.attributes["USERNAME"] = f"{connection.local_username}:{connection.remote_username}"
            question.attributes["PRIORITY"] = 1
            question.attributes["ICE-CONTROLLING"] = 1
            question.add_message_integrity(connection.local_password.encode())
            protocol.datagram_received(bytes(question), ("192.0.2.9", port))
        await asyncio.sleep(0.05)
        asked = {address for kind, address in sent if kind == stun.Class.REQUEST}
        assert len(asked) <= ice_guard.MAX_ADDRESSES
        assert len(connection._remote_candidates) <= ice_guard.MAX_ADDRESSES
        assert nominated == {pair.remote_addr for pair in connection._nominated.values()}
        assert person.transport == "webrtc"


# Packets


async def test_who_sends_far_more_packets_than_any_browser_is_shut_out_in_words(monkeypatch, caplog):
    monkeypatch.setattr(ice_guard, "PACKET_BURST", 50)
    monkeypatch.setattr(ice_guard, "FLOOD_BURST", 100)
    person = join_room("default", "c", "caller")
    page = Browser(person, hertz=None)
    await connected(person, page)
    before = refused["connections"]
    connection = page.pc.getTransceivers()[0].receiver.transport.transport._connection
    async with Lag() as lag:
        for _ in range(40):
            for _ in range(50 if connection._nominated else 0):
                await connection.send(b"\x80" * 200)
            await asyncio.sleep(0.005)
        told = await next_event(person, Media)
    assert (told.state, told.detail) == ("failed", "It sends more than 1000 packets a second")
    assert "it sends more than 1000 packets a second" in caplog.text
    assert refused["connections"] == before + 1
    assert person.transport is None
    assert person.here
    assert lag.worst < HELD
    person.leave()
    await page.close()
    await background.idle()


async def test_who_sends_more_streams_than_any_browser_is_shut_out_in_words():
    person = join_room("default", "c", "caller")
    page = Browser(person, hertz=440)
    await connected(person, page)
    router = person.media._peer._transports()[0]._rtp_router
    for number in range(100):
        await transport_of(page)._send_rtp(rtp(1000 + number, number))
    told = await next_event(person, Media)
    assert (told.state, told.detail) == ("failed", "It sends more than 31 streams")
    assert len(router.ssrc_table) <= ice_guard.MAX_STREAMS
    person.leave()
    await page.close()
    await background.idle()


async def test_malformed_packets_do_not_end_the_call(on_call):
    agent = await on_call()
    ears = Ears(agent)
    person = join_room("default", "c", "caller")
    async with browser(person, hertz=440, camera=Camera(100)) as page:
        await next_event(person, Media, lambda event: event.state == "connected")
        transport = transport_of(page)
        mine = [transceiver.sender._ssrc for transceiver in person.media._peer._connection.getTransceivers()]
        theirs = [transceiver.sender._ssrc for transceiver in page.pc.getTransceivers()]
        short_time = struct.pack("!HHBBH", 0xBEDE, 1, 0x30, 1, 0)  # abs-send-time of one byte
        for number in range(10):
            await transport._send_rtp(rtp(777, 100 + number, extension=short_time))
            await transport._send_rtp(rtp(777, 200 + number, payload=b""))
            await transport._send_rtp(rtp(777, 300 + number, payload=b"\xff" + b"\x3f" * 1200))
            await transport._send_rtp(rtp(778, 20_000 * number, payload_type=97, payload=b"\xff\xff"))
            await transport._send_rtp(bit_rate_without_streams())
            await transport._send_rtp(goodbye(*theirs))
            await transport._send_rtp(goodbye() * 100)
            await transport._send_rtp(b"\x80\xc9\x00\x01" + bytes(4))
            for ssrc in mine:
                await transport._send_rtp(picture_wish(ssrc))
        await until(lambda: "caller" in ears.heard)
        ears.heard.clear()
        await until(lambda: loudness(ears.heard.get("caller", ears.frames[-1].samples)[-24_000:], 440) > 0.2)
        assert person.transport == "webrtc"


async def test_a_report_that_names_a_packet_a_thousand_times_has_it_sent_once(on_call):
    agent = await on_call()
    person = join_room("default", "c", "caller")
    async with browser(person, hertz=440) as page:
        await next_event(person, Media, lambda event: event.state == "connected")
        speaker = join_room("default", "c", "speaker")
        async with browser(speaker, hertz=700):
            await until(lambda: len(page.heard) > 24_000)
            sender = person.media._peer._connection.getTransceivers()[0].sender
            sent = []
            again = sender._retransmit

            async def retransmit(number: int) -> None:
                sent.append(number)
                await again(number)

            sender._retransmit = retransmit
            for _ in range(20):
                await transport_of(page)._send_rtp(nack(sender._ssrc, 100, 300))
            await until(lambda: len(sent) >= 17)
            await asyncio.sleep(0.1)
            assert len(sent) <= 17 * 20
            assert len(sent) < 250, "one second's worth, and the burst"
    assert agent is not None


def test_a_jump_in_a_stream_is_not_counted_through():
    missing = Missing()
    packet = RtpPacket(sequence_number=0)
    for number in (0, 3, 20_000, 50_000, 50_002):
        packet.sequence_number = number
        missing.add(packet)
        assert len(missing.missing) <= 2
    assert missing.missing == {50_001}


def test_times_that_jump_stay_within_a_report():
    statistics = Statistics(90_000)
    packet = RtpPacket()
    for number in range(200):
        packet.sequence_number, packet.timestamp = number, (number % 2) * 0xFFFFFFFF
        statistics.add(packet)
    struct.pack("!L", statistics.jitter)


def test_a_pause_is_not_stepped_through(monkeypatch):
    counter = vp8._Counter(1000)
    counter.add(100, 1_000)
    hours = 10**12
    began = time.thread_time()
    counter.add(100, hours)
    assert counter.rate(hours + 10) == round(8000 * 100 / 11)
    counter.add(100, 5_000)
    assert time.thread_time() - began < HELD


async def test_encryption_is_not_agreed_again():
    person = join_room("default", "c", "caller")
    async with browser(person, hertz=None):
        await next_event(person, Media, lambda event: event.state == "connected")
        [transport] = {*person.media._peer._transports()}
        options = SSL._lib.SSL_CTX_get_options(transport._ssl.get_context()._context)
        assert options & SSL.OP_NO_RENEGOTIATION


def test_whoever_is_shut_out_is_told_why():
    def told(event):
        return to_message(event, lambda agent_id: None, for_guest=True).message

    assert told(Media("webrtc", "failed", "It sends too much")) == {
        "type": "media",
        "transport": "webrtc",
        "state": "failed",
        "detail": "It sends too much",
    }
    assert "detail" not in told(Media("webrtc", "connected"))


# Data channels


async def test_malformed_chunks_do_not_hold_the_loop_nor_end_the_channel():
    person = join_room("default", "c", "caller")
    async with browser(person, hertz=None) as page:
        await until(lambda: person.custom_by_data_channel and page.channel.readyState == "open")
        number = page.pc.sctp._local_tsn
        head = struct.pack("!LHHL", number + 200, 1, 0, 51)
        async with Lag() as lag:
            for chunks in (
                chunk(255, b"", length=0),  # aiortc never comes to its end
                chunk(sctp.HEARTBEAT, struct.pack("!HH", 1, 0)),  # nor to that of this
                chunk(sctp.SACK, struct.pack("!LLHH", 0, 0, 200, 0) + struct.pack("!HH", 0, 65535) * 200),
                chunk(sctp.SACK, struct.pack("!LLHH", 0, 0, 9999, 0)),
                chunk(sctp.FORWARD, struct.pack("!L", number) + b"".join(struct.pack("!HH", i, 0) for i in range(200))),
                chunk(sctp.DATA, struct.pack("!LHHL", number + 100_000, 1, 0, 51) + b"far ahead"),
                chunk(sctp.DATA, struct.pack("!LHHL", number, 60_000, 0, 51) + b"no such stream", flags=3),
                chunk(sctp.DATA, b""),
                chunk(sctp.RECONFIG, chunk(0, b"\0" * 13)[2:]),
                chunk(sctp.RECONFIG, struct.pack("!HHLLLB", 13, 17, 0, 0, 0, 1)),
                chunk(sctp.INIT, b""),
                chunk(sctp.SHUTDOWN, b""),
                chunk(sctp.HEARTBEAT, b"") * 300,
                chunk(sctp.DATA, head + b"x", length=4000),
            ):
                await send_sctp(page, chunks)
            await asyncio.sleep(0.05)
        assert lag.worst < HELD
        assert person.media.send_custom({"n": 1}, "agent")
        await until(lambda: bool(page.messages))
        assert len(person.media._peer._connection.sctp._inbound_streams) <= 2


async def test_a_message_that_is_never_completed_is_kept_up_to_a_bound():
    person = join_room("default", "c", "caller")
    page = Browser(person, hertz=None)
    await connected(person, page)
    await until(lambda: page.channel.readyState == "open")
    association = person.media._peer._connection.sctp
    number = page.pc.sctp._local_tsn
    async with Lag() as lag:
        for piece in range(1000):
            if page.pc.sctp.transport.state != "connected":
                break
            body = struct.pack("!LHHL", number + piece, page.channel.id, 1, 51) + b"x" * 20
            await send_sctp(page, chunk(sctp.DATA, body, flags=2 if piece == 0 else 0))
            if piece % 50 == 0:
                await asyncio.sleep(0.01)
    streams = association._inbound_streams.values()
    assert sum(len(stream.reassembly) for stream in streams) <= sctp.MAX_PIECES
    assert len(association._sack_misordered) <= sctp.MAX_AHEAD
    assert lag.worst < HELD
    assert (await next_event(person, Media)).detail == "It sends over its data channel what no browser does"
    person.leave()
    await page.close()
    await background.idle()


async def test_channels_are_opened_up_to_a_number_and_messages_read_up_to_a_size():
    person = join_room("default", "c", "caller")
    async with browser(person, hertz=None) as page:
        await until(lambda: person.custom_by_data_channel and page.channel.readyState == "open")
        association = person.media._peer._connection.sctp
        page.pc.sctp._receive_reconfig_param = _ignore
        for _ in range(20):
            page.pc.createDataChannel("another")
        page.channel.send("x" * 40_000)
        page.channel.send(b"\xff")
        await until(lambda: len(association._data_channels) == sctp.MAX_CHANNELS)
        await asyncio.sleep(0.2)
        assert len(association._data_channels) == sctp.MAX_CHANNELS
        assert person.custom_by_data_channel


async def _ignore(*arguments: object) -> None: ...


# Pictures


async def test_a_picture_that_declares_to_be_huge_is_not_decoded_and_nobody_waits_for_it(on_call, caplog):
    await on_call(stub_agent(edge=BrowserEdge(), processors=[Eye()]))
    person = join_room("default", "c", "caller")
    page = Browser(person, hertz=None)
    frames = Frames([key_frame(16383, 16383)] * 40)
    page.pc.addTrack(frames)
    await connected(person, page)
    taken = person.media._peer._video_in
    async with Lag() as lag:
        frames.begin.set()
        await until(lambda: frames.all_sent and taken.refused >= 30)
        assert taken._codec is None
        assert not [thread for thread in threading.enumerate() if thread.name == "video-decoder"]
        person.leave()
        await background.idle()
    assert lag.worst < HELD
    assert not taken._frames
    assert caplog.text.count("A camera sends pictures of 16383 by 16383") == 1
    await page.close()


async def test_a_camera_is_seen_again_after_frames_that_cannot_be_decoded(on_call):
    eye = Eye()
    await on_call(stub_agent(edge=BrowserEdge(), processors=[eye]))
    person = join_room("default", "c", "caller")
    page = Browser(person, hertz=None)
    broken = [
        b"",
        b"\x00",
        b"\x10\x02\x00",
        key_frame(0, 100),
        key_frame(160, 120),
        key_frame(4000, 4000),
        b"\x01" * 900,
    ]
    frames = Frames([*await _encoded(Camera(200), 25), *broken, *await _encoded(Camera(90), 25)], pause=0.02)
    page.pc.addTrack(frames)
    await connected(person, page)
    frames.begin.set()
    await until(lambda: any(luma > 150 for luma in eye.seen) and bool(eye.seen) and 70 < eye.seen[-1] < 110)
    person.leave()
    await page.close()
    await background.idle()


async def _encoded(camera: Camera, count: int) -> list[bytes]:
    encoder = av.CodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.bit_rate = 160, 120, "yuv420p", 300_000
    encoder.time_base = Fraction(1, 90_000)
    frame = await camera.recv()
    packets = []
    for number in range(count):
        frame.pts = number * 3000
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets + [bytes(packet) for packet in encoder.encode(None)]


def test_a_size_may_change_a_few_times_and_not_at_every_frame():
    judged = vp8.Vp8In.__new__(vp8.Vp8In)
    judged._size, judged._told = None, False
    judged._sizes = vp8.Bucket(rate=0.5, burst=8)
    taken = [judged._takes((160 + number, 120)) for number in range(50)]
    assert taken.count(True) == 8
    assert judged._takes(judged._size)
    assert vp8.key_frame_size(key_frame(1920, 1200)) == (1920, 1200)
    assert judged._takes((1920, 1201)) is False


# Sound


def test_an_opus_packet_says_how_much_sound_it_holds():
    out = OpusOut()
    out.push(np.zeros(960, dtype=np.int16), 1)
    assert seconds_in(bytes(out._packets[0])) == 0.02
    assert seconds_in(b"\x1b\x30" + bytes(10)) == pytest.approx(48 * 0.06)
    assert seconds_in(b"\x80") == 0.0025
    assert seconds_in(b"\x83") == 0.0025
