"""nginx, Caddy, HAProxy, Apache and plain forwarders in front of a server, each as its manual begins.

``python -m tests.server.proxies PORT`` puts each before the server at that port of this machine, where local requests
count, asks through it as somebody elsewhere would who knows the trick (``Host: localhost``), and prints who passed for
local.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

from tests.machine.requirements import require

_NGINX = """
{user}
pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1; daemon off;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen {listen}; location / {{ proxy_pass http://127.0.0.1:{port}; {more} }} }}
}}
"""
_WEBSOCKETS = 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
_HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend f
  bind 127.0.0.1:{listen}
  default_backend b
backend b
  server s 127.0.0.1:{port}
"""
_APACHE = """
ServerRoot {folder}
ServerName localhost
Listen 127.0.0.1:{listen}
PidFile {folder}/pid
ErrorLog {folder}/error.log
{user}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
ProxyPass / http://127.0.0.1:{port}/ upgrade=websocket {more}
{lines}
"""
_MODULES = "/usr/lib/apache2/modules"
# What ngrok's kind does: it listens nowhere and fetches each connection from outside, by the same program.
_TUNNEL = """
import socket, sys, threading
def pump(a, b):
    try:
        while data := a.recv(65536): b.sendall(data)
    except OSError: pass
    for each in (a, b):
        try: each.shutdown(socket.SHUT_RDWR)
        except OSError: pass
port, relay = int(sys.argv[1]), int(sys.argv[2])
while True:
    far = socket.create_connection(("127.0.0.1", relay)); first = far.recv(65536)
    if not first: continue
    near = socket.create_connection(("127.0.0.1", port)); near.sendall(first)
    threading.Thread(target=pump, args=(near, far), daemon=True).start()
    threading.Thread(target=pump, args=(far, near), daemon=True).start()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _as_root(line: str) -> str:
    # So that the proxy is of the same user as the server, which is the harder case.
    return line if os.geteuid() == 0 else ""


def _nginx(more: str = "", user: str = "user root;") -> Callable[[Path, int, int], list[str]]:
    def command(folder: Path, listen: int, port: int) -> list[str]:
        text = _NGINX.format(folder=folder, listen=f"127.0.0.1:{listen}", port=port, more=more, user=_as_root(user))
        (folder / "nginx.conf").write_text(text)
        return [require("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]

    return command


def _haproxy(folder: Path, listen: int, port: int) -> list[str]:
    (folder / "haproxy.cfg").write_text(_HAPROXY.format(listen=listen, port=port))
    return [require("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]


def _caddy(folder: Path, listen: int, port: int) -> list[str]:
    (folder / "Caddyfile").write_text(
        f"{{\n admin off\n auto_https off\n}}\nhttp://:{listen} {{\n reverse_proxy 127.0.0.1:{port}\n}}\n"
    )
    return [require("caddy"), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def _apache(more: str = "", lines: str = "") -> Callable[[Path, int, int], list[str]]:
    def command(folder: Path, listen: int, port: int) -> list[str]:
        user = _as_root("User www-data\nGroup www-data")
        text = _APACHE.format(
            folder=folder, listen=listen, port=port, modules=_MODULES, user=user, more=more, lines=lines
        )
        (folder / "apache.conf").write_text(text)
        return [require("apache2"), "-DFOREGROUND", "-f", str(folder / "apache.conf")]

    return command


def _socat(folder: Path, listen: int, port: int) -> list[str]:
    return [require("socat"), f"TCP-LISTEN:{listen},bind=127.0.0.1,fork,reuseaddr", f"TCP:127.0.0.1:{port}"]


def _inetd(folder: Path, listen: int, port: int) -> list[str]:
    # The program at our end has no socket of its own but the one to us.
    script = f"exec {require('socat')} - TCP:127.0.0.1:{port}"
    (folder / "each").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "each").chmod(0o700)
    return [require("socat"), f"TCP-LISTEN:{listen},bind=127.0.0.1,fork,reuseaddr", f"EXEC:{folder}/each,pipes"]


def _tunnel(folder: Path, listen: int, port: int) -> list[str]:
    # The relay stands for the tunnel's service: whoever connects there is joined with the tunnel's next connection.
    relay = free_port()
    program = f"""
import socket, subprocess, sys, threading
{_TUNNEL.split("port, relay")[0]}
front = socket.create_server(("127.0.0.1", {listen})); back = socket.create_server(("127.0.0.1", {relay}))
child = subprocess.Popen([sys.executable, "-c", {_TUNNEL!r}, "{port}", "{relay}"])
while True:
    far, _ = front.accept(); near, _ = back.accept()
    threading.Thread(target=pump, args=(near, far), daemon=True).start()
    threading.Thread(target=pump, args=(far, near), daemon=True).start()
"""
    return [sys.executable, "-c", program]


PROXIES: dict[str, Callable[[Path, int, int], list[str]]] = {
    "nginx: proxy_pass": _nginx(),
    "nginx: proxy_pass, workers of another user": _nginx(user="user www-data;"),
    "nginx: HTTP/1.1 and Upgrade": _nginx(_WEBSOCKETS),
    "nginx: HTTP/1.1, Upgrade, Host passed on": _nginx(f"{_WEBSOCKETS} proxy_set_header Host $http_host;"),
    "Caddy: reverse_proxy": _caddy,
    "HAProxy: mode http": _haproxy,
    "Apache: ProxyPass": _apache(),
    "Apache: ProxyPass, ProxyAddHeaders Off": _apache(lines="ProxyAddHeaders Off"),
    "socat: TCP to TCP": _socat,
    "socat: a program for each connection": _inetd,
    "a tunnel that connects outwards": _tunnel,
}


@contextmanager
def in_front_of(port: int, name: str) -> Iterator[int]:
    """Run a proxy before ``port``; yields the port at which it listens."""
    listen = free_port()
    with tempfile.TemporaryDirectory(prefix="proxy-") as folder:
        Path(folder).chmod(0o755)
        command = PROXIES[name](Path(folder), listen, port)
        log = Path(folder) / "output"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, "HOME": folder}, start_new_session=True
            )
        try:
            _until_it_listens(listen, process, log)
            yield listen
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):  # Apache waits for WebSockets
                process.wait(0.5)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _until_it_listens(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        if any(int(line.split()[1].rpartition(":")[2], 16) == port for line in _listeners()):
            return
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def _listeners() -> list[str]:
    tables = [Path(f"/proc/net/{name}") for name in ("tcp", "tcp6")]
    lines = [line for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return [line for line in lines if line.split()[3] == "0A"]


def ask(port: int, host: str = "localhost") -> tuple[int, str]:
    """Return status and detail of ``GET /sessions``."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(f"GET /sessions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    start, end = body.find(b"{"), body.rfind(b"}") + 1
    return int(head.split()[1]), str(json.loads(body[start:end] or b"{}").get("detail", ""))


def follow(port: int) -> str:
    """Return what the WebSocket of the list first says: ``welcome``, or why not."""
    try:
        with connect(f"ws://localhost:{port}/ws/sessions/", open_timeout=10, proxy=None) as feed:
            feed.send(json.dumps({"type": "hello", "v": 1}))
            message = json.loads(feed.recv(10))
            return str(message.get("code") or message["type"])
    except InvalidHandshake:
        return "no WebSocket"
    except ConnectionClosed as error:
        return f"closed {error.code}"


def measure(port: int) -> Iterator[tuple[str, int, str]]:
    """Yield for each proxy the status of a GET and what the WebSocket says, for somebody elsewhere."""
    for name in PROXIES:
        with in_front_of(port, name) as listen:
            yield name, ask(listen)[0], follow(listen)


if __name__ == "__main__":
    print(f"{'no proxy':<45} GET {ask(int(sys.argv[1]))[0]}")
    for proxy, status, word in measure(int(sys.argv[1])):
        print(f"{proxy:<45} GET {status}   WebSocket: {word}", flush=True)
