"""The messages of a call's WebSocket, and the bounds that both sides keep.

A text message is a JSON object with a ``type``; a binary one is a frame of audio. Version 1.

A client that says hello with ``"moves": true`` may be welcomed again, over the same connection: its call goes on in
another room, in another process. It then begins its media anew. An ``offer`` or ``pcm`` that it sent before is answered
from one of the rooms, or not at all, so the ``id`` of an offer must be one that this connection has not had.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

from ..utils import boundedjson

VERSION = 1

MESSAGE_BYTES = 64 * 1024
TEXT_CHARS = 4000
FRAME_BYTES = 1920
"""20 ms of mono s16le at 48 kHz."""
MAX_DEPTH = boundedjson.MAX_DEPTH
MAX_VALUES = 2000
"""Of one message. No more take a millisecond, and a client may send dozens at once."""
MAX_REFERENCE_CHARS = 64
"""Of an ``id`` by which a client recognizes the answer."""

MESSAGES_A_SECOND, MESSAGE_BURST = 20.0, 60
FRAMES_A_SECOND, FRAME_BURST = 60.0, 150
"""Frames above it are dropped: they come late, in a lump, after the network stalled."""
FLOOD_A_SECOND, FLOOD_BURST = 200.0, 1500
"""Frames above it are no stall of any network: the connection is closed."""

HELLO_SECONDS = 10.0
PING_SECONDS = 10.0
SILENCE_SECONDS = 25.0
"""How long a client may leave messages without an ack, or a ping without its pong."""

UNACKED_MESSAGES = 256
UNACKED_FRAMES = 100
OUTBOX_SIZE = 512
"""Messages that wait here for a client that is behind."""


class Code(StrEnum):
    """Why something did not work. What a client does about it follows from this, not from the words beside it."""

    BAD_MESSAGE = "bad_message"
    SIGN_IN = "sign_in"
    NOT_ALLOWED = "not_allowed"
    NOT_FOUND = "not_found"
    VOID_TOKEN = "void_token"  # noqa: S105 - no secret
    CALL_ENDED = "call_ended"
    ELSEWHERE = "elsewhere"
    FULL = "full"
    TOO_MANY = "too_many"
    TOO_FAST = "too_fast"
    TOO_LARGE = "too_large"
    SILENT = "silent"
    BAD_OFFER = "bad_offer"
    NO_MEDIA = "no_media"
    SAY_FAILED = "say_failed"
    GOING_AWAY = "going_away"
    SERVER_ERROR = "server_error"

    @property
    def close(self) -> int:
        """The close code of a connection that ends with it.

        Raises:
            KeyError: none ends with it.
        """
        return _CLOSE[self]


LEFT = 1000
NO_SUCH_PATH = 4404
# Daphne can send 1000 and those from 3000 on only; for any other it raises, and the connection stays open.
_CLOSE = {
    Code.BAD_MESSAGE: 4400,
    Code.SIGN_IN: 4401,
    Code.NOT_ALLOWED: 4403,
    Code.NOT_FOUND: 4404,
    Code.SILENT: 4408,
    Code.ELSEWHERE: 4409,
    Code.VOID_TOKEN: 4410,
    Code.CALL_ENDED: 4410,
    Code.TOO_LARGE: 4413,
    Code.TOO_FAST: 4429,
    Code.FULL: 4429,
    Code.TOO_MANY: 4429,
    Code.GOING_AWAY: 4503,
    Code.SERVER_ERROR: 4500,
}


class Fatal(Exception):
    """Ends the connection; the client is told why."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Refused(Exception):
    """What the client asked for was not done; the connection goes on."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Return the type of a message, and the message.

    Raises:
        Fatal: it is too large or malformed.
    """
    if len(text) > MESSAGE_BYTES or len(data := text.encode("utf-8", "replace")) > MESSAGE_BYTES:
        raise Fatal(Code.TOO_LARGE, f"A message may have {MESSAGE_BYTES} bytes")
    try:
        message: Any = boundedjson.loads(data, max_values=MAX_VALUES)
    except boundedjson.Malformed as error:
        raise Fatal(Code.BAD_MESSAGE, f"A text message must be JSON; this {error}") from None
    if not isinstance(message, dict) or not isinstance(kind := message.get("type"), str):
        raise Fatal(Code.BAD_MESSAGE, 'A message must be a JSON object with a "type"')
    _check(message)
    return kind, message


def error(problem: Fatal | Refused, reference: str | int | None = None) -> dict[str, Any]:
    """Return the message that tells of ``problem``; ``reference`` is the ``id`` of what it answers."""
    message: dict[str, Any] = {
        "type": "error",
        "code": problem.code.value,
        "detail": problem.detail,
        "fatal": isinstance(problem, Fatal),
    }
    if reference is not None:
        message["id"] = reference
    return message


encode = json.JSONEncoder(separators=(",", ":")).encode


def _check(message: dict[str, Any]) -> None:
    """Refuse what would fail further on: deep nesting, and text that no database stores."""
    level: list[Any] = [message]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, str):
                if "\0" in value or not _is_unicode(value):
                    raise Fatal(Code.BAD_MESSAGE, "Text must be valid Unicode without NUL")
            elif isinstance(value, dict):
                inner += value
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        if not inner:
            return
        level = inner
    raise Fatal(Code.BAD_MESSAGE, f"A message may be nested {MAX_DEPTH} levels deep")


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
