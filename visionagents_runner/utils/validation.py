"""What a call may be called, and the hash that stands for one."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Any

from ..exceptions import InvalidInput

MAX_ID_LENGTH = 255
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 32


def clean_call_part(field: str, value: Any) -> str:
    """Return ``value`` if it may stand as a ``call_id`` or ``call_type``.

    Any text of 1 to 255 characters will do, ``/``, ``*``, ``%`` and emoji included. Not: control characters, lone
    surrogates (no database stores them) and ``.`` and ``..`` (URL libraries drop them from a path).

    Raises:
        InvalidInput: with the reason.
    """
    if not isinstance(value, str):
        raise InvalidInput(field, f"must be a string, not {type(value).__name__}")
    if not value:
        raise InvalidInput(field, "must not be empty")
    if len(value) > MAX_ID_LENGTH:
        raise InvalidInput(field, f"must have at most {MAX_ID_LENGTH} characters, not {len(value)}")
    for character in value:
        category = unicodedata.category(character)
        if category == "Cc":
            raise InvalidInput(field, f"must not contain control characters (U+{ord(character):04X})")
        if category == "Cs":
            raise InvalidInput(field, "must be valid Unicode: it contains a lone surrogate")
    if value in {".", ".."}:
        raise InvalidInput(field, 'must not be "." or ".."')
    return value


def clean_metadata(value: Any) -> dict[str, Any]:
    """Return ``value`` (None stands for empty) if it may be a session's metadata.

    That is a JSON object of at most 16 KB and 32 levels (MariaDB takes no more) without NUL and lone surrogates, which
    PostgreSQL's jsonb refuses.

    Raises:
        InvalidInput: with the reason.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput("metadata", f"must be a JSON object, not {type(value).__name__}")
    if _deeper_than(value, MAX_METADATA_DEPTH):
        raise InvalidInput("metadata", f"must not be nested more than {MAX_METADATA_DEPTH} levels deep")
    try:
        encoded = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise InvalidInput("metadata", "must be valid Unicode: it contains a lone surrogate") from None
    except (TypeError, ValueError) as error:
        raise InvalidInput("metadata", f"must be JSON: {error}") from None
    if len(encoded) > MAX_METADATA_BYTES:
        raise InvalidInput("metadata", f"must be at most {MAX_METADATA_BYTES} bytes as JSON, not {len(encoded)}")
    if b"\\u0000" in encoded and _has_nul(value):
        raise InvalidInput("metadata", "must not contain NUL (U+0000)")
    return value


def call_key(call_type: str, call_id: str) -> str:
    """Return a hash of a call: of one length and alphabet, so that it can name a row or a channel group."""
    return hashlib.sha256(f"{call_type}\0{call_id}".encode()).hexdigest()


def _deeper_than(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list, tuple)):
        return False
    if levels == 0:
        return True
    return any(_deeper_than(item, levels - 1) for item in (value.values() if isinstance(value, dict) else value))


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return any(_has_nul(item) for item in value)
    return False
