"""Which of the two formats is used."""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
from typing import Any

import pytest

from visionagents_runner.cli import main
from visionagents_runner.telemetry.correlation import correlate, uncorrelate
from visionagents_runner.telemetry.logs import JSONFormatter, LineFormatter, configure_logging

NAMES = ("visionagents_runner", "vision_agents", "daphne", "uvicorn", "django.server", "django.request")


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        for attribute, value in (("level", logging.NOTSET), ("propagate", True), ("handlers", [])):
            monkeypatch.setattr(logging.getLogger(name), attribute, value)
    monkeypatch.setattr(logging.getLogger("vision_agents.core.agents.agents"), "filters", [])


def logged(**options: Any) -> str:
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])  # pytest's own
        configure_logging(agents="INFO", stream=stream, **options)
    token = correlate(session="12", call="default/x", trace_id="ab")
    logging.getLogger("visionagents_runner.sessions.session").info("begun")
    uncorrelate(token)
    logging.getLogger("visionagents_runner").handlers.clear()
    return stream.getvalue()


def test_lines_are_the_default_and_show_the_session_but_no_trace() -> None:
    assert logged().endswith("begun session=12 call=default/x\n")


def test_the_setting_chooses_json(settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "LOG_FORMAT": "json"}
    line = json.loads(logged())
    assert (line["message"], line["session"], line["call"], line["trace_id"]) == ("begun", "12", "default/x", "ab")
    assert not logged(log_format="text").startswith("{")


def test_the_option_goes_before_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("visionagents_runner.server.main.serve", lambda runner, **options: given.update(options))
    parser = argparse.ArgumentParser()
    main.add_serve_arguments(parser)
    main.serve(None, parser.parse_args(["--log-format", "json"]))  # type: ignore[arg-type]
    assert given["log_format"] == "json"
    main.serve(None, parser.parse_args([]))  # type: ignore[arg-type]
    assert given["log_format"] is None


# What comes from outside

HOSTILE = "x\x1b[2J\r\n12:00:00 ERROR   visionagents_runner      forged\u2028\u202eab\x9b\ud800"
SECRET = "postgresql://me:hunter22@db.example"


def formatted(formatter: logging.Formatter, message: str = "%s", *, extra: str = "", error: str = "") -> str:
    record = logging.makeLogRecord({"name": "a.b", "levelname": "ERROR", "msg": message, "args": (HOSTILE,)})
    record.call = extra or HOSTILE
    if error:
        try:
            raise ValueError(error)
        except ValueError:
            record.exc_info = sys.exc_info()
    return formatter.format(record)


def test_a_record_is_one_line_in_which_nothing_is_hidden() -> None:
    line = formatted(LineFormatter(colour=False))
    assert line.isprintable()
    assert "\\x1b[2J\\r\\n12:00:00" in line
    assert "\\u202eab\\x9b\\ud800" in line


def test_a_value_cannot_pass_for_another_key() -> None:
    line = formatted(LineFormatter(colour=False), extra='default/x session=1 user="a"')
    assert line.endswith('call="default/x session=1 user=\\"a\\""')


def test_the_lines_of_a_traceback_cannot_pass_for_records() -> None:
    _line, *more = formatted(LineFormatter(colour=False), error=f"{HOSTILE}\n12:00:00 INFO forged").split("\n")
    assert more[0] == "| Traceback (most recent call last):"
    assert all(each.startswith("| ") and each[2:].replace("\t", "").isprintable() for each in more)
    assert more[-1] == "| 12:00:00 INFO forged"


def test_json_says_the_same_in_characters_that_can_be_seen() -> None:
    line = formatted(JSONFormatter(), error=HOSTILE)
    assert line.isprintable()
    said = json.loads(line)
    assert (said["message"], said["call"]) == (HOSTILE, HOSTILE)
    assert HOSTILE in said["exception"]
    line.encode()


@pytest.mark.parametrize("formatter", [LineFormatter(colour=False), JSONFormatter()])
def test_keys_and_passwords_are_left_out(formatter: logging.Formatter) -> None:
    line = formatted(formatter, f"%s at {SECRET}", extra=f"for {SECRET}", error=f"no answer from {SECRET}")
    assert "hunter22" not in line
    assert line.count("me:***@db.example") >= 3
