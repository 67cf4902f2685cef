"""How log lines look, in a terminal and as JSON, where the project has not configured logging itself.

Ids, names and messages of errors come from outside: what a terminal would obey is written out, keys and passwords are
left out, and nothing of it can look like a line of its own.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from ..conf.settings import get_settings
from ..exceptions import RunnerConfigurationError
from ..utils.credentials import without_credentials
from ..utils.text import one_line, visible, visible_json
from .correlation import CorrelationFilter

Format = Literal["text", "json"]

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_AGENT_LOGGERS = ("visionagents_runner", "vision_agents")
_HTTP_LOGGERS = ("daphne", "uvicorn", "django.server", "django.request")
_NAME_WIDTH = 24
_COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "call_id", "taskName"}
_TRACE = frozenset({"trace_id", "span_id"})


def clean_level(level: str) -> str:
    """Return a log level in capitals.

    Raises:
        RunnerConfigurationError: there is no such level.
    """
    if (name := level.upper()) not in LEVELS:
        raise RunnerConfigurationError(f"Unknown log level {level!r}: choose from {', '.join(LEVELS)}")
    return name


def configure_logging(
    *, agents: str, http: str = "INFO", stream: TextIO | None = None, log_format: Format | None = None
) -> None:
    """Set levels, and give the loggers concerned a handler if neither they nor the root have one.

    ``log_format`` is LOG_FORMAT unless given.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(CorrelationFilter())
    if (log_format or get_settings().LOG_FORMAT) == "json":
        handler.setFormatter(JSONFormatter())
    else:
        handler.setFormatter(LineFormatter(colour=handler.stream.isatty()))
    root_has_handlers = bool(logging.getLogger().handlers)
    for names, level in ((_AGENT_LOGGERS, agents), (_HTTP_LOGGERS, http)):
        for name in names:
            logger = logging.getLogger(name)
            logger.setLevel(clean_level(level))
            if not logger.handlers and not root_has_handlers:
                logger.addHandler(handler)
                logger.propagate = False
    if clean_level(agents) != "DEBUG":
        # Every single word that people and agents say, at INFO: too much to read, and not for every reader of a log.
        logging.getLogger("vision_agents.core.agents.inference").setLevel(logging.WARNING)
        logging.getLogger("vision_agents.core.agents.agents").addFilter(_without_words)
    # What a server says of itself at INFO is for its developers; `server.banner` says what users want to know.
    for name in ("daphne.server", "daphne.http_protocol", "daphne.ws_protocol", "uvicorn.error"):
        if http != "DEBUG":
            logging.getLogger(name).setLevel(logging.WARNING)


def _without_words(record: logging.LogRecord) -> bool:
    """Leave out the line in which vision-agents repeats what an agent was told to say."""
    return "Agent say:" not in str(record.msg)


class LineFormatter(logging.Formatter):
    """``time level logger message key=value``: the time is blank while it repeats, a long name is cut in its middle.

    The lines of a traceback follow, each after ``| ``.
    """

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour
        self._last_time = ""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")  # noqa: DTZ006 - the reader's own clock
        shown, self._last_time = ("" if time == self._last_time else time), time
        message = record.getMessage()
        extras = " ".join(
            f"{key}={_quoted(str(value))}"
            for key, value in vars(record).items()
            if key not in _STANDARD | _TRACE and not key.startswith("_") and str(value) not in message
        )
        parts = [
            self._paint(f"{shown:8}", "2"),
            self._paint(f"{record.levelname:7}", _COLOURS.get(record.levelname, "")),
            self._paint(f"{one_line(_cut(record.name)):{_NAME_WIDTH}}", "2"),
            one_line(without_credentials(message.strip("\n"))),
        ]
        if extras:
            parts.append(self._paint(one_line(without_credentials(extras)), "2"))
        line = " ".join(parts)
        for more in (record.exc_info and self.formatException(record.exc_info), record.stack_info):
            if more:
                line += "".join(f"\n| {each}" for each in visible(without_credentials(more)).split("\n"))
        return line

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and code else text


class JSONFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``message``, what is in ``extra``, ``exception``.

    With a `CorrelationFilter` on the handler, also ``session``, ``call``, ``request_id``, ``trace_id``, ``span_id``.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": without_credentials(record.getMessage()),
        }
        for key, value in vars(record).items():
            if key not in _STANDARD and not key.startswith("_"):
                line.setdefault(key, without_credentials(value) if isinstance(value, str) else value)
        if record.exc_info:
            line["exception"] = without_credentials(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = without_credentials(self.formatStack(record.stack_info))
        return visible_json(json.dumps(line, default=str, ensure_ascii=False))


def _quoted(value: str) -> str:
    """Return a value that cannot pass for another ``key=value``."""
    return json.dumps(value, ensure_ascii=False) if not value or re.search(r"[\s\"=]", value) else value


def _cut(name: str) -> str:
    if len(name) <= _NAME_WIDTH:
        return name
    half = (_NAME_WIDTH - 1) // 2
    return f"{name[:half]}…{name[-(_NAME_WIDTH - 1 - half) :]}"
