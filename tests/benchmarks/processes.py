"""The servers under test: started on a free port of 127.0.0.1, watched, and ended whatever happens. Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Host:
    """One way to host the agents."""

    name: str
    command: tuple[str, ...]
    ours: bool


def _serveagents(server: str) -> tuple[str, ...]:
    levels = ("--agents-log-level", "{level}", "--http-log-level", "{level}")
    return ("manage.py", "serveagents", "--server", server, "--port", "{port}", "--no-splash", *levels)


DAPHNE = Host("daphne", _serveagents("daphne"), ours=True)
UVICORN = Host("uvicorn", _serveagents("uvicorn"), ours=True)
THEIRS = Host("theirs", ("-m", "tests.benchmarks.theirs", "{port}", "{level}"), ours=False)


@dataclass(frozen=True)
class Server:
    host: Host
    pid: int
    port: int

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far; those that have ended do not count."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except FileNotFoundError:  # a thread that ended meanwhile
                continue
        return total / 1e9

    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def environment(**more: str) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.benchmarks.settings",
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": "",
        **more,
    }


@contextmanager
def serving(
    host: Host, folder: Path, *, database_url: str = "", log_level: str = "WARNING", **env: str
) -> Iterator[Server]:
    """Start ``host`` and wait until it takes sessions; at the end it closes its sessions and is gone."""
    port = _free_port()
    command = [sys.executable, *(part.format(port=port, level=log_level) for part in host.command)]
    log = folder / f"{host.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(**({"DATABASE_URL": database_url} if database_url else {}), **env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
        try:
            _wait_ready(process, port, log)
            yield Server(host, process.pid, port)
        finally:
            _end(process)


def die_with_parent() -> None:
    """Run in a child before it becomes its program: no way of ending the benchmark leaves a process behind."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    tail = log.read_text(errors="replace")[-3000:]
    raise RuntimeError(f"{' '.join(map(str, process.args))} did not become ready:\n{tail}")  # type: ignore[arg-type]


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
