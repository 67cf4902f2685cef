"""A real HTTP server that receives webhooks, and answers as it is told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_signed(self, secret: str = SECRET, tolerance: float = 300.0) -> bool:
        """Verify as the specification says, with nothing of what signed it."""
        moment = self.headers["webhook-timestamp"]
        signed = b".".join([self.id.encode(), moment.encode(), self.body])
        key = base64.b64decode(secret.removeprefix("whsec_"))
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        offered = [part.partition(",") for part in self.headers["webhook-signature"].split(" ")]
        good = any(version == "v1" and hmac.compare_digest(value, expected) for version, _, value in offered)
        return good and abs(time.time() - int(moment)) < tolerance


@dataclass
class Reply:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    wait: threading.Event | None = None
    drip: bool = False
    """Send headers, and then a body that never ends, slowly."""


class Receiver:
    """``reply`` gives the answer to each request, by its number from 0; 200 unless told otherwise."""

    def __init__(self, *, context: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> None:
        self.requests: list[Request] = []
        self.reply: Callable[[int, Request], Reply] = lambda number, request: Reply()
        self.release = threading.Event()
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver._answer(self, Request(self.path, headers, body))

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients that give up are what some tests are about

        self._server = Server((address, 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str = "/hook", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def entry(self, **values: Any) -> dict[str, Any]:
        return {"URL": self.url(), "SECRET": SECRET, "ALLOW_PRIVATE": True, "NAME": "crm", **values}

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
        reply = self.reply(number, request)
        if reply.wait is not None:
            reply.wait.wait(30)
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(10**9 if reply.drip else len(reply.body)))
        handler.end_headers()
        while reply.drip and not self.release.wait(0.05):
            handler.wfile.write(b".")
        handler.wfile.write(reply.body)

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
