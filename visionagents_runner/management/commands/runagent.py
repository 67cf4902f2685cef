"""``manage.py runagent``: one agent on one call, with a chat in the terminal."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from visionagents_runner.cli import main
from visionagents_runner.exceptions import RunnerError


class Command(BaseCommand):
    help = "Runs one agent on one call, with a chat in the terminal, until the call ends or Ctrl-C."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        main.add_run_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        from visionagents_runner.registry import get_runner

        try:
            code = main.run(get_runner(), argparse.Namespace(**options))
        except RunnerError as error:
            raise CommandError(str(error)) from None
        if code:
            raise SystemExit(code)
