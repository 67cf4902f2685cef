"""The project's ``REDACT`` callable: what it lets through is all that anybody sees or keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.utils.module_loading import import_string

from ..conf import SETTING, get_settings
from ..exceptions import RunnerConfigurationError

Redact = Callable[[str, str, dict[str, Any]], dict[str, Any] | None]
"""``redact(session_id, kind, data)`` returns the data to show and keep, or None to drop the event. It runs on the event
loop for every event, partial words too: it must be fast."""


class RedactionFailed(Exception):
    """What it was asked about must not be shown."""


def load_redact() -> Redact | None:
    """Return the callable that ``REDACT`` names; None if the setting is empty.

    Raises:
        RunnerConfigurationError: it cannot be imported or called.
    """
    path = get_settings().REDACT
    if not path:
        return None
    try:
        redact = import_string(path)
    except Exception as error:
        raise RunnerConfigurationError(
            f'{SETTING}["REDACT"] = {path!r} cannot be imported: {error}. Nothing is shown or kept until it can'
        ) from error
    if not callable(redact):
        raise RunnerConfigurationError(
            f'{SETTING}["REDACT"] = {path!r} is not callable: it must be redact(session_id, kind, data)'
        )
    return redact  # type: ignore[no-any-return]


def apply_redact(session_id: str, kind: str, data: dict[str, Any]) -> dict[str, Any] | None:
    """Return what ``REDACT`` makes of an event; None drops it.

    Raises:
        RedactionFailed: it raised, could not be loaded, or returned neither a dict nor None.
    """
    try:
        redact = load_redact()
        if redact is None:
            return data
        result = redact(session_id, kind, data)
    except Exception as error:
        raise RedactionFailed(f"REDACT failed on an event of kind {kind!r}: {error!r}") from error
    if result is None or isinstance(result, dict):
        return result
    raise RedactionFailed(
        f"REDACT returned a {type(result).__name__} for an event of kind {kind!r}, not a dict or None"
    )
