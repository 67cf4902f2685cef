"""A SECRET_KEY that is made at the first start and kept in a file; importable by a settings module."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from .exceptions import RunnerConfigurationError


def read_or_make_secret(path: Path) -> str:
    """Return the secret in the file, which only its owner reads.

    It is made with its content at once: another first start may be reading it.

    Raises:
        RunnerConfigurationError: the file is empty.
        OSError: it cannot be read or made.
    """
    if not path.exists():
        mine = path.with_name(f"{path.name}.{os.getpid()}")
        with open(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(50))
        try:
            with suppress(FileExistsError):
                os.link(mine, path)
        finally:
            mine.unlink()
    key = path.read_text().strip()
    if not key:
        raise RunnerConfigurationError(f"{path} is empty: delete it, and a new secret is made")
    return key
