"""Nobody takes it all: how much one person, invitation, user, API key, address or call may have of this worker.

Two kinds of limits, all of `limits.Limits`: how many at once (`hold`), and how many in a time (`spend`). They count in
the memory of this process, in microseconds, so each worker counts by itself; limits over all workers are those of
sessions (`session_limits.Limits`). What is refused is told to whoever asked, in words (`TooMany`), and counted
(`refusals`).
"""

from .concurrency import few_at_once, heavy_read
from .credentials import check_guess, identity_behind, note_valid, one_look_up
from .holdings import hold
from .rates import prepare, spend
from .refusals import forget, refused
from .who import Who, address_of, address_of_request

__all__ = [
    "Who",
    "address_of",
    "address_of_request",
    "check_guess",
    "few_at_once",
    "forget",
    "heavy_read",
    "hold",
    "identity_behind",
    "note_valid",
    "one_look_up",
    "prepare",
    "refused",
    "spend",
]
