"""The second call: a real client in a process of its own, which measures what it does not hear in time.

Each frame of 20 ms carries its place in time. It must arrive no later than `BUFFER_SECONDS` after the quickest frame
would, as in a browser's jitter buffer; one that comes later, or never, is sound that a browser makes up ("concealed").
The kernel says when a packet arrived, so that a client that has to wait for its turn does not look like a late server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
import subprocess
import sys
import time
from typing import Any

from tests.benchmarks.processes import ROOT, die_with_parent
from tests.edge.browser import loudness

from .clients import Page, seated

BUFFER_SECONDS = 0.06
FRAME_SECONDS = 0.02
_FRAME_TICKS = 960
_SO_TIMESTAMPNS = 35
_SETTLE_SECONDS = 0.3


class Ear:
    """Counts the frames of one RTP stream."""

    def __init__(self) -> None:
        self._arrived: dict[int, float] = {}
        self._last: int | None = None
        self._base = float("inf")
        self._judged: int | None = None
        self._longest = 0.0
        self._at = 0.0

    def packet(self, data: bytes, at: float) -> None:
        if not (len(data) >= 12 and 128 <= data[0] < 192) or 64 <= data[1] & 0x7F < 96:
            return  # not RTP
        (ticks,) = struct.unpack_from("!I", data, 4)
        number = ticks // _FRAME_TICKS if self._last is None else self._last + self._ahead(ticks)
        self._last = number if self._last is None else max(self._last, number)
        self._arrived.setdefault(number, at)
        self._base = min(self._base, at - number * FRAME_SECONDS)
        if self._at:
            self._longest = max(self._longest, at - self._at)
        self._at = at

    def _ahead(self, ticks: int) -> int:
        assert self._last is not None
        ahead = (ticks // _FRAME_TICKS - self._last) % (2**32 // _FRAME_TICKS)
        return ahead if ahead < 2**31 // _FRAME_TICKS else ahead - 2**32 // _FRAME_TICKS

    def judge(self, now: float) -> dict[str, Any]:
        """What was to be heard since the last time, and what of it was not."""
        if self._last is None:
            return {"expected": 0, "concealed": 0, "longest_ms": 0.0, "median_ms": 0.0}
        due = int((now - self._base - BUFFER_SECONDS) / FRAME_SECONDS)
        first = due if self._judged is None else self._judged + 1
        numbers = range(first, due + 1)
        heard = sum(
            self._arrived.get(number, float("inf")) <= self._base + number * FRAME_SECONDS + BUFFER_SECONDS
            for number in numbers
        )
        if numbers:
            self._judged = due
        lates = sorted(
            self._arrived[number] - self._base - number * FRAME_SECONDS for number in numbers if number in self._arrived
        )
        median = lates[len(lates) // 2] if lates else 0.0
        self._arrived = {number: at for number, at in self._arrived.items() if number > due}
        longest, self._longest = self._longest, 0.0
        return {
            "expected": len(numbers),
            "concealed": len(numbers) - heard,
            "longest_ms": round(longest * 1000, 1),
            "median_ms": round(median * 1000, 1),
        }


def listen(protocol: Any, ear: Ear) -> Any:
    """Read a socket of aioice's with the kernel's times; returns what reads all that waits in it."""
    transport = protocol.transport
    sock: socket.socket = transport._sock
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)

    def read() -> None:
        while not transport.is_closing():
            try:
                data, extra, _, address = sock.recvmsg(65536, 256)
            except OSError:
                return
            at = time.monotonic()
            for level, kind, value in extra:
                if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
                    seconds, nanoseconds = struct.unpack("qq", value[:16])
                    at -= time.time() - seconds - nanoseconds / 1e9
            ear.packet(data, at)
            protocol.datagram_received(data, address)

    loop: Any = asyncio.get_running_loop()
    loop._remove_reader(sock.fileno())
    loop._add_reader(sock.fileno(), read)
    return read


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("call")
    parser.add_argument("token")
    parser.add_argument("hertz", type=float)
    options = parser.parse_args()
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with seated(options.port, options.call, options.token) as seat:
        page = Page(seat)
        await page.connect()
        await page.until_connected()
        ear = Ear()
        readers = [listen(protocol, ear) for protocol in page.transport.transport._connection._protocols]
        await asyncio.sleep(1)
        ear.judge(time.monotonic())
        print(json.dumps({"ready": True}), flush=True)
        while await lines.readline():
            for read in readers:
                read()
            answer = ear.judge(time.monotonic() - _SETTLE_SECONDS)
            answer["tone"] = round(loudness(page.heard[-24_000:], options.hertz), 2)
            answer["closed"] = None if seat.closed is None else str(seat.closed)
            print(json.dumps(answer), flush=True)
        await page.close()


class Player:
    """The process, from outside."""

    def __init__(self, port: int, call: str, token: str, hertz: float) -> None:
        command = [sys.executable, "-m", "tests.hostile.player", str(port), call, token, str(hertz)]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        if not line:
            raise RuntimeError("The second call's client has ended")
        return dict(json.loads(line))

    async def window(self) -> dict[str, Any]:
        """What was to be heard since the last time, and what was not."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return await self.hear()

    def close(self) -> None:
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


if __name__ == "__main__":
    asyncio.run(main())
