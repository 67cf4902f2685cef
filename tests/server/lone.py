"""A server of ours by itself, without a worker: ``python -m tests.server.lone SERVER [DESCRIPTORS]``.

It says its port, and answers by path what tests of its connections want to see.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from contextlib import ExitStack
from typing import Any

import django

from visionagents_runner.telemetry.connections import refused

MEGABYTE = b"m" * 2**20


async def site(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        if scope["path"] != "/silent":
            await send({"type": "websocket.accept"})
        while scope["path"] == "/flood":
            await send({"type": "websocket.send", "bytes": MEGABYTE})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(len(message.get("text") or message.get("bytes") or ""))})
        return
    if scope["path"] == "/refused":
        body = json.dumps(refused).encode()
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})
        return
    if scope["path"] == "/held":
        await asyncio.sleep(1.5)
    elif scope["path"] == "/descriptors":
        # What the database, Redis and calls would want.
        with ExitStack() as more:
            for _ in range(12):
                more.enter_context(open(os.devnull))  # noqa: ASYNC230
    size = 0
    while scope["path"] != "/unread":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        if not message.get("more_body"):
            break
    parts = 64 if scope["path"] == "/flood" else 0
    body = str(size).encode()
    length = str(len(body) + parts * len(MEGABYTE)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    for _ in range(parts):
        await send({"type": "http.response.body", "body": MEGABYTE, "more_body": True})
    await send({"type": "http.response.body", "body": body})


def main(server: str, descriptors: int) -> None:
    if descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    django.setup()
    from tests.agents import runner
    from visionagents_runner.asgi.application import AgentsApplication
    from visionagents_runner.server.sockets import listen
    from visionagents_runner.server.uvicorn import uvicorn_server

    application = AgentsApplication(runner, site)
    application.managed = True
    application.prepare()
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]

    def say() -> None:
        print(port, flush=True)

    if server != "daphne":
        embedded = uvicorn_server(application, on_startup=say)
        embedded.config.http = server  # type: ignore[assignment]
        asyncio.run(embedded.serve(sockets=[listener]))
        return
    from visionagents_runner.server.daphne import OrderedDaphne

    def ready() -> None:
        from twisted.internet import reactor

        loop = reactor._asyncioEventloop  # type: ignore[attr-defined]
        loop.call_soon(daphne.watch.start, loop)
        loop.call_soon(say)

    daphne = OrderedDaphne(application, endpoints=[f"fd:fileno={listener.detach()}"], ready_callable=ready)
    daphne.run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
