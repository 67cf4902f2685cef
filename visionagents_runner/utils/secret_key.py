"""A SECRET_KEY that is made at the first start and kept in a file; importable by a settings module."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from ..exceptions import RunnerConfigurationError

LEAST_CHARACTERS = 32
_MOST_BYTES = 4096


def read_or_make_secret(path: Path) -> str:
    """Return the secret in the file, which is made at the first start: a regular file that only its owner reads.

    Raises:
        RunnerConfigurationError: others could have read or written it, or it holds no secret. The message says the fix.
        OSError: it cannot be read or made.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        _make(path)
    return _read(path)


def _make(path: Path) -> None:
    """Make it with its content at once: another first start may be reading it, or making one."""
    # Under a name that nobody can know before, and for us alone.
    descriptor, mine = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(50))
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(mine, path)
    finally:
        os.unlink(mine)


def _read(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK}:
            raise _unfit(path, "is a symbolic link, not a file", f"put the file itself there, or `rm {path}`") from None
        raise
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise _unfit(path, "is no regular file", f"`rm {path}`")
        if os.name == "posix":  # elsewhere modes and owners are not told
            if status.st_uid not in {os.geteuid(), 0}:
                raise _unfit(path, f"belongs to another user (uid {status.st_uid})", f"`chown {os.geteuid()} {path}`")
            if status.st_mode & 0o077:
                mode = f"{stat.S_IMODE(status.st_mode):04o}"
                raise _unfit(path, f"is open to other users (mode {mode})", f"`chmod 600 {path}`")
        content = file.read(_MOST_BYTES + 1)
    try:
        secret = content.decode().strip()
    except UnicodeDecodeError:
        secret = ""
    if len(content) > _MOST_BYTES or not secret.isprintable() or len(secret) < LEAST_CHARACTERS:
        raise _unfit(
            path, f"holds no secret of at least {LEAST_CHARACTERS} characters", "delete it, and a new one is made"
        )
    return secret


def _unfit(path: Path, what: str, fix: str) -> RunnerConfigurationError:
    return RunnerConfigurationError(f"{path}, which is to keep SECRET_KEY, {what}: {fix}")
