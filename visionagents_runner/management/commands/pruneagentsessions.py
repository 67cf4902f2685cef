"""``manage.py pruneagentsessions``: deletes sessions that ended long ago, with their history."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from django.db.models import ProtectedError

from visionagents_runner.conf.settings import SETTING
from visionagents_runner.exceptions import RunnerConfigurationError
from visionagents_runner.store import retention
from visionagents_runner.utils.durations import parse_duration

if TYPE_CHECKING:
    from rich.progress import Progress

_MOST_AT_ONCE = 1_000
_INTERRUPTED = 130


class Command(BaseCommand):
    help = (
        "Deletes sessions that ended longer ago than --older-than, with their history, and workers of which none is "
        "left. Live sessions are never touched. It may be stopped at any time, run again, and run twice at once."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            type=_age,
            metavar="AGE",
            help=f"for example 30d or 12h, since they ended (default: {SETTING}['RETENTION'])",
        )
        parser.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
        parser.add_argument(
            "--batch-size",
            type=_batch_size,
            default=200,
            metavar="N",
            help="most sessions that go in one transaction (default: %(default)s)",
        )
        parser.add_argument(
            "--keep-failed", action="store_true", help="keep the sessions that failed or were lost, to look into them"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            age: timedelta | None = options["older_than"] or retention.default_age()
        except RunnerConfigurationError as error:
            raise CommandError(str(error)) from None
        if age is None:
            raise CommandError(
                "Nothing says how old a session must be: give --older-than 30d, or set "
                f"{SETTING}['RETENTION'] = timedelta(days=30)"
            )
        try:
            if options["dry_run"]:
                self._preview(age, options["keep_failed"])
            else:
                self._prune(age, options["keep_failed"], options["batch_size"])
        except DatabaseError as error:
            raise CommandError(f"The database refused: {str(error).partition(chr(10))[0]}. Run it again") from error
        except ProtectedError as error:
            raise CommandError(
                f"Rows of another app point to these sessions and forbid deleting them: {error}"
            ) from None

    def _preview(self, age: timedelta, keep_failed: bool) -> None:
        found = retention.preview(age, keep_failed=keep_failed)
        workers = retention.old_workers(age).count()
        self.stdout.write(f"Ended more than {_words(age)} ago:")
        for status, (sessions, events) in found.items():
            self.stdout.write(f"  {status:<8}{sessions:>10,} sessions{events:>12,} events")
        sessions, events = (sum(column) for column in zip(*found.values(), strict=True)) if found else (0, 0)
        self.stdout.write(f"  {'in all':<8}{sessions:>10,} sessions{events:>12,} events")
        self.stdout.write(f"Workers of which no session is left already: {workers:,}")
        self.stdout.write("This was a dry run: nothing was deleted.")

    def _prune(self, age: timedelta, keep_failed: bool, batch_size: int) -> None:
        tally = retention.Tally()
        try:
            with self._bar() as bar:
                if bar is None:
                    advance = None
                else:
                    total = retention.old_sessions(age, keep_failed=keep_failed).count()
                    task = bar.add_task("Deleting sessions", total=total)

                    def advance(count: int) -> None:
                        bar.advance(task, count)

                retention.prune(age, keep_failed=keep_failed, batch_size=batch_size, tally=tally, on_batch=advance)
        except KeyboardInterrupt:
            self.stdout.write(f"Interrupted. {_report(tally)} Run it again for the rest.")
            raise SystemExit(_INTERRUPTED) from None
        except DatabaseError:
            self.stdout.write(_report(tally))
            raise
        self.stdout.write(_report(tally))

    def _bar(self) -> AbstractContextManager[Progress | None]:
        """Return a progress bar where somebody watches."""
        if not self.stderr.isatty():
            return nullcontext()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        return Progress(*columns, console=Console(stderr=True), transient=True)


def _report(tally: retention.Tally) -> str:
    count = tally.sessions.total()
    states = ", ".join(f"{number:,} {state}" for state, number in sorted(tally.sessions.items()))
    sessions = f"{count:,} {'session' if count == 1 else 'sessions'}" + (f" ({states})" if states else "")
    return f"Deleted {sessions}, {tally.events:,} events, {tally.workers:,} workers."


def _words(age: timedelta) -> str:
    seconds = age.total_seconds()
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,g} seconds"


def _age(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _batch_size(text: str) -> int:
    try:
        size = int(text)
    except ValueError:
        size = 0
    if not 1 <= size <= _MOST_AT_ONCE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST_AT_ONCE:,}")
    return size
