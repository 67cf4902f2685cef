"""Whoever asks through a proxy or a tunnel on this machine is not local, whatever it tells; curl is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.machine.requirements import require
from tests.processes import ROOT, environment
from tests.server.proxies import PROXIES, ask, follow, free_port, in_front_of
from tests.server.test_signals import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True), pytest.mark.requires("/proc", "curl")]


@contextmanager
def serving(server: str, folder: Path) -> Iterator[int]:
    """Serve as on a developer's machine; yields the port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "django", "serveagents", "--port", str(port), "--server", server],
        cwd=ROOT,
        env=environment(
            DJANGO_SETTINGS_MODULE="tests.server.local_settings", XDG_STATE_HOME=str(folder), PYTHONASYNCIODEBUG=""
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: curl(port, "/ready", "-o", os.devnull, "-w", "%{http_code}") == "200")
        yield port
    finally:
        process.kill()
        process.wait()


def curl(port: int, path: str, *more: str, user: int | None = None) -> str:
    command = ["curl", "-s", "--noproxy", "*", *more, f"http://localhost:{port}{path}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, user=user).stdout


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
def test_curl_is_local_and_whoever_asks_through_a_proxy_is_not(
    server: str, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    with serving(server, tmp_path) as port:
        assert '"items":' in curl(port, "/sessions")
        url = f"http://127.0.0.1:{port}/sessions"
        assert run(f"import urllib.request as r; print(r.urlopen({url!r}).status)") == "200\n"
        # The rule is the same: what differs is how a server tells of connections.
        for name in PROXIES if server == "daphne" else ("nginx: HTTP/1.1 and Upgrade", "HAProxy: mode http"):
            with subtests.test(name), in_front_of(port, name) as listen:
                status, detail = ask(listen)
                assert (status, "not known to be a local request" in detail) == (401, True)
                assert follow(listen) in {"sign_in", "no WebSocket"}
        assert '"items":' in curl(port, "/sessions")
        with subtests.test("curl of another user"):
            require("root")
            assert "a program of another user" in curl(port, "/sessions", user=65534)
        token = (tmp_path / "visionagents_runner" / "local_token").read_text()
        with subtests.test("a proxy that has the token"), in_front_of(port, "socat: TCP to TCP") as listen:
            assert '"items":' in curl(listen, "/sessions", "-H", f"Authorization: Bearer {token}")
