"""The rows: workers, the sessions that they host, and what happened in them.

State changes are methods and queryset methods here; nothing else writes ``status``.
"""

from .chore import Chore
from .command import CommandKind, CommandOutcome, SessionCommand
from .delivery import DeliveryState, WebhookDelivery
from .event import KINDS_WITHOUT_WORDS, EventLine, SessionEvent, without_words
from .key import AgentKey, Scope
from .session import AgentSession, EndReason, SessionStatus
from .slot import Slot
from .worker import Worker, WorkerState

__all__ = [
    "KINDS_WITHOUT_WORDS",
    "AgentKey",
    "AgentSession",
    "Chore",
    "CommandKind",
    "CommandOutcome",
    "DeliveryState",
    "EndReason",
    "EventLine",
    "Scope",
    "SessionCommand",
    "SessionEvent",
    "SessionStatus",
    "Slot",
    "WebhookDelivery",
    "Worker",
    "WorkerState",
    "without_words",
]
