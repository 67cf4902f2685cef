"""Redis between processes, and what is there in its place where it fails."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.machine.requirements import require
from tests.websockets.calls.conftest import Server, allow_local, serve, server

__all__ = ["Server", "allow_local", "serve", "server"]

NOBODY = "redis://127.0.0.1:1"


@pytest.fixture
def use_layer(settings: Any) -> Callable[[str], None]:
    """Have the channel layer of this process be the Redis at a URL."""

    def use(url: str) -> None:
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [url]}}
        }

    return use


@pytest.fixture
def redis_url(use_layer: Callable[[str], None]) -> str:
    url = require("redis")
    use_layer(url)
    return url


@pytest.fixture
def dead_redis(use_layer: Callable[[str], None]) -> str:
    """No Redis there any more."""
    use_layer(NOBODY)
    return NOBODY


@pytest.fixture
def hanging_redis(use_layer: Callable[[str], None]) -> Iterator[str]:
    """One that takes every connection and never answers."""
    taken: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def accept() -> None:
        while True:
            try:
                taken.append(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
    use_layer(url)
    yield url
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)
    for each in taken:
        each.close()


@pytest.fixture
def group() -> str:
    return f"va.test.{uuid.uuid4().hex}"
