"""What is left out for want of something is told, and a failure where nothing may be left out."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

import pytest

from tests.machine.requirements import ROOT, WHY_NOT

pytestmark = pytest.mark.slow

pytest_plugins = ["pytester"]

Run = Callable[..., pytest.RunResult]

TESTS = """
import pytest
from tests.machine.requirements import require

@pytest.fixture
def url():
    return require("redis")

@pytest.mark.requires("postgresql")
def test_by_a_marker():
    raise AssertionError

@pytest.mark.parametrize("number", [1, 2])
def test_by_a_fixture(url, number):
    raise AssertionError

def test_in_part(subtests):
    with subtests.test("with it"):
        require("postgresql")
    with subtests.test("without it"):
        pass

def test_that_needs_nothing():
    pass
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run these tests in a process of their own, where there is no PostgreSQL and no Redis: ``run(*arguments)``."""
    for name in ("POSTGRES_URL", "TEST_REDIS_URL", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv(WHY_NOT, json.dumps({"redis": "no such package", "postgresql": "did not start"}))
    pytester.makepyfile(TESTS)
    return functools.partial(pytester.runpytest_subprocess, "-p", "xdist", "-p", "tests.machine.left_out")


def test_a_table_tells_how_many_for_want_of_what(run: Run) -> None:
    result = run("-n", "2")
    result.stdout.fnmatch_lines(
        [
            "*left out: 4 tests*",
            " tests  for want of  why",
            "     2  postgresql   did not*",
            "     2  redis        no such*",
        ]
    )
    assert result.ret == pytest.ExitCode.OK


def test_where_nothing_may_be_left_out_it_fails(run: Run) -> None:
    assert run("--fail-on-left-out").ret == pytest.ExitCode.TESTS_FAILED
    assert run("--fail-on-left-out", "-n", "1", "-k", "by_a_marker").ret == pytest.ExitCode.TESTS_FAILED


def test_nothing_left_out_is_nothing_told(run: Run) -> None:
    result = run("--fail-on-left-out", "-k", "needs_nothing")
    result.stdout.no_fnmatch_line("*left out*")
    assert result.ret == pytest.ExitCode.OK


def test_what_no_test_of_its_own_needs_is_told_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WHY_NOT, json.dumps({"pip": "no network"}))
    run("-k", "needs_nothing").stdout.fnmatch_lines(["*left out: 0 tests*", "*", "*-  pip * no network"])
