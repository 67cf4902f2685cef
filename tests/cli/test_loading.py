"""What `runagent` and `serveagents` say before anything is loaded that takes its time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, at_a_terminal, environment

pytestmark = pytest.mark.slow

AGENTS = """
import sys
print("the project's agents are imported", file=sys.stderr, flush=True)
raise RuntimeError("far enough")
"""


def lines_at_a_terminal(folder: Path, *arguments: str) -> list[str]:
    (folder / "late_agents.py").write_text(AGENTS)
    env = environment(TEST_RUNNER="late_agents.runner", PYTHONPATH=f"{ROOT}{os.pathsep}{folder}")
    _, lines = at_a_terminal([sys.executable, "-m", "django", *arguments], env)
    return lines


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("command", ["runagent", "serveagents"])
def test_the_first_line_comes_before_the_project_is_loaded(tmp_path: Path, command: str) -> None:
    first, second, *_ = lines_at_a_terminal(tmp_path, command)
    assert (first.split(), second) == (
        ["loading", "Django", "and", "the", "project"],
        "the project's agents are imported",
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("arguments", [("runagent", "--help"), ("runagent", "--no-splash"), ("check",)])
def test_who_asks_for_something_else_is_told_nothing_of_it(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert not any("loading" in line and "project" in line for line in lines_at_a_terminal(tmp_path, *arguments))
