"""Reading lines from whatever standard input is."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import threading

import pytest

from visionagents_runner.cli.console.lines import LineReader


async def all_lines(stream) -> list[str]:
    reader = LineReader(stream)
    lines = []
    while (line := await reader.readline()) is not None:
        lines.append(line)
    reader.close()
    return lines


@pytest.fixture
def pipe():
    read, write = os.pipe()
    with os.fdopen(read) as reading, os.fdopen(write, "wb", buffering=0) as writing:
        yield reading, writing


async def test_lines_of_a_pipe_come_as_they_are_written(pipe):
    reading, writing = pipe
    reader = LineReader(reading)
    writing.write(b"one\ntwo\r\nthr")
    assert await reader.readline() == "one"
    assert await reader.readline() == "two"
    waiting = asyncio.create_task(reader.readline())
    await asyncio.sleep(0)
    writing.write("ee é\n".encode())
    assert await waiting == "three é"


async def test_the_last_line_needs_no_end_and_bytes_that_are_no_text_are_replaced(pipe):
    reading, writing = pipe
    writing.write(b"a\xffb\xc3")
    writing.close()
    assert await all_lines(reading) == ["a\ufffdb\ufffd"]


async def test_a_character_cut_by_the_pipe_is_put_together(pipe):
    reading, writing = pipe
    reader = LineReader(reading)
    first, second = "é\n".encode()[:1], "é\n".encode()[1:]
    writing.write(first)
    waiting = asyncio.create_task(reader.readline())
    await asyncio.sleep(0)
    writing.write(second)
    assert await waiting == "é"


async def test_a_regular_file_which_epoll_refuses_is_read(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("one\n\nthree")
    with path.open() as file:
        assert await all_lines(file) == ["one", "", "three"]


async def test_a_stream_without_a_descriptor_is_read():
    assert await all_lines(io.StringIO("one\ntwo\n")) == ["one", "two"]


async def test_dev_null_and_no_standard_input_at_all_are_empty():
    with open(os.devnull) as null:  # noqa: ASYNC230
        assert await all_lines(null) == []
    assert await all_lines(None) == []


async def test_a_cancelled_wait_leaves_no_reader_behind_and_loses_no_line(pipe):
    reading, writing = pipe
    reader = LineReader(reading)
    waiting = asyncio.create_task(reader.readline())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.get_running_loop().remove_reader(reading.fileno()) is False
    writing.write(b"later\n")
    assert await reader.readline() == "later"


async def test_watching_a_pipe_does_not_change_its_mode(pipe):
    reading, writing = pipe
    writing.write(b"x\n")
    await LineReader(reading).readline()
    assert os.get_blocking(reading.fileno())


async def test_no_thread_is_used_for_a_pipe(pipe):
    reading, writing = pipe
    before = threading.active_count()
    writing.write(b"x\n")
    await LineReader(reading).readline()
    assert threading.active_count() == before


def test_a_process_ends_though_its_input_still_blocks_a_thread():
    code = """
import asyncio, io, threading
from visionagents_runner.cli.console.lines import LineReader
class Blocking(io.TextIOBase):
    def readline(self, size=-1):
        asked.set()
        threading.Event().wait()
async def main():
    reading = asyncio.create_task(LineReader(Blocking()).readline())
    await asyncio.to_thread(asked.wait)
    reading.cancel()
asked = threading.Event()
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
