"""``manage.py serveagents``: the REST API, the project besides it, and the worker that hosts the agents."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from visionagents_runner.cli import main
from visionagents_runner.exceptions import RunnerError


class Command(BaseCommand):
    help = "Serves the REST API that starts agents on calls, and the project besides. SIGTERM drains, Ctrl-C closes."

    def add_arguments(self, parser: CommandParser) -> None:
        main.add_serve_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        from visionagents_runner.registry import get_runner

        try:
            main.serve(get_runner(), argparse.Namespace(**options))
        except RunnerError as error:
            raise CommandError(str(error)) from None
