"""What `runagent` and `serveagents` say before anything is loaded that takes its time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, environment

AGENTS = """
import sys
print("the project's agents are imported", file=sys.stderr, flush=True)
raise RuntimeError("far enough")
"""


def lines_at_a_terminal(folder: Path, *arguments: str) -> list[str]:
    (folder / "late_agents.py").write_text(AGENTS)
    master, slave = os.openpty()
    env = environment(TEST_RUNNER="late_agents.runner", PYTHONPATH=f"{ROOT}{os.pathsep}{folder}")
    command = [sys.executable, "-m", "django", *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=env, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        written = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # Linux's end of file
                break
            if not piece:
                break
            written += piece
        process.wait(60)
    os.close(master)
    return written.decode().splitlines()


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
