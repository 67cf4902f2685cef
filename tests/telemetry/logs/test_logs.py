"""Log lines in a terminal."""

from __future__ import annotations

import io
import logging

import pytest

from visionagents_runner.exceptions import RunnerConfigurationError
from visionagents_runner.telemetry.logs import LineFormatter, clean_level, configure_logging


def record(message: str, name: str = "app", created: float = 0.0, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": name, "levelname": "INFO", "msg": message, **extra})
    made.created = created
    return made


def test_the_time_is_blank_while_it_repeats() -> None:
    formatter = LineFormatter(colour=False)
    first, second, third = [formatter.format(record("x", created=at)) for at in (10.0, 10.5, 11.0)]
    assert first[:8].strip()
    assert second[:8] == " " * 8
    assert third[:8].strip()


def test_a_long_logger_is_cut_in_its_middle() -> None:
    line = LineFormatter(colour=False).format(record("x", name="visionagents_runner.something.session"))
    assert "visionagent…hing.session x" in line


def test_extras_stand_behind_the_message_unless_it_has_them() -> None:
    line = LineFormatter(colour=False).format(record("Session 12 ended", session="12", call="default/x"))
    assert line.endswith("Session 12 ended call=default/x")


def test_colour_is_for_terminals() -> None:
    assert "\x1b[" not in LineFormatter(colour=False).format(record("x"))
    assert "\x1b[2m" in LineFormatter(colour=True).format(record("x"))


@pytest.mark.parametrize("level", ["debug", "Info", "WARNING"])
def test_levels_are_of_any_case(level: str) -> None:
    assert clean_level(level) == level.upper()


def test_an_unknown_level_is_refused_with_those_there_are() -> None:
    with pytest.raises(RunnerConfigurationError, match="choose from DEBUG, INFO"):
        clean_level("loud")


def test_what_is_said_is_not_logged_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    agents = logging.getLogger("vision_agents.core.agents.agents")
    for name in ("visionagents_runner", "vision_agents", "daphne", "uvicorn", "django.server", "django.request"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(agents, "filters", [])
    configure_logging(agents="INFO", stream=stream)
    agents.info('Agent say: "%s"', "a secret")
    agents.info("Stopping the agent")
    assert "secret" not in stream.getvalue()
    assert "Stopping the agent" in stream.getvalue()
