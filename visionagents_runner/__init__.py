"""Run vision-agents voice and video agents inside Django.

The names below load on first use, so that this package can be imported (by a
settings module, by ``manage.py migrate``) before Django is configured and
without paying for vision-agents.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .exceptions import (
        AgentNotFound,
        MaxConcurrentSessionsExceeded,
        MaxSessionsPerCallExceeded,
        NotReady,
        RunnerError,
        SessionLimitExceeded,
        StartFailed,
        StartTimeout,
    )
    from .options import ServeOptions
    from .runner import Runner
    from .worker.launcher import AgentLauncher

_HOMES = {
    "AgentLauncher": "worker.launcher",
    "AgentNotFound": "exceptions",
    "MaxConcurrentSessionsExceeded": "exceptions",
    "MaxSessionsPerCallExceeded": "exceptions",
    "NotReady": "exceptions",
    "Runner": "runner",
    "RunnerError": "exceptions",
    "ServeOptions": "options",
    "SessionLimitExceeded": "exceptions",
    "StartFailed": "exceptions",
    "StartTimeout": "exceptions",
}

__all__ = [
    "AgentLauncher",
    "AgentNotFound",
    "MaxConcurrentSessionsExceeded",
    "MaxSessionsPerCallExceeded",
    "NotReady",
    "Runner",
    "RunnerError",
    "ServeOptions",
    "SessionLimitExceeded",
    "StartFailed",
    "StartTimeout",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
