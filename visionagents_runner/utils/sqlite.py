"""A SQLite database that is for its owner alone; importable by a settings module.

What was said, metadata and password hashes are in it, and SQLite makes its files as the umask has it: most often for
everybody to read.
"""

from __future__ import annotations

import os
import stat
import warnings
from contextlib import suppress
from pathlib import Path

_BESIDE = ("-wal", "-shm", "-journal")


def keep_private(database: str | Path) -> None:
    """Have the file of a database, and those beside it, be of mode 0600; the first is made if it is not there.

    To be called before SQLite opens it, which gives those that it makes beside a database the database's mode. It warns
    of files that belong to somebody else and are open to others. Databases in memory, and URIs, are left alone.
    """
    path = os.fspath(database)
    if os.name != "posix" or not path or path.startswith((":", "file:")):  # elsewhere modes and owners are not told
        return
    if not os.path.lexists(path):
        with suppress(OSError):  # somebody else was faster; or SQLite will say better what is wrong
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    for each in (path, *(path + suffix for suffix in _BESIDE)):
        # By name: a file that SQLite has open must not be opened and closed by anybody else, since that ends its locks.
        with suppress(OSError):
            status = os.stat(each)
            if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o077:
                continue
            if status.st_uid == os.geteuid():
                os.chmod(each, 0o600)
            else:
                warnings.warn(
                    f"The database {each} is open to other users: have its owner run `chmod 600 {each}`",
                    RuntimeWarning,
                    stacklevel=2,
                )
