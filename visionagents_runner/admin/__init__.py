"""The admin: sessions and workers to look at, sessions to close, API keys. Autodiscover imports this."""

from .keys import AgentKeyAdmin
from .sessions import AgentSessionAdmin
from .workers import WorkerAdmin

__all__ = ["AgentKeyAdmin", "AgentSessionAdmin", "WorkerAdmin"]
