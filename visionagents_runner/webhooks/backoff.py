"""When a delivery is tried again."""

from __future__ import annotations

from tenacity import RetryCallState, Retrying, wait_exponential, wait_random_exponential

MAX_ATTEMPTS = 12
MAX_RETRY_AFTER = 6 * 3600.0
"""A receiver may ask for more patience than ours, but not for ever."""

# 4 s, 16 s, 1 min, 4 min, 17 min, 68 min, then 3 h each; and the same again at random, so that deliveries that failed
# together do not come back together. The last of the attempts is 17 to 33 hours after the first.
_FIRST, _BASE, _MOST = 4.0, 4.0, 3 * 3600.0
_wait = wait_exponential(multiplier=_FIRST, exp_base=_BASE, max=_MOST) + wait_random_exponential(
    multiplier=_FIRST, exp_base=_BASE, max=_MOST
)


def seconds_before_next(attempts: int, retry_after: float | None = None) -> float | None:
    """Return how long to wait after so many failed attempts; None if there shall be no other.

    Args:
        retry_after: What the receiver asked for. It counts where it is longer, up to `MAX_RETRY_AFTER`.
    """
    if attempts >= MAX_ATTEMPTS:
        return None
    # The waits outlive the process, so that the library's own loop is of no use; its strategies are.
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempts
    return max(_wait(state), min(retry_after or 0.0, MAX_RETRY_AFTER))
