"""The command that runs the tests."""

from __future__ import annotations

import subprocess

import pytest

from tests.machine.requirements import ROOT


@pytest.mark.parametrize("arguments", [["--on", "oracle"], ["--on=oracle"]])
def test_a_database_that_is_none_is_refused(arguments: list[str]) -> None:
    done = subprocess.run([ROOT / "tests" / "run", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--on sqlite|postgresql|mariadb" in done.stderr
