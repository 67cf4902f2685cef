"""Which process this is, so that another one on the same machine can tell for certain that it is dead."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path


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
    """Return the start time of a process in ticks since boot, or "" if there is no such process (or no /proc)."""
    stat = _read(f"/proc/{pid}/stat")
    # The name, in parentheses, may itself contain spaces and parentheses; field 22 counts from before it.
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in {"Z", "X"}:
        return ""
    return fields[19]


def is_known_dead(pid: int, started: str) -> bool:
    """Whether the process that had this PID and start time on this machine and boot is certainly gone."""
    return bool(started) and start_time(os.getpid()) != "" and start_time(pid) != started


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
