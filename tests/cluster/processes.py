"""Processes that end whatever happens, and the workers among them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks.processes import ROOT, die_with_parent

START_SECONDS = 90.0
_URL = re.compile(r"^ +open +(http://\S+?)/? ", re.MULTILINE)


def spawn(
    command: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path = ROOT, process_group: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that dies with this one. Call it on the main thread: it dies with its thread, to be exact.

    One in a process group of its own, ``process_group=0``, is not reached by Ctrl-C.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
            process_group=process_group,
        )


async def gone(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Wait until a process has ended; returns its code.

    Raises:
        TimeoutError: it runs on.
    """
    async with asyncio.timeout(seconds):
        while (code := process.poll()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return code


def free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class WorkerProcess:
    """One ``serveagents``. Its URL is known once it is ready."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log
        self.url = ""
        self.ready = False
        """Whether it took sessions once."""
        self.stopped = False
        """Whether SIGSTOP holds it."""
        self.was_stopped = False
        """Whether it ever did."""
        self.killed = False
        """Whether it was given no chance to end in order."""
        self.leaving = False
        """Whether it was asked to end."""

    def __repr__(self) -> str:
        return f"<{self.name} {self.process.pid}>"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def answers(self) -> bool:
        """Whether it is one to send requests to."""
        return self.alive and self.ready and not self.stopped and not self.leaving

    def read_url(self) -> str:
        """Return where it says that it listens; "" if it has not said so yet."""
        found = _URL.search(self.log.read_text(errors="replace"))
        return found[1] if found else ""

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            self.process.send_signal(number)
        self.stopped = number == signal.SIGSTOP or (self.stopped and number != signal.SIGCONT)
        self.was_stopped |= self.stopped
        self.killed |= number == signal.SIGKILL
        self.leaving |= number in {signal.SIGTERM, signal.SIGINT, signal.SIGKILL}

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait(10)

    def tail(self, characters: int = 3000) -> str:
        return self.log.read_text(errors="replace")[-characters:]

    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


async def end(processes: Sequence[subprocess.Popen[bytes]], *, first: signal.Signals, seconds: float) -> None:
    """Have processes end: by the signal ``first``, and by SIGKILL those that have not within ``seconds``."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(first)
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            await gone(process, max(0.1, deadline - time.monotonic()))
        except TimeoutError:
            process.kill()
            process.wait(10)
