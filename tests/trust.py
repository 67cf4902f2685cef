"""Local requests of tests: their connections are made up, or come from the test's process, which serves others too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visionagents_runner.auth import local_processes

real_doubt = local_processes.doubt


async def _no_doubt(scope: Mapping[str, Any]) -> str | None:
    return None


def trust_every_peer() -> None:
    """Take every connection for one of a program of this user: for settings of tests alone, no setting does that."""
    local_processes.doubt = _no_doubt
