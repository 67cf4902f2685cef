"""OpenTelemetry spans, by its API alone: they cost next to nothing, and go nowhere, unless the project sets up its SDK.

``agent_session`` lasts as long as the session. Below it are ``agent_session.start`` (with ``.admit`` and ``.build``),
``.join``, ``.close``, and what vision-agents traces itself. It is a trace of its own, linked to the request that asked
for the session: a call may last an hour, and is sampled for itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from .. import __version__
from ..utils.credentials import MAX_ERROR_CHARACTERS, error_text, without_credentials
from ..utils.text import visible

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer
    from opentelemetry.util.types import AttributeValue

NAME = "agent_session"


@cache
def _tracer() -> Tracer:
    from opentelemetry import trace

    return trace.get_tracer("visionagents_runner", __version__)


@contextmanager
def span(name: str, **attributes: AttributeValue) -> Iterator[None]:
    """Trace what this block does, below the span that is current; an exception marks it as failed."""
    with _span(name, None, attributes):
        yield


class SessionTrace:
    """The spans of one session. Each may be ended twice, and by whoever knows first."""

    def __init__(self, *, session_id: str, agent: str, call_type: str, call_id: str) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context

        self._attributes: dict[str, AttributeValue] = {
            "session.id": session_id,
            "gen_ai.agent.name": agent,
            "visionagents.call.type": call_type,
            "visionagents.call.id": call_id,
        }
        asking = trace.get_current_span().get_span_context()
        links = [trace.Link(asking)] if asking.is_valid else []
        self._root = _tracer().start_span(NAME, Context(), attributes=self._attributes, links=links)
        self._context = trace.set_span_in_context(self._root, Context())
        self._part_of = self._context
        self._join: Span | None = None

    def enter(self) -> None:
        """Have what the current task traces from now on belong to the session."""
        from opentelemetry import context

        context.attach(self._context)

    @contextmanager
    def start(self) -> Iterator[None]:
        """Trace the start of the session; what `span` traces meanwhile is a part of it."""
        from opentelemetry import context

        with self.span("start"):
            self._part_of = context.get_current()
            try:
                yield
            finally:
                self._part_of = self._context

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Trace what this block does as a part of the session; an exception marks it as failed."""
        with _span(f"{NAME}.{name}", self._part_of, self._attributes):
            yield

    def begin_join(self) -> None:
        self._join = _tracer().start_span(f"{NAME}.join", self._context, attributes=self._attributes)

    def end_join(self, problem: str = "") -> None:
        if self._join is not None:
            _end(self._join, problem)
            self._join = None

    def failed(self, error: BaseException) -> None:
        """Put down what went wrong in the session."""
        _record(self._root, error)

    def end(self, reason: str, *, failed: bool) -> None:
        self.end_join("The session ended before its agent had joined")
        self._root.set_attribute("visionagents.end_reason", reason)
        _end(self._root, reason if failed else "")


@contextmanager
def _span(name: str, context: Context | None, attributes: Mapping[str, AttributeValue]) -> Iterator[None]:
    # Not recorded by the API itself: it would put down the message and traceback as they are.
    with _tracer().start_as_current_span(
        name, context, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except Exception as error:
            _record(span, error)
            _fail(span, type(error).__name__)
            raise


def _record(span: Span, error: BaseException) -> None:
    if not span.is_recording():
        return
    message = visible(without_credentials(str(error)[:MAX_ERROR_CHARACTERS]))
    span.record_exception(error, {"exception.message": message, "exception.stacktrace": error_text(error)})


def _end(span: Span, problem: str) -> None:
    if problem:
        _fail(span, problem)
    span.end()


def _fail(span: Span, problem: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR, problem)
