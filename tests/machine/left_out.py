"""Tests that need what the machine lacks are left out, and a table after the others tells how many, and why."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Generator

import pytest

from .requirements import REQUIREMENTS, WHY_NOT, Missing, require

_PROPERTY = "left_out"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fail-on-left-out", action="store_true", help="fail if a test is left out for want of something")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requires(*names): a test that needs them, of tests.machine.requirements")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("requires"):
        for name in marker.args:
            require(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    raised = call.excinfo.value if call.excinfo is not None else None  # pytest puts a skip of its own in its place
    report = yield
    if isinstance(raised, Missing):
        report.user_properties.append((_PROPERTY, [raised.name, raised.why]))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and session.config.getoption("--fail-on-left-out") and _left_out(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left_out = _left_out(terminalreporter)
    if not left_out:
        return
    width = max(len(name) for name, _ in left_out)
    terminalreporter.section(f"left out: {left_out.total()} tests")
    terminalreporter.write_line(f"{'tests':>6}  {'for want of':<{max(width, 11)}}  why")
    for (name, why), count in sorted(left_out.items(), key=lambda row: (-row[1], row[0])):
        terminalreporter.write_line(f"{count or '-':>6}  {name:<{max(width, 11)}}  {why}")


def _left_out(reporter: pytest.TerminalReporter) -> Counter[tuple[str, str]]:
    """Count what was left out, by what was wanting and why; 0 for what was wanting, and no test of its own needs."""
    told: dict[str, str] = json.loads(os.environ.get(WHY_NOT) or "{}")
    found = Counter({(name, why): 0 for name, why in told.items() if name not in REQUIREMENTS})
    reports = [report for each in reporter.stats.values() for report in each if isinstance(report, pytest.TestReport)]
    found.update(tuple(value) for report in reports for key, value in report.user_properties if key == _PROPERTY)
    return found
