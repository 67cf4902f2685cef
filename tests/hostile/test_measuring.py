"""What the harness measures with: it must see a fault, and none where there is none."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.benchmarks.processes import ROOT

from .player import BUFFER_SECONDS, FRAME_SECONDS, Ear
from .server import Watcher

_HELD = """
import asyncio, sys, time
from tests.hostile.watch import Watch

def computes():
    until = time.thread_time() + 0.15
    while time.thread_time() < until:
        pass

def waits():
    time.sleep(0.12)

async def main():
    await asyncio.sleep(0.1)
    for hold in (computes, waits):
        print("next", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        hold()
        await asyncio.sleep(0.05)
    print("next", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

Watch().install(sys.argv[1])
asyncio.run(main())
"""


@pytest.mark.slow
async def test_what_holds_the_loop_is_seen_with_its_line() -> None:
    with tempfile.TemporaryDirectory() as folder:
        address = str(Path(folder, "watch"))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _HELD, address), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        watcher = Watcher(address)
        seen = []
        for _ in range(3):
            assert await process.stdout.readline() == b"next\n"
            seen.append(await watcher.ask())
            process.stdin.write(b"\n")
        await watcher.close()
        process.stdin.close()
        await process.stdin.wait_closed()
        assert await process.stdout.read() == b""
        assert await process.wait() == 0
        [idle, computed, waited] = seen
        assert idle["holds"] == []
        assert computed["held_ms"] >= 149
        assert computed["holds"][0]["cpu_ms"] >= 149
        assert "computes" in computed["holds"][0]["where"]
        assert waited["held_ms"] >= 119
        assert waited["holds"][0]["cpu_ms"] < 60
        assert "waits" in waited["holds"][0]["where"]


def _packet(number: int, kind: int = 111) -> bytes:
    return struct.pack("!BBHII", 0x80, kind, number & 0xFFFF, (7 * 960 + number * 960) & 0xFFFFFFFF, 1) + b"sound"


def _hear(ear: Ear, numbers: range, *, late: float = 0.0, began: float = 1000.0) -> None:
    for number in numbers:
        ear.packet(_packet(number), began + number * FRAME_SECONDS + late)


def _concealed(ear: Ear, frames: int) -> tuple[int, int]:
    judged = ear.judge(1000.0 + (frames + 0.5) * FRAME_SECONDS + BUFFER_SECONDS)
    return judged["expected"], judged["concealed"]


def test_sound_that_comes_in_time_is_heard() -> None:
    ear = Ear()
    _hear(ear, range(10))
    _concealed(ear, 9)
    _hear(ear, range(10, 110), late=BUFFER_SECONDS - 0.001)
    assert _concealed(ear, 109) == (100, 0)


def test_sound_that_comes_late_or_never_is_concealed() -> None:
    ear = Ear()
    _hear(ear, range(10))
    _concealed(ear, 9)
    _hear(ear, range(10, 50))
    _hear(ear, range(50, 60), late=BUFFER_SECONDS + 0.001)
    _hear(ear, range(70, 110))
    assert _concealed(ear, 109) == (100, 20)
    assert _concealed(ear, 159) == (50, 50)


def test_only_packets_of_sound_count() -> None:
    ear = Ear()
    ear.packet(b"\x00\x01\x00\x00" + bytes(16), 1000.0)
    ear.packet(_packet(0, kind=200 & 0x7F), 1000.0)
    assert ear.judge(time.monotonic())["expected"] == 0


async def test_a_server_that_does_not_answer_is_said_so() -> None:
    from .clients import NO_ANSWER, TOO_LATE, exchange

    connections: list[asyncio.Task[None] | None] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.current_task())
        with suppress(OSError):
            if await reader.read(1) == b"y":
                await reader.read()
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await exchange(port, b"x") == NO_ANSWER
        assert await exchange(port, b"y", seconds=0.1) == TOO_LATE
        await asyncio.gather(*(task for task in connections if task is not None))


def test_every_body_is_about_as_large_as_was_asked_for() -> None:
    from .kinds import junk

    for make in junk.BODIES:
        assert 80_000 < len(make(100_000)) < 125_000, make
    assert json.loads(junk.empty_lists(999)) == [[]] * 333
