"""Who is at the other end of a connection from this machine, as the kernel tells."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.trust import real_doubt
from visionagents_runner.auth import local_processes

_PROGRAM = """
import socket, sys
{before}
connection = socket.create_connection(("{host}", {port}))
print("there", flush=True)
sys.stdin.read()
"""


@contextmanager
def connection(
    before: str = "", host: str = "127.0.0.1", argv0: list[str] | None = None
) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """Have another program connect to us; yields the scope of what it would ask."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        program = _PROGRAM.format(before=before, host=host, port=listener.getsockname()[1])
        process = subprocess.Popen(
            [*(argv0 or [sys.executable]), "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            accepted, client = listener.accept()
            assert process.stdout is not None
            process.stdout.readline()
            with accepted:
                yield {"client": client[:2], "server": accepted.getsockname()[:2]}, process
        finally:
            process.communicate()


@pytest.fixture(autouse=True)
def children_are_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test starts is not taken for what the server started."""
    monkeypatch.setattr(local_processes, "_is_ours", lambda pid: pid == os.getpid())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.0.0.9"])
async def test_a_program_that_only_asks_us_is_trusted(host: str) -> None:
    with connection(host=host) as (scope, _):
        assert await real_doubt(scope) is None


async def test_a_mapped_address_is_the_same_connection() -> None:
    with connection() as (scope, _):
        mapped = {name: (f"::ffff:{host}", port) for name, (host, port) in scope.items()}
        assert await real_doubt(mapped) is None


FORWARDERS = {
    "listens": "other = socket.create_server(('127.0.0.1', 0))",
    "listens on a unix socket": "other = socket.socket(socket.AF_UNIX); other.bind('\\0' + 'x' * 20 + str(id(other))); "
    "other.listen()",
    "took a connection": "listener = socket.create_server(('127.0.0.1', 0)); "
    "far = socket.create_connection(listener.getsockname()); taken, _ = listener.accept(); listener.close()",
    "connects to another port": "listener = socket.create_server(('127.0.0.1', 0)); "
    "far = socket.create_connection(listener.getsockname()); listener.close()",
    "sends datagrams": "other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); other.bind(('0.0.0.0', 0))",
}


@pytest.mark.parametrize("before", FORWARDERS.values(), ids=FORWARDERS)
async def test_a_program_that_serves_or_reaches_others_is_not(before: str) -> None:
    with connection(before) as (scope, _):
        assert await real_doubt(scope) == local_processes.A_FORWARDER


async def test_what_stays_within_the_program_does_not_matter() -> None:
    with connection("pair = socket.socketpair(); import asyncio; loop = asyncio.new_event_loop()") as (scope, _):
        assert await real_doubt(scope) is None


async def test_several_connections_to_us_do_not_matter() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        first = socket.create_connection(listener.getsockname())
        second = socket.create_connection(listener.getsockname())
        with first, second:
            inode = os.fstat(first.fileno()).st_ino
            other = os.fstat(second.fileno()).st_ino
            assert local_processes._harmless({other}, os.getpid(), listener.getsockname()[1])
            assert not local_processes._harmless({other}, os.getpid(), 1)
            assert not local_processes._harmless({inode, os.fstat(listener.fileno()).st_ino}, os.getpid(), 1)


async def test_browsers_and_programs_that_pass_on_are_known_by_name(tmp_path: Any) -> None:
    with connection(FORWARDERS["listens"]) as (scope, process):
        name = os.path.basename(os.readlink(f"/proc/{process.pid}/exe"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(local_processes, "BROWSERS", {name})
            assert await real_doubt(scope) is None
    with connection() as (scope, process), pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_processes, "FORWARDERS", {name})
        assert await real_doubt(scope) == local_processes.A_FORWARDER


async def test_the_server_itself_and_what_it_started_are_not_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with connection() as (scope, _):
        assert await real_doubt(scope) == local_processes.OUR_OWN
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        accepted, client = listener.accept()
        with accepted:
            scope = {"client": client, "server": accepted.getsockname()}
            assert await real_doubt(scope) == local_processes.OUR_OWN


async def test_another_user_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with connection() as (scope, _):
        user = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: user)
        assert await real_doubt(scope) == local_processes.ANOTHER_USER


@pytest.mark.parametrize(
    "scope",
    [
        {},
        {"client": None, "server": ("127.0.0.1", 8000)},
        {"client": ("127.0.0.1", 1), "server": None},
        {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)},
        {"client": ("127.0.0.1", 0), "server": ("/run/socket", None)},
        {"client": ("127.0.0.1", 99999), "server": ("127.0.0.1", 8000)},
        {"client": ("::1", 5), "server": ("127.0.0.1", 8000)},
        {"client": ("localhost", 5), "server": ("localhost", 8000)},
    ],
)
async def test_what_the_kernel_does_not_know_is_not_trusted(scope: dict[str, Any]) -> None:
    assert await real_doubt(scope) == local_processes.NOT_TOLD


async def test_whoever_listens_on_the_port_is_not_taken_for_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        scope = {"client": listener.getsockname(), "server": ("127.0.0.1", 9)}
        assert await real_doubt(scope) == local_processes.NOT_TOLD


async def test_without_the_kernels_word_nobody_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    with connection() as (scope, _):
        monkeypatch.setattr(local_processes, "_netlink", lambda: None)
        assert await real_doubt(scope) == local_processes.NOT_TOLD
        assert not local_processes.can_tell()


async def test_one_look_is_enough_for_a_connection_and_none_counts_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []
    judge = local_processes._judge
    monkeypatch.setattr(local_processes, "_judge", lambda found, port: looks.append(found.inode) or judge(found, port))
    with connection() as (scope, _):
        for _ in range(3):
            assert await real_doubt(scope) is None
            # daphne makes the address of each request anew.
            assert await real_doubt({**scope, "client": list(scope["client"])}) is None
    assert len(looks) == 1
    with connection(FORWARDERS["listens"]) as (scope, _):
        assert await real_doubt(scope) == local_processes.A_FORWARDER
    assert len(looks) == 2
    gone = {**scope, "client": list(scope["client"])}
    assert await real_doubt(gone) == local_processes.NOT_TOLD


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_processes, "_MOST_VERDICTS", 3)
    with connection() as (scope, _):
        for _ in range(10):
            assert await real_doubt({**scope, "client": list(scope["client"])}) is None
    assert len(local_processes._by_object) <= 3


async def test_a_look_that_would_cost_too_much_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with connection() as (scope, _):
        monkeypatch.setattr(local_processes, "_MOST_FILES", 0)
        monkeypatch.setattr(local_processes, "_recent", [1])
        assert await real_doubt(scope) == local_processes.NOT_TOLD
    with connection() as (scope, _), monkeypatch.context() as patch:
        patch.setattr(local_processes, "_MOST_FILES", 100_000)
        patch.setattr(local_processes, "_MOST_LOOKS", 0)
        assert await real_doubt(scope) == local_processes.NOT_TOLD
        patch.setattr(local_processes, "_MOST_LOOKS", 1)
        assert await real_doubt(scope) is None
