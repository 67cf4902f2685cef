"""The short form of `tests.capacity`: each kind of work can be done, and the server's part in it is seen."""

from __future__ import annotations

import os

import pytest

from . import __main__ as command
from .work import KINDS, MESSAGES

DATABASE_URL = os.environ.get("DATABASE_URL", "")


@pytest.mark.skipif(not DATABASE_URL, reason="SQLite has no server that spends anything")
def test_every_kind_of_work_costs_the_server_something(capsys: pytest.CaptureFixture[str]) -> None:
    urls = ["--database-url", DATABASE_URL, "--redis-url", os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/15")]
    assert command.main([*urls, "--seconds", "0.2", "--processes", "2"]) == 0
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    done = {name: rate for name, rate, *_ in rows if rate}
    assert len(done) == len(KINDS) + 1, printed
    assert all(float(rate.replace(",", "")) > 0 for rate in done.values()), printed
    assert MESSAGES.startswith(next(reversed(done)))
