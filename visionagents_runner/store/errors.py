"""What a database says when it cannot, and what to do then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django.db import DatabaseError, InterfaceError, OperationalError

from ..exceptions import RunnerConfigurationError

T = TypeVar("T")
DATABASE_ERRORS = (OperationalError, InterfaceError)
"""What a database that does not answer, or that chose a transaction as the victim of a deadlock, raises."""
_DEADLOCK_TRIES = 5
_DEADLOCK = ("deadlock", "could not serialize", "is locked", "record has changed since last read")
"""The last is what MariaDB says under REPEATABLE READ with innodb_snapshot_isolation."""
_NO_TABLES = ("no such", "does not exist", "doesn't exist", "unknown column")


def try_again_after_deadlock(attempt: Callable[[], T]) -> T:
    for _ in range(_DEADLOCK_TRIES - 1):
        try:
            return attempt()
        except OperationalError as error:
            if not is_deadlock(error):
                raise
    return attempt()


def is_deadlock(error: OperationalError) -> bool:
    """Whether the database let this transaction go for the sake of another, so that it makes sense to try again."""
    text = str(error).lower()
    return any(words in text for words in _DEADLOCK)


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def unusable(error: DatabaseError) -> RunnerConfigurationError:
    """Return what tells, with the fix, that the database cannot be used: it has no tables, old ones, or is away."""
    if any(words in str(error).lower() for words in _NO_TABLES):
        return RunnerConfigurationError(
            "The database has no tables for the sessions, or old ones: run `python manage.py migrate`"
        )
    return RunnerConfigurationError(f"The database does not answer: {first_line(error)}")
