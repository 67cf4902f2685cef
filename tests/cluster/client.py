"""Clients of a fleet: each request goes to some worker, and what was asked for is remembered."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from .trace import now

if TYPE_CHECKING:
    from .processes import WorkerProcess

_SECONDS = 40.0


@dataclass
class Asked:
    """A start that some client asked for."""

    number: int
    agent: str
    call_id: str
    via: WorkerProcess
    status: int = 0
    """What was answered; 0 for nothing: the connection failed, or it took too long."""
    session_id: str = ""
    detail: str = ""
    answered: float = 0.0
    """When (`trace.now`), or when the connection failed."""

    @property
    def accepted(self) -> bool:
        return self.status == 201


class Client:
    def __init__(self, workers: Sequence[WorkerProcess], *, seed: int) -> None:
        self.asked: list[Asked] = []
        self.failures: list[str] = []
        """Requests other than starts that were not answered, or answered by an error of the server."""
        self.random = random.Random(seed)
        self._workers = workers
        self._numbers = itertools.count(1)
        # Names of calls are the client's own, so that two runs on one database do not meet.
        self._name = uuid.uuid4().hex[:6]
        # Both uvicorn and httpx give up a connection after 5 idle seconds: a request sent just then gets no answer.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=50, keepalive_expiry=2.0)
        self._http = httpx.AsyncClient(timeout=_SECONDS, trust_env=False, limits=limits)

    async def close(self) -> None:
        await self._http.aclose()

    @property
    def accepted(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.accepted]

    def some_worker(self, *but: WorkerProcess | None) -> WorkerProcess:
        """Return one that answers; another one than those, if there is one."""
        workers = [worker for worker in self._workers if worker.answers]
        others = [worker for worker in workers if worker not in but]
        return self.random.choice(others or workers)

    async def start(
        self,
        agent: str = "default",
        *,
        via: WorkerProcess | None = None,
        call_id: str = "",
        key: str = "",
        path: str = "/sessions",
        options: Mapping[str, Any] = MappingProxyType({}),
        **metadata: Any,
    ) -> Asked:
        """Ask for a session, with an API key if need be; whatever happens is noted."""
        number = next(self._numbers)
        worker = via or self.some_worker()
        asked = Asked(number, agent, call_id or f"call-{self._name}-{number}", worker)
        self.asked.append(asked)
        body = {"call_id": asked.call_id, "agent": agent, "metadata": {"number": number, **metadata}, **options}
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            answer = await self._http.post(f"{worker.url}{path}", json=body, headers=headers)
        except httpx.HTTPError as error:
            asked.answered = now()
            asked.detail = repr(error)
            return asked
        asked.answered = now()
        asked.status = answer.status_code
        content = _json(answer)
        asked.session_id = content.get("session_id", "")
        asked.detail = str(content.get("detail", ""))
        return asked

    async def dispatch(
        self, agent: str = "default", *, at: float | None = None, expires_at: float | None = None, **options: Any
    ) -> Asked:
        """Have a session queued by some worker, for whichever has room; in, and for, so many seconds."""
        given = {name: value for name, value in (("at", at), ("expires_at", expires_at)) if value is not None}
        return await self.start(agent, path="/dispatch/", options=given, **options)

    async def start_many(self, count: int, agent: str = "default", *, at_once: int = 10, **options: Any) -> list[Asked]:
        room = asyncio.Semaphore(at_once)

        async def start() -> Asked:
            async with room:
                return await self.start(agent, **options)

        return await asyncio.gather(*(start() for _ in range(count)))

    async def get(self, session_id: str, *, via: WorkerProcess | None = None) -> dict[str, Any] | None:
        """Return what a worker says of a session; None if it does not answer."""
        return await self._ask("GET", f"/sessions/{session_id}", via)

    async def end(self, session_id: str, *, via: WorkerProcess | None = None) -> bool:
        """Ask some worker to close a session; whether that was answered."""
        return await self._ask("DELETE", f"/sessions/{session_id}", via) is not None

    async def say(self, session_id: str, text: str, *, how: str = "say", via: WorkerProcess | None = None) -> int:
        """Speak into a session. Returns the status of the answer, 0 for none."""
        worker = via or self.some_worker()
        try:
            answer = await self._http.post(f"{worker.url}/sessions/{session_id}/{how}", json={"text": text})
        except httpx.HTTPError as error:
            self.failures.append(f"{how} via {worker}: {error!r}")
            return 0
        return answer.status_code

    async def read(self, path: str, *, via: WorkerProcess | None = None, **headers: str) -> httpx.Response:
        """Raises: httpx.HTTPError."""
        worker = via or self.some_worker()
        return await self._http.get(f"{worker.url}{path}", headers=headers)

    async def list_all(self, *, via: WorkerProcess | None = None, **filters: str) -> list[dict[str, Any]]:
        """Return all pages of the list of sessions."""
        worker = via or self.some_worker()
        items: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            params = {"limit": "100", **filters, **({"cursor": cursor} if cursor else {})}
            answer = await self._http.get(f"{worker.url}/sessions", params=params)
            answer.raise_for_status()
            items += answer.json()["items"]
            cursor = answer.json()["next"]
        return items

    async def _ask(self, method: str, path: str, via: WorkerProcess | None) -> dict[str, Any] | None:
        worker = via or self.some_worker()
        try:
            answer = await self._http.request(method, f"{worker.url}{path}")
        except httpx.HTTPError as error:
            self.failures.append(f"{method} {path} via {worker}: {error!r}")
            return None
        if answer.status_code >= 400:
            self.failures.append(f"{method} {path} via {worker}: {answer.status_code} {answer.text[:200]}")
            return None
        return _json(answer)

    @asynccontextmanager
    async def feed(self, session_id: str, *, via: WorkerProcess, after: int = 0) -> AsyncIterator[Feed]:
        """Follow a session's live feed."""
        url = f"{via.url.replace('http', 'ws', 1)}/ws/sessions/{session_id}/"
        async with connect(url, open_timeout=_SECONDS) as socket:
            await socket.send(json.dumps({"type": "hello", "v": 1, "after": after}))
            feed = Feed(f"the feed of {session_id} from {via}", socket)
            reading = asyncio.create_task(feed.read())
            try:
                yield feed
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def type(self, call_id: str, text: str, *, via: WorkerProcess) -> bool:
        """Join a call's WebSocket on a worker, type, and wait for the agent's answer; whether it came."""
        url = f"{via.url.replace('http', 'ws', 1)}/ws/calls/default/{call_id}/"
        async with asyncio.timeout(_SECONDS), connect(url, open_timeout=_SECONDS) as socket:
            await socket.send(json.dumps({"type": "hello", "v": 1}))
            async for data in socket:
                message: dict[str, Any] = json.loads(data)
                if message["type"] == "error":
                    return False
                if message["type"] == "presence" and message["is_agent"]:
                    await socket.send(json.dumps({"type": "say", "id": 1, "text": text}))
                if message["type"] == "words" and message["role"] == "assistant" and message["completed"]:
                    await socket.send(json.dumps({"type": "leave"}))
                    return True
        return False


class Feed:
    """What came over a live feed, and when (`trace.now`)."""

    def __init__(self, name: str, socket: ClientConnection) -> None:
        self.name = name
        self.received: list[tuple[float, dict[str, Any]]] = []
        self._socket = socket
        self._closed = False
        self._news = asyncio.Condition()

    @property
    def numbers(self) -> list[int]:
        """Of the events that came."""
        return [message["seq"] for _, message in self.received if message["type"] == "event"]

    async def read(self) -> None:
        try:
            async for text in self._socket:
                message: dict[str, Any] = json.loads(text)
                async with self._news:
                    self.received.append((now(), message))
                    self._news.notify_all()
                count = len(self.received)
                with suppress(ConnectionClosed):  # there may be more to read all the same
                    if message["type"] == "ping":
                        await self._socket.send(json.dumps({"type": "pong", "t": message["t"]}))
                    if message["type"] == "ping" or count % 20 == 0:
                        await self._socket.send(json.dumps({"type": "ack", "n": count}))
        except ConnectionClosed:
            pass
        finally:
            async with self._news:
                self._closed = True
                self._news.notify_all()

    def _told(self) -> str:
        return ", ".join(f"{at - now():.1f} s {message['type']}" for at, message in self.received[-10:])

    async def until(self, kind: str, /, *, saying: str = "", **fields: Any) -> float:
        """Wait for a message of that type with these fields, and these words, or find that it came; returns when."""

        def found() -> float | None:
            for at, message in self.received:
                right = message["type"] == kind and all(message.get(name) == value for name, value in fields.items())
                if right and saying in message.get("data", {}).get("text", ""):
                    return at
            return None

        async with asyncio.timeout(_SECONDS), self._news:
            while (at := found()) is None:
                assert not self._closed, (
                    f"{self.name} closed ({self._socket.close_code}) before {kind!r} {saying}: {self._told()}"
                )
                await self._news.wait()
            return at


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        content = answer.json()
    except ValueError:
        return {"detail": answer.text[:200]}
    return content if isinstance(content, dict) else {}
