"""Which session, call and request a log record belongs to."""

from __future__ import annotations

import contextvars
import logging
import re
import sys
import uuid
from collections.abc import Mapping

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:+/=@-]{1,128}", re.ASCII)

_ids: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("visionagents_runner_ids")


def correlate(**ids: str) -> contextvars.Token[Mapping[str, str]]:
    """Have every log record of this task, and of those that inherit its context, carry these: `CorrelationFilter`."""
    return _ids.set({**_ids.get({}), **ids})


def uncorrelate(token: contextvars.Token[Mapping[str, str]]) -> None:
    _ids.reset(token)


def correlated_context() -> contextvars.Context:
    """Return a context with nothing in it but these ids and the trace that this task is in."""
    context = contextvars.Context()
    if ids := _ids.get({}):
        context.run(_ids.set, ids)
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry import context as traces

        context.run(traces.attach, traces.get_current())
    return context


def clean_request_id(given: str | None) -> str:
    """Return the request id that a client or proxy sent, or one of our own if that is none to put in a log."""
    return given if given and _SANE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


class CorrelationFilter(logging.Filter):
    """Gives records ``session``, ``call`` and ``request_id``, and ``trace_id`` and ``span_id`` where there is a trace.

    For the *handlers* of a project's own LOGGING: a filter of a logger does not see what its children log.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in _ids.get({}).items():
            if not hasattr(record, name):
                setattr(record, name, value)
        if "opentelemetry.trace" in sys.modules:
            from opentelemetry import trace

            span = trace.get_current_span().get_span_context()
            if span.is_valid and not hasattr(record, "trace_id"):
                record.trace_id = trace.format_trace_id(span.trace_id)
                record.span_id = trace.format_span_id(span.span_id)
        return True
