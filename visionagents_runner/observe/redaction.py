"""The project's ``REDACT`` callable: what it lets through is all that anybody sees or keeps."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from django.utils.module_loading import import_string

from ..conf.settings import SETTING, get_settings
from ..exceptions import RunnerConfigurationError

Redact = Callable[[str, str, dict[str, Any]], dict[str, Any] | None]
"""``redact(session_id, kind, data)`` returns the data to show and keep, or None to drop the event. It runs on the event
loop for every event, partial words too: it must be fast."""


class RedactionFailed(Exception):
    """What it was asked about must not be shown. The message quotes nothing of it."""


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
    except RunnerConfigurationError as error:
        raise RedactionFailed(str(error)) from None
    if redact is None:
        return data
    try:
        result = redact(session_id, kind, data)
    except Exception as error:
        # Neither the exception nor its traceback goes further: they may quote the words.
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise RedactionFailed(f"REDACT raised {type(error).__name__} in {where.name}, line {where.lineno}") from None
    if result is None or isinstance(result, dict):
        return result
    raise RedactionFailed(f"REDACT returned a {type(result).__name__}, not a dict or None")


def redacted_error(session_id: str, text: str) -> str:
    """Return what ``REDACT`` leaves of the traceback with which a session ended.

    It sees it as the ``message`` of an ``error`` of the component "session".
    """
    if not get_settings().REDACT:
        return text
    data = {"component": "session", "type": "", "message": text, "recoverable": False}
    try:
        shown = apply_redact(session_id, "error", data)
    except RedactionFailed as error:
        return f"The error is withheld: {error}"
    return "The error is withheld by REDACT." if shown is None else str(shown.get("message", ""))
