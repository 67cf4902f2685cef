"""``manage.py pruneagentsessions``."""

from __future__ import annotations

import sys
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import SystemCheckError
from django.db import OperationalError

from tests.store.retention.conftest import session, worker
from visionagents_runner.models import AgentSession, EndReason, SessionEvent, Worker
from visionagents_runner.store import retention

DAY = timedelta(days=1)

pytestmark = pytest.mark.django_db


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def run(*arguments: str, stderr: StringIO | None = None) -> str:
    out = StringIO()
    call_command("pruneagentsessions", *arguments, stdout=out, stderr=stderr or StringIO())
    return out.getvalue()


def test_it_deletes_and_says_what() -> None:
    session(31 * DAY)
    session(31 * DAY, EndReason.ERROR)
    worker(stopped=31 * DAY)
    session(DAY)
    assert run("--older-than", "30d") == "Deleted 2 sessions (1 closed, 1 failed), 6 events, 1 workers.\n"
    assert AgentSession.objects.count() == 1
    assert run("--older-than", "30d") == "Deleted 0 sessions, 0 events, 0 workers.\n"


def test_a_dry_run_says_what_would_go_and_deletes_nothing() -> None:
    session(31 * DAY, events=1200)
    session(31 * DAY, EndReason.ERROR)
    worker(stopped=31 * DAY)
    before = (AgentSession.objects.count(), SessionEvent.objects.count(), Worker.objects.count())
    lines = [line.split() for line in run("--older-than", "30d", "--dry-run").splitlines()]
    assert ["closed", "1", "sessions", "1,200", "events"] in lines
    assert ["failed", "1", "sessions", "3", "events"] in lines
    assert ["in", "all", "2", "sessions", "1,203", "events"] in lines
    assert lines[-2][-1] == "1"
    assert " ".join(lines[-1]).endswith("nothing was deleted.")
    assert (AgentSession.objects.count(), SessionEvent.objects.count(), Worker.objects.count()) == before
    assert "failed" not in run("--older-than", "30d", "--dry-run", "--keep-failed")
    assert "0 sessions" in run("--older-than", "90d", "--dry-run")


def test_failed_ones_can_be_kept() -> None:
    failed = session(31 * DAY, EndReason.ERROR)
    session(31 * DAY)
    run("--older-than", "30d", "--keep-failed", "--batch-size", "1")
    assert AgentSession.objects.get() == failed


def test_without_an_age_the_setting_counts_and_without_both_nothing_goes(settings: Any) -> None:
    session(31 * DAY)
    with pytest.raises(CommandError, match=r"--older-than 30d, or set VISIONAGENTS_RUNNER\['RETENTION'\]"):
        run()
    settings.VISIONAGENTS_RUNNER = {"RETENTION": 60 * DAY}
    assert "0 sessions" in run()
    assert "1 session " in run("--older-than", "30d")
    session(61 * DAY)
    assert "1 session " in run()


@pytest.mark.parametrize("value", [0, -1, timedelta(0), True, "30d"])
def test_a_setting_that_is_no_length_of_time_deletes_nothing(settings: Any, value: Any) -> None:
    session(31 * DAY)
    settings.VISIONAGENTS_RUNNER = {"RETENTION": value}
    with pytest.raises(CommandError, match="RETENTION"):
        run()
    with pytest.raises(SystemCheckError, match="RETENTION"):
        call_command("pruneagentsessions", skip_checks=False)
    assert AgentSession.objects.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--older-than", "30"), "no length of time"),
        (("--older-than", "0d"), "above 0"),
        (("--older-than", "tomorrow"), "no length of time"),
        (("--older-than", "1d", "--batch-size", "0"), "number from 1 to 1,000"),
        (("--older-than", "1d", "--batch-size", "1e3"), "number from 1 to 1,000"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: tuple[str, ...], words: str) -> None:
    session(31 * DAY)
    with pytest.raises(CommandError, match=words):
        run(*arguments)
    assert AgentSession.objects.exists()


def test_an_interruption_says_what_is_gone_and_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(4):
        session(31 * DAY)
    monkeypatch.setattr(retention, "_let_others_write", interrupt)
    out = StringIO()
    with pytest.raises(SystemExit) as raised:
        call_command("pruneagentsessions", "--older-than", "30d", "--batch-size", "1", stdout=out, stderr=StringIO())
    assert raised.value.code == 130
    assert "Interrupted. Deleted 1 session (1 closed)" in out.getvalue()
    assert AgentSession.objects.count() == 3


def interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


def test_a_database_that_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: Any) -> Any:
        raise OperationalError("the connection is closed\nDETAIL: more")

    monkeypatch.setattr(retention, "_delete_batch", away)
    with pytest.raises(CommandError, match=r"^The database refused: the connection is closed\. Run it again$"):
        run("--older-than", "30d")


def test_where_somebody_watches_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        session(31 * DAY)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert "3 sessions" in run("--older-than", "30d", "--batch-size", "1", stderr=screen)
    assert "Deleting sessions" in screen.getvalue()
    assert "3/3" in screen.getvalue()
    assert not run("--older-than", "30d").startswith("Deleting")
