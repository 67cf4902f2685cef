"""Which process this is, so that another one on the same machine can tell for certain that it is dead."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

_DEAD_STATES = frozenset({"Z", "X"})


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """``boot_id`` and ``pid_namespace`` say where ``pid`` means something; they are empty where /proc is missing.

    ``started`` is the start time of the process in clock ticks since boot: PIDs are used again, pairs are not.
    """

    hostname: str
    pid: int
    boot_id: str
    pid_namespace: str
    started: str


def identify() -> ProcessIdentity:
    pid = os.getpid()
    return ProcessIdentity(
        hostname=socket.gethostname()[:255],
        pid=pid,
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        pid_namespace=_link("/proc/self/ns/pid"),
        started=start_time(pid),
    )


def start_time(pid: int) -> str:
    """Return the start time of a process in ticks since boot, or "" if it is gone, or /proc does not show it."""
    fields = _stat(pid)
    return "" if len(fields) < 20 or fields[0] in _DEAD_STATES else fields[19]


def is_known_dead(pid: int, started: str) -> bool:
    """Whether the process that had this PID and start time on this machine and boot is certainly gone."""
    if not started or not start_time(os.getpid()):
        return False
    if _stat(pid):
        return start_time(pid) != started
    # /proc may hide the processes of other users: then only the kernel's answer counts.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _stat(pid: int) -> list[str]:
    # The name, in parentheses, may itself contain spaces and parentheses; field 22 counts from before it.
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


_server_processes: set[int] = set()


def add_server_process(pid: int) -> None:
    """Count the process ``pid`` among those that are this server, besides this process."""
    _server_processes.add(pid)


def server_processes() -> set[int]:
    """Return the ids of the processes that are this server, as far as this one knows."""
    return {os.getpid(), *_server_processes}
