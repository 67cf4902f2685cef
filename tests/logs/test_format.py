"""Which of the two formats is used."""

from __future__ import annotations

import argparse
import io
import json
import logging
from typing import Any

import pytest

from visionagents_runner import cli
from visionagents_runner.correlation import correlate, uncorrelate
from visionagents_runner.logs import configure_logging

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
    logging.getLogger("visionagents_runner.session").info("begun")
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
    monkeypatch.setattr("visionagents_runner.server.serve", lambda runner, **options: given.update(options))
    parser = argparse.ArgumentParser()
    cli.add_serve_arguments(parser)
    cli.serve(None, parser.parse_args(["--log-format", "json"]))  # type: ignore[arg-type]
    assert given["log_format"] == "json"
    cli.serve(None, parser.parse_args([]))  # type: ignore[arg-type]
    assert given["log_format"] is None
