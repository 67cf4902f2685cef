"""Servers run for as long as a command does, and nothing of them is left, however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.machine.requirements import ROOT, program_of

pytestmark = pytest.mark.slow

URLS = ("TEST_REDIS_URL", "POSTGRES_URL")
# Tells where they are, and waits for a line with its exit code, or for Ctrl-C.
COMMAND = f"""
import os, sys
print(*[os.environ[name] for name in {URLS}], os.environ["TMPDIR"], flush=True)
sys.exit(int(sys.stdin.readline()))
"""


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("3\n", timeout=60)


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)


def terminate(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(60)


@pytest.mark.parametrize(("how", "code"), [(end, 3), (press_ctrl_c, 130), (terminate, 130)])
def test_they_end_with_the_command_whichever_way_and_leave_nothing(
    how: Callable[[subprocess.Popen[str]], None], code: int
) -> None:
    program_of("redis")
    program_of("postgresql")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.machine.servers", "sqlite", "--", sys.executable, "-c", COMMAND],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in URLS},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        process_group=0,
    )
    try:
        assert process.stdout is not None
        *urls, folder = process.stdout.readline().split()
        addresses = [(parts.hostname, parts.port) for parts in map(urlsplit, urls)]
        assert [host for host, _ in addresses] == ["127.0.0.1", "127.0.0.1"]
        for address in addresses:
            socket.create_connection(address, 10).close()
        how(process)
        assert process.returncode == code
        for address in addresses:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, 10)
        assert not Path(folder).exists()
    finally:
        process.kill()
        process.communicate()
