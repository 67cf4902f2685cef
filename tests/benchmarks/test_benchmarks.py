"""The benchmark runs; what it measures is not looked at here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.processes import ROOT

pytestmark = pytest.mark.slow

ROWS = ("startup", "cpu")


@pytest.mark.timeout(300)
def test_a_quick_run_prints_a_table_of_values_and_ratios(tmp_path: Path) -> None:
    values = tmp_path / "values.json"
    only = [part for row in ROWS for part in ("--only", row)]

    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--quick", *only, "--json", str(values)],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=280,
    )

    assert done.returncode == 0, done.stderr
    assert "ours / theirs" in done.stdout
    results = json.loads(values.read_text())["results"]
    assert {result["row"] for result in results} == set(ROWS)
    assert all(result["ratio"] > 0 for result in results)
