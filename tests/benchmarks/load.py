"""The load generator, a process of its own: GETs over keep-alive connections as fast as they are answered.

``python -m tests.benchmarks.load PORT PATH CONNECTIONS SECONDS`` prints one JSON line. Plain sockets and epoll: at
about 15 us of CPU a request it is not the bottleneck; ``busy`` says how much of one core it took.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import statistics
import sys
import time

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_WARM_UP_SECONDS = 0.5


class _Connection:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.sent_at = 0.0


def main(port: int, path: str, count: int, seconds: float) -> dict[str, float]:
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\nUser-Agent: load\r\n\r\n".encode()
    selector = selectors.DefaultSelector()
    latencies: list[float] = []
    warm_up = 0
    for _ in range(count):
        connection = _Connection(port)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.sent_at = time.perf_counter()
        connection.socket.sendall(request)
    began = time.perf_counter() + _WARM_UP_SECONDS
    end = began + seconds
    began_cpu: float | None = None
    while (now := time.perf_counter()) < end:
        if began_cpu is None and now >= began:
            began, end, began_cpu = now, now + seconds, time.process_time()
            warm_up = len(latencies)
            latencies.clear()
        for key, _ in selector.select(timeout=5):
            connection = key.data
            connection.buffer += connection.socket.recv(65536)
            if not _complete(connection):
                continue
            now = time.perf_counter()
            latencies.append(now - connection.sent_at)
            connection.sent_at = now
            connection.socket.sendall(request)
    took = time.perf_counter() - began
    assert began_cpu is not None
    busy = (time.process_time() - began_cpu) / took
    for key in list(selector.get_map().values()):
        key.data.socket.close()
    centiles = statistics.quantiles(latencies, n=100)
    return {
        "requests": len(latencies),
        "all_requests": len(latencies) + warm_up,
        "seconds": took,
        "per_second": len(latencies) / took,
        "busy": busy,
        "p50_ms": centiles[49] * 1000,
        "p99_ms": centiles[98] * 1000,
    }


def _complete(connection: _Connection) -> bool:
    head, separator, body = connection.buffer.partition(b"\r\n\r\n")
    if not separator:
        if not head:
            raise SystemExit("The server closed a connection")
        return False
    if b" 200 " not in head[:20]:
        raise SystemExit(f"Answered {head[:60]!r}: {body[:300]!r}")
    length = _LENGTH.search(head)
    if length is None:
        raise SystemExit(f"No Content-Length in {head!r}")
    if len(body) < int(length[1]):
        return False
    connection.buffer = b""
    return True


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
