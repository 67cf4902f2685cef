"""Whether a program of this user, and no proxy, is at the other end of a connection from this machine.

What a request says of itself proves nothing: a proxy or a tunnel on this machine that passes on what it gets makes
everybody look local. The kernel knows better. It tells who owns the other end of a loopback connection, and /proc shows
what else that program has open: whatever forwards has a listening socket, a connection that it took, or one to another
machine; curl has none of these. Two kinds are known by name instead: browsers, which have connections to everywhere,
and programs whose only use is to pass on what comes, through a pipe too.

What the kernel does not tell (not on Linux, another namespace, another user's process, something of an unknown kind) is
not trusted. Not seen through is a script that gets through a pipe what it asks for in somebody else's name.
"""

from __future__ import annotations

import asyncio
import atexit
import errno
import ipaddress
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..utils.bounded import keep
from ..utils.process import server_processes

ANOTHER_USER = "it comes from a program of another user"
A_FORWARDER = "it comes from a program that serves or reaches others too, as a proxy or a tunnel does"
OUR_OWN = "it comes from this server itself, or from a program that it runs"
NOT_TOLD = "this system does not tell which program sent it"

BROWSERS = frozenset(
    {
        *("brave", "chrome", "chrome-headless-shell", "chromium", "chromium-browser", "headless_shell", "msedge"),
        *("opera", "vivaldi-bin", "firefox", "firefox-bin", "firefox-esr", "librewolf", "waterfox"),
        *("epiphany", "WebKitNetworkProcess", "QtWebEngineProcess", "falkon", "konqueror"),
    }
)
FORWARDERS = frozenset(
    {
        *("nc", "nc.openbsd", "nc.traditional", "ncat", "netcat", "socat", "openssl", "stunnel", "stunnel4", "telnet"),
        *("ssh", "sshd", "sshd-session", "autossh", "dbclient", "dropbear", "cloudflared", "ngrok", "frpc", "chisel"),
        *("kubectl", "tailscaled", "docker-proxy", "rootlesskit", "systemd-socket-proxyd"),
    }
)

_MOST_VERDICTS = 4096
_MOST_LOOKS = 32
_MOST_FILES = 100_000
_MOST_LINES = 50_000
_MOST_ANCESTORS = 64
_RECENT = 16


@dataclass(frozen=True, slots=True)
class _Socket:
    """The other end of a connection, as the kernel knows it."""

    user: int
    inode: int
    cookie: bytes
    """No other socket has it until the next boot; address and port are soon used again."""


async def doubt(scope: Mapping[str, Any]) -> str | None:
    """Return None if a program of our user that forwards for nobody sent this request; else why that is not known.

    One look per connection, in a thread; after that it is a look into a dict, or, where the server makes each request
    an address of its own (daphne), one question to the kernel (6 us).
    """
    client, server = scope.get("client"), scope.get("server")
    if not client or not server:
        return NOT_TOLD
    # uvicorn gives all requests of a connection the same object, and each connection another one.
    known = _by_object.get(id(client))
    if known is not None and known[0] is client:
        return known[1]
    found = _other_end(client, server)
    if found is None:
        return NOT_TOLD
    if found.user != os.geteuid():
        verdict: str | None = ANOTHER_USER
    elif found.cookie in _by_cookie:
        verdict = _by_cookie[found.cookie]
    elif _looking >= _MOST_LOOKS:
        return NOT_TOLD  # for now: it is not remembered
    else:
        verdict = await _look(found, server[1])
        keep(_by_cookie, found.cookie, verdict, most=_MOST_VERDICTS)
    keep(_by_object, id(client), (client, verdict), most=_MOST_VERDICTS)
    return verdict


def can_tell() -> bool:
    """Whether this system tells who is at the other end of a connection."""
    return sys.platform == "linux" and _netlink() is not None and os.path.isdir("/proc/self/fd")


_by_object: dict[int, tuple[Any, str | None]] = {}
_by_cookie: dict[bytes, str | None] = {}
_looking = 0
_one_look = threading.Lock()


async def _look(found: _Socket, port: int) -> str | None:
    global _looking
    _looking += 1
    try:
        return await asyncio.to_thread(_judge, found, port)
    finally:
        _looking -= 1


def _judge(found: _Socket, port: int) -> str | None:
    try:
        with _one_look:
            pid = _owner(found.inode)
            return NOT_TOLD if pid is None else _doubt_of(pid, found.inode, port)
    except (OSError, ValueError, _TooMuch):
        return NOT_TOLD


# The kernel's word on a connection: NETLINK_SOCK_DIAG, asked for exactly one socket

_DIAG = 4
_BY_FAMILY = 20
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI")
_ANSWER_BYTES = 72
_LISTENS = 10
_ANY_COOKIE = b"\xff" * 8

_asking: tuple[int, socket.socket] | None = None
_one_question = threading.Lock()


def _netlink() -> socket.socket | None:
    global _asking
    if _asking is None or _asking[0] != os.getpid():  # one that was forked along answers the parent
        try:
            asking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _DIAG)
            asking.connect((0, 0))
        except (OSError, AttributeError):
            return None
        atexit.register(asking.close)
        _asking = os.getpid(), asking
    return _asking[1]


def _other_end(client: Any, server: Any) -> _Socket | None:
    try:
        (family, here), (its_family, there) = _address(server[0]), _address(client[0])
        ports = struct.pack("!HH", client[1], server[1])
    except (ValueError, TypeError, IndexError, struct.error):
        return None
    if family != its_family:
        return None
    ends = ports + there + here
    message = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF) + ends + b"\0" * 4 + _ANY_COOKIE
    with _one_question:
        netlink = _netlink()
        if netlink is None:
            return None
        try:
            netlink.send(_HEADER.pack(_HEADER.size + len(message), _BY_FAMILY, 1, 0, 0) + message)
            answer = netlink.recv(4096, socket.MSG_DONTWAIT)
        except OSError:
            return None
    if len(answer) < _HEADER.size + _ANSWER_BYTES or _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
        return None  # there is no such socket in this network namespace
    body = answer[_HEADER.size :]
    state, its_ports, cookie = body[1], body[4:8], body[44:52]
    user, inode = struct.unpack_from("=II", body, 64)
    # Where nobody is connected from that port, the kernel names who listens on it.
    if state == _LISTENS or its_ports != ports or not inode:
        return None
    return _Socket(user, inode, cookie)


@lru_cache(maxsize=256)
def _address(text: str) -> tuple[int, bytes]:
    """Return the family of an address, and its 16 bytes as the question has them."""
    address = ipaddress.ip_address(text)
    address = getattr(address, "ipv4_mapped", None) or address
    return (socket.AF_INET if address.version == 4 else socket.AF_INET6), address.packed.ljust(16, b"\0")


# What /proc shows of the program


class _TooMuch(Exception):
    """More than one look may cost."""


_recent: list[int] = []
"""Which processes were looked at last: a browser or a proxy comes again."""


def _owner(inode: int) -> int | None:
    """Return a process of our user that has this socket open."""
    wanted, left = f"socket:[{inode}]", _MOST_FILES
    for pid in _processes():
        for _, target in _files(pid):
            left -= 1
            if left < 0:
                raise _TooMuch
            if target == wanted:
                if pid in _recent:
                    _recent.remove(pid)
                _recent.insert(0, pid)
                del _recent[_RECENT:]
                return pid
    return None


def _processes() -> Iterator[int]:
    yield from list(_recent)
    # Whoever has just connected has probably just begun.
    pids = sorted((int(name) for name in os.listdir("/proc") if name.isdecimal()), reverse=True)
    user, seen = os.geteuid(), set(_recent)
    for pid in pids:
        if pid in seen:
            continue
        try:
            if os.stat(f"/proc/{pid}").st_uid == user:
                yield pid
        except OSError:
            continue


def _files(pid: int) -> Iterator[tuple[str, str]]:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        try:
            yield name, os.readlink(f"{folder}/{name}")
        except OSError:
            continue


def _doubt_of(pid: int, inode: int, port: int) -> str | None:
    if _is_ours(pid):
        return OUR_OWN
    program = os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)")
    if program in BROWSERS:
        return None
    if program in FORWARDERS:
        return A_FORWARDER
    sockets = {int(target[8:-1]) for _, target in _files(pid) if target.startswith("socket:[")}
    sockets.discard(inode)
    return A_FORWARDER if sockets and not _harmless(sockets, pid, port) else None


def _is_ours(pid: int) -> bool:
    """Whether it is this server, or was started by it: what an agent's tool fetches is not what its user asks for."""
    ours = server_processes()
    for _ in range(_MOST_ANCESTORS):
        if pid in ours:
            return True
        if pid <= 1:
            return False
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        pid = int(stat.rpartition(")")[2].split()[1])
    return True


def _harmless(sockets: set[int], pid: int, port: int) -> bool:
    """Whether each of these is known to lead to nobody: it takes no connections, and goes but to our ``port``."""
    left = set(sockets)
    for table, is_harmless, column in (
        ("unix", _unix_is_harmless, 6),
        ("tcp", lambda fields: _leads_here(fields[2], port), 9),
        ("tcp6", lambda fields: _leads_here(fields[2], port), 9),
        ("netlink", lambda fields: True, 9),
    ):
        if not left:
            break
        for fields in _rows(pid, table):
            if len(fields) > column and fields[column].isdecimal() and (number := int(fields[column])) in left:
                if not is_harmless(fields):
                    return False
                left.discard(number)
    return not left


def _unix_is_harmless(fields: list[str]) -> bool:
    # It neither listens, nor was taken by somebody who does: that one bears the listener's name.
    return fields[3] != "00010000" and len(fields) < 8


def _rows(pid: int, table: str) -> Iterator[list[str]]:
    try:
        with open(f"/proc/{pid}/net/{table}") as lines:
            next(lines, None)
            for count, line in enumerate(lines):
                if count > _MOST_LINES:
                    raise _TooMuch
                yield line.split()
    except OSError as error:
        if error.errno != errno.ENOENT:  # a kernel without IPv6
            raise


def _leads_here(end: str, port: int) -> bool:
    """Of an address as /proc writes it: four bytes of each word in the order of this machine."""
    words, _, number = end.partition(":")
    packed = b"".join(struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8))
    address = ipaddress.ip_address(packed)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback and int(number, 16) == port
