"""Sealing what travels over the channel layer: encrypted and authenticated under SECRET_KEY.

Whoever can reach the layer's server (Redis) could otherwise read what people say, close sessions and join calls.
Sealed, a message counts only where it was sent to, once, and only if it comes from a process that has the SECRET_KEY,
or one of SECRET_KEY_FALLBACKS. What remains to somebody who controls the server: to see who sends how much to whom, and
to hold back what is sent.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Any

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.utils.encoding import force_bytes

_SALT_BYTES = 16
_NUMBER_BYTES = 12
_HEAD_BYTES = _SALT_BYTES + _NUMBER_BYTES
_WINDOW = 4096
"""How far behind the latest message of a process one of its may come."""
_MOST_SENDERS = 1024
_PURPOSE = b"va.channel-layer"


class Unreadable(Exception):
    """A message was not sealed for this group by a process with our SECRET_KEY, or has come before. Says which."""


def _cipher(secret: Any, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), length=32, salt=salt, info=_PURPOSE).derive(force_bytes(secret)))


class Sealer:
    """Seals messages of one process.

    AES-GCM must never see a nonce twice under one key. So each process draws a salt, which makes a key of its own, and
    numbers its messages.
    """

    def __init__(self, secret: Any) -> None:
        self.secret = secret
        self._salt = os.urandom(_SALT_BYTES)
        self._cipher = _cipher(secret, self._salt)
        self._sent = 0
        self._lock = threading.Lock()

    def seal(self, group: str, message: dict[str, Any]) -> bytes:
        """
        Raises:
            TypeError: it holds what is neither text, bytes, a number, a list nor a dict.
        """
        packed: bytes = msgpack.packb(message)
        with self._lock:
            self._sent += 1
            number = self._sent.to_bytes(_NUMBER_BYTES, "big")
        return self._salt + number + self._cipher.encrypt(number, packed, group.encode())


class _Sender:
    """What is known of a process whose messages come here."""

    def __init__(self, cipher: AESGCM) -> None:
        self.cipher = cipher
        self._latest = 0
        self._came = 0
        """A bit for each of the last numbers, the latest lowest."""

    def is_new(self, number: int) -> bool:
        """Take note that a message came; False if it had come before, or is too old to know."""
        ahead = number - self._latest
        if ahead > 0:
            self._came = (self._came << min(ahead, _WINDOW) | 1) & ((1 << _WINDOW) - 1)
            self._latest = number
            return True
        bit = 1 << -ahead
        if -ahead >= _WINDOW or self._came & bit:
            return False
        self._came |= bit
        return True


class Unsealer:
    """Opens what others sealed. Each receiver has one of its own, since each gets a message once."""

    def __init__(self) -> None:
        self._senders: OrderedDict[bytes, _Sender] = OrderedDict()
        self._secrets: tuple[Any, ...] = ()

    def unseal(self, group: str, sealed: bytes) -> dict[str, Any]:
        """
        Raises:
            Unreadable: it does not count.
        """
        salt, number, box = sealed[:_SALT_BYTES], sealed[_SALT_BYTES:_HEAD_BYTES], sealed[_HEAD_BYTES:]
        secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
        if secrets != self._secrets:
            self._secrets = secrets
            self._senders.clear()
        sender, packed = self._open(group, salt, number, box)
        if not sender.is_new(int.from_bytes(number, "big")):
            raise Unreadable("it has come before")
        message = msgpack.unpackb(packed)
        if not isinstance(message, dict):
            raise Unreadable("it is no message")
        return message

    def _open(self, group: str, salt: bytes, number: bytes, box: bytes) -> tuple[_Sender, bytes]:
        known = self._senders.get(salt)
        ciphers = [_cipher(secret, salt) for secret in self._secrets] if known is None else [known.cipher]
        for cipher in ciphers:
            try:
                packed = cipher.decrypt(number, box, group.encode())
            except (InvalidTag, ValueError):
                continue
            sender = known or _Sender(cipher)
            self._senders[salt] = sender
            self._senders.move_to_end(salt)
            if len(self._senders) > _MOST_SENDERS:
                self._senders.popitem(last=False)
            return sender, packed
        raise Unreadable("it was changed, is for another group, or was sealed with another SECRET_KEY")


_sealer: Sealer | None = None


def seal(group: str, message: dict[str, Any]) -> bytes:
    """Return ``message`` so that only processes of this project can read it, and only as one to ``group``.

    Raises:
        TypeError: see `Sealer.seal`.
    """
    global _sealer
    if _sealer is None or _sealer.secret != settings.SECRET_KEY:
        _sealer = Sealer(settings.SECRET_KEY)
    return _sealer.seal(group, message)


def _forget_sealer() -> None:
    global _sealer
    _sealer = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_sealer)  # or it would number its messages as its parent does
