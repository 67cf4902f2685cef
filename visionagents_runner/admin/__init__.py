"""The admin: sessions and workers to look at, sessions to close, API keys, webhooks. Autodiscover imports this."""

from .deliveries import WebhookDeliveryAdmin
from .keys import AgentKeyAdmin
from .sessions import AgentSessionAdmin
from .workers import WorkerAdmin

__all__ = ["AgentKeyAdmin", "AgentSessionAdmin", "WebhookDeliveryAdmin", "WorkerAdmin"]
