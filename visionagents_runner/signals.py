"""Django signals of a session's life.

Both are sent by the worker that runs the session, on its event loop and outside any transaction, with
``send_robust`` semantics: a receiver that raises is logged and harms nothing. Async receivers are awaited.

The end of a session that no worker runs, because it still waits for one or its worker is gone, is told by the process
that ends it: on the event loop of its worker, or, where it has none, on the thread that ended it.
"""

from __future__ import annotations

from django.dispatch import Signal

session_started = Signal()
"""The agent is built and joins its call.

Arguments: ``sender`` (AgentSession), ``session_id``, ``session`` (LiveSession).
"""

session_ended = Signal()
"""The row has its end state.

Arguments: ``sender`` (AgentSession), ``session_id``, ``status``, ``end_reason``.
Sent also for sessions that failed to start, and by the worker that declares another worker's session lost.
"""
