"""The errors that callers of the runner handle."""

from __future__ import annotations


class RunnerError(Exception):
    """Base of every error that this package raises on purpose."""


class RunnerConfigurationError(RunnerError):
    """The project's own settings or code keep the runner from starting; the message says the fix."""


class NotReady(RunnerError):
    """This process takes no new sessions now: it is warming up, draining or stopped.

    ``retry_after`` is the number of seconds after which asking again makes sense.
    """

    def __init__(self, message: str, *, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SessionLimitExceeded(RunnerError):
    """A limit on live sessions is reached; nothing was created. ``limit`` names it between processes."""

    limit = "sessions"


class MaxConcurrentSessionsExceeded(SessionLimitExceeded):
    """The launcher's ``max_concurrent_sessions`` on this worker is reached."""

    limit = "max_concurrent_sessions"


class MaxSessionsPerCallExceeded(SessionLimitExceeded):
    """The launcher's ``max_sessions_per_call`` for this call is reached, on all workers together."""

    limit = "max_sessions_per_call"


class MaxSessionsExceeded(SessionLimitExceeded):
    """A limit over all workers is reached: of an agent, of a user, or of all; the message says which."""

    limit = "max_sessions"


class TooMany(RunnerError):
    """Somebody asked for more than their share (see `quotas`); nothing was done. The message says of what.

    ``what`` and ``by`` name the limit as the metric does; ``retry_after`` is in seconds.
    """

    def __init__(self, message: str, *, what: str, by: str, retry_after: int) -> None:
        super().__init__(message)
        self.what = what
        self.by = by
        self.retry_after = retry_after


class CallHidden(RunnerError):
    """A session is live on the call which whoever starts another one may not see; nothing was created."""


class NoWorker(NotReady):
    """No worker that could take the session runs."""


class StartFailed(RunnerError):
    """``create_agent`` raised, or the session was closed before its agent was built.

    The session's row exists, ended, and keeps the traceback; ``session_id`` names it. ``closed``: somebody closed it.
    """

    def __init__(self, message: str, *, session_id: str, closed: bool = False) -> None:
        super().__init__(message)
        self.session_id = session_id
        self.closed = closed


class StartDrained(StartFailed):
    """The worker began to drain while ``create_agent`` ran: another worker may be asked."""


class StartTimeout(StartFailed):
    """``create_agent`` took longer than the start timeout; the session was cancelled."""


class AgentNotFound(RunnerError):
    """The runner hosts no agent of that name."""


class InvalidInput(RunnerError):
    """A value from outside is malformed; ``field`` says which. Nothing was created."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
