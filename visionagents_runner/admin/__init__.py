"""The admin: sessions and workers to look at, and sessions to close. Django's autodiscover imports this package."""

from .sessions import AgentSessionAdmin
from .workers import WorkerAdmin

__all__ = ["AgentSessionAdmin", "WorkerAdmin"]
