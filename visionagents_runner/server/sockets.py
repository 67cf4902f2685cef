"""The socket that a server listens on."""

from __future__ import annotations

import errno
import socket

from ..exceptions import RunnerConfigurationError

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host.strip("[]"), port), family=family, backlog=_BACKLOG)
    except OverflowError:
        raise RunnerConfigurationError(f"{port} is no port: choose one from 0 to 65535") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RunnerConfigurationError(
                f"Port {port} on {host} is in use: stop the other server, or choose another with --port"
            ) from None
        if error.errno in {errno.EACCES, errno.EPERM}:
            raise RunnerConfigurationError(
                f"Port {port} on {host} needs privileges: choose one above 1023 with --port"
            ) from None
        raise RunnerConfigurationError(f"Cannot listen on {host}:{port}: {error.strerror or error}") from None
    # asyncio sets it only where the socket names its protocol; without it each answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - shown, not bound
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
