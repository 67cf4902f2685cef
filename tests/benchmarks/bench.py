"""What every row is given."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .database import Database
from .processes import DAPHNE, THEIRS, UVICORN, Host, Server, serving

HOSTS = (DAPHNE, THEIRS, UVICORN)
"""In the order of each round, so that a change in what else the machine does meets all of them."""


@dataclass(frozen=True)
class Bench:
    folder: Path
    database: Database
    quick: bool
    say: Callable[[str], None]

    def serve(self, host: Host, *, fresh: bool = True, **options: Any) -> AbstractContextManager[Server]:
        """Start a server; ``fresh`` empties the database first."""
        url = ""
        if host.ours:
            url = self.database.fresh() if fresh else self.database.url
        return serving(host, self.folder, database_url=url, **options)

    @property
    def hosts(self) -> tuple[Host, ...]:
        return HOSTS[:2] if self.quick else HOSTS

    def choose(self, *, quick: Any, full: Any) -> Any:
        return quick if self.quick else full
