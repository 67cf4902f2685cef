"""Have daphne refuse a body that is too large while it streams in.

Daphne hands a request to the application only when it has received all of it, into a file on disk if it is large. The
API's limit would come too late there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .conf import get_settings

if TYPE_CHECKING:
    from .application import AgentsApplication


def limit_bodies(http_factory: Any, application: AgentsApplication) -> None:
    """Make connections of a daphne ``HTTPFactory`` refuse bodies over MAX_BODY_BYTES on the API's paths with 413."""
    from daphne.http_protocol import WebRequest

    class LimitedRequest(WebRequest):  # type: ignore[misc]  # daphne is not typed
        _received = 0
        _refused = False
        _limit: int | None = None

        def gotLength(self, length: int | None) -> None:
            if application.is_api_path(getattr(self.channel, "_path", b"")):
                self._limit = get_settings().MAX_BODY_BYTES
                if length is not None and length > self._limit:
                    self._refuse()
                    length = 0  # make no room for what will not be read
            super().gotLength(length)

        def handleContentChunk(self, data: bytes) -> None:
            if self._refused:
                return
            self._received += len(data)
            if self._limit is not None and self._received > self._limit:
                self._refuse()
                return
            super().handleContentChunk(data)

        def process(self) -> Any:
            if not self._refused:
                return super().process()
            return None

        def _refuse(self) -> None:
            self._refused = True
            body = b'{"detail": "The request body is larger than %d bytes"}' % (self._limit or 0)
            self.channel.transport.write(
                b"HTTP/1.1 413 Content Too Large\r\nContent-Type: application/json\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            self.channel.loseConnection()

    build = http_factory.buildProtocol

    def build_protocol(address: Any) -> Any:
        protocol = build(address)
        if protocol is not None:
            protocol.requestFactory = LimitedRequest
        return protocol

    http_factory.buildProtocol = build_protocol
