"""Handing queued sessions to Procrastinate: on any thread of any process, in the transaction that inserts the row."""

from __future__ import annotations

import logging
from datetime import datetime
from hashlib import blake2s
from typing import TYPE_CHECKING

from django.db import ProgrammingError, connections
from procrastinate.contrib.django import app
from procrastinate.exceptions import ConnectorException

from ...exceptions import RunnerConfigurationError
from .choice import sessions_database

if TYPE_CHECKING:
    from ...models import AgentSession

logger = logging.getLogger(__name__)

TASK = "visionagents_runner.place"
_LONGEST_QUEUE = 40
"""With what Procrastinate puts before it, a queue is a channel of PostgreSQL: that may have 63 bytes."""


def queue_name(agent: str) -> str:
    """Return the queue of one kind of agent: workers look only at those that they host and have room for."""
    name = f"agents.{agent}"
    if len(name.encode()) <= _LONGEST_QUEUE:
        return name
    digest = blake2s(agent.encode(), digest_size=8).hexdigest()
    return f"{name.encode()[: _LONGEST_QUEUE - len(digest) - 1].decode(errors='ignore')}~{digest}"


def hand_over(session: AgentSession) -> None:
    """Have Procrastinate bring a queued session to a worker, if the transaction under way is committed.

    Raises:
        RunnerConfigurationError: Procrastinate's tables are missing.
        django.db.Error: as any query.
    """
    # An expression is how the row says "now", in the clock of the database.
    due_at = session.due_at if isinstance(session.due_at, datetime) else None
    job = app.configure_task(TASK, queue=queue_name(session.agent), priority=session.priority, schedule_at=due_at)
    try:
        with connections[sessions_database()].wrap_database_errors:
            try:
                job.defer(session=str(session.pk))
            except ConnectorException as error:
                raise (error.__cause__ or error) from None
    except ProgrammingError as error:
        raise RunnerConfigurationError(f"Procrastinate's tables cannot be used: run manage.py migrate ({error})") from (
            error
        )


@app.task(name=TASK)
def leave_alone(session: str, attempt: int = 0) -> None:
    """What a Procrastinate worker of the project makes of such a job: it hosts no agents.

    The workers that do find the session by their poll, some seconds later.
    """
    logger.warning(
        "A Procrastinate worker without agents took the job of session %s, which delays its start: have it leave "
        "the queues agents.* alone (manage.py procrastinate worker --queues ...)",
        session,
    )
