"""The rows: workers, the sessions that they host, and what happened in them.

State changes are methods and queryset methods here; nothing else writes ``status``.
"""

from .delivery import DeliveryState, WebhookDelivery
from .event import KINDS_WITHOUT_WORDS, EventLine, SessionEvent
from .key import AgentKey, Scope
from .session import AgentSession, EndReason, SessionStatus
from .slot import Slot
from .worker import Worker, WorkerState

__all__ = [
    "KINDS_WITHOUT_WORDS",
    "AgentKey",
    "AgentSession",
    "DeliveryState",
    "EndReason",
    "EventLine",
    "Scope",
    "SessionEvent",
    "SessionStatus",
    "Slot",
    "WebhookDelivery",
    "Worker",
    "WorkerState",
]
