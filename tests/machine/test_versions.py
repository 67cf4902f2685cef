"""Which versions the smoke tests run on: those of the classifiers, and what is not here is told."""

from __future__ import annotations

import pytest

from tests.machine import versions


@pytest.fixture(autouse=True)
def nothing_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_HERE", ("3.12", "6.0"))
    monkeypatch.setattr(versions, "_find", lambda python: None)


def test_a_python_that_is_not_here_is_told_and_fails_only_where_that_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert versions.main(strict=False) == 0
    told = capsys.readouterr().out.splitlines()
    assert "3.13    6.0     not run: there is no Python 3.13 here" in told
    assert "3.12    6.0     left to the whole suite" in told
    assert "3.11    6.0     there is no such pair: Django 6.0 takes Python 3.12" in told
    assert versions.main(strict=True) == 1


def test_a_failed_test_fails_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_find", lambda python: "python")
    monkeypatch.setattr(versions, "_run_smoke_tests", lambda *what: "failed: tests")
    assert versions.main(strict=False) == 1
    monkeypatch.setattr(versions, "_run_smoke_tests", lambda *what: "99 passed in 40 s")
    assert versions.main(strict=True) == 0
