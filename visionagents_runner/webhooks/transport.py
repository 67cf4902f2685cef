"""Sending one message to one endpoint, and nowhere else.

The name is resolved here, all of its addresses are checked, and the connection goes to one of those: whoever controls
the name cannot give another address between the check and the connection. Redirects are not followed, proxies of the
environment are not asked, and both the time and what is read of an answer are bounded.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import certifi
import httpcore

from ..conf.addresses import Address, refusal
from ..conf.webhooks import Endpoint
from ..utils.loops import call_from_thread

TOTAL_SECONDS = 15.0
CONNECT_SECONDS = 5.0
PARALLEL = 4
"""How many messages are on their way to one endpoint at once."""

_BODY_SECONDS = 2.0
_MOST_BYTES = 64 * 1024
_MOST_ADDRESSES = 4
_KEEP_SECONDS = 5.0
_TIMEOUT = {"connect": CONNECT_SECONDS, "read": TOTAL_SECONDS, "write": TOTAL_SECONDS, "pool": TOTAL_SECONDS}


class NotSent(Exception):
    """The endpoint gave no answer, or was not asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    retry_after: float | None = None
    """Seconds, where the receiver named a time."""


class Client:
    """Keeps connections to one endpoint for a few seconds. ``context`` is for HTTPS; make it by `make_context`."""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext | None) -> None:
        self._endpoint = endpoint
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=PARALLEL,
            keepalive_expiry=_KEEP_SECONDS,
            network_backend=_Guard(endpoint),
        )

    async def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send ``body`` and return the answer, whatever its status.

        Raises:
            NotSent: there is none within `TOTAL_SECONDS`.
        """
        try:
            async with asyncio.timeout(TOTAL_SECONDS) as limit:
                return await self._post(headers, body, limit)
        except (TimeoutError, httpcore.TimeoutException) as error:
            phase = "the connection" if isinstance(error, httpcore.ConnectTimeout) else "an answer"
            raise NotSent(f"Timed out waiting for {phase}") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise NotSent(f"No connection: {_words(error)}") from error

    async def _post(self, headers: Mapping[str, str], body: bytes, limit: asyncio.Timeout) -> Answer:
        async with self._pool.stream(
            "POST",
            self._endpoint.url,
            headers=list(headers.items()),
            content=body,
            extensions={"timeout": _TIMEOUT},
        ) as response:
            limit.reschedule(None)  # that is the answer, whatever becomes of the rest
            with suppress(TimeoutError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
                async with asyncio.timeout(_BODY_SECONDS):
                    await _read_some(response)
            return Answer(response.status, _retry_after(response.headers))

    async def close(self) -> None:
        await self._pool.aclose()


async def _read_some(response: httpcore.Response) -> None:
    """Read what it says besides its status, so that the connection can be used again; but not without end."""
    read = 0
    async for part in response.aiter_stream():
        read += len(part)
        if read > _MOST_BYTES:
            return


def make_context() -> ssl.SSLContext:
    """Return what checks certificates: by the machine's authorities, and those that come with certifi.

    It reads hundreds of certificates, which takes tens of milliseconds: call it in a thread.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


class _Guard(httpcore.AsyncNetworkBackend):
    """Connects to addresses that it has looked at itself. TLS goes on checking the name."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        async with asyncio.timeout(timeout):
            addresses = await _resolve(host, port)
        for address in addresses:
            self._look_at(host, address)
        failure: Exception = NotSent(f"No connection: {host} has no address")
        for address in addresses[:_MOST_ADDRESSES]:
            try:
                return await self._backend.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except httpcore.ConnectTimeout as error:
                failure = error
            except httpcore.ConnectError as error:  # the pool drops its cause, which is what tells
                failure = NotSent(f"No connection: {_words(error)}")
        raise failure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _look_at(self, host: str, address: Address) -> None:
        why = refusal(address)
        if why and not self._endpoint.allow_private:
            name = host if host == str(address) else f"{host} leads to {address}, which"
            raise NotSent(f"Refused: {name} is {why}; ALLOW_PRIVATE is not set for this endpoint")
        if not why and not self._endpoint.is_https:
            raise NotSent(f"Refused: {host} is a public address, and the URL begins with http://: use https://")


async def _resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of ``host``, in the order in which to try them.

    The thread is nobody's to wait for: a name server that does not answer must not keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[Address]] = loop.create_future()

    def settle(result: list[Address] | None, error: OSError | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result or [])

    def look_up() -> None:
        result, failure = None, None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            result = list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))
        except UnicodeError:
            failure = OSError(f"{host} is no name of a host")
        except OSError as error:
            failure = OSError(f"{host} has no address ({error.strerror or error})")
        call_from_thread(loop, settle, result, failure)

    threading.Thread(target=look_up, name="visionagents-webhook-name", daemon=True).start()
    return await future


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    value = next((value for name, value in headers if name.lower() == b"retry-after"), b"").decode("latin1").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def _words(error: Exception) -> str:
    """The innermost words that there are: httpcore wraps what the socket or TLS said."""
    cause: BaseException | None = error
    text = ""
    while cause is not None:
        text = str(cause) or text
        cause = cause.__cause__
    return text.partition(" (_ssl.c")[0] or type(error).__name__
