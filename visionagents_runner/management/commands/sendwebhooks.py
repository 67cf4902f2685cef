"""``manage.py sendwebhooks``: tells the endpoints of WEBHOOKS of sessions that ended, where no worker does."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from visionagents_runner.conf.settings import SETTING
from visionagents_runner.conf.webhooks import endpoints, refuse_unsound_endpoints
from visionagents_runner.exceptions import RunnerConfigurationError
from visionagents_runner.models import WebhookDelivery
from visionagents_runner.store import database
from visionagents_runner.webhooks.sender import Tally, WebhookSender

_LAST_SECONDS = 5.0


class Command(BaseCommand):
    help = (
        "Sends the webhooks that are due, once, or with --loop until it is stopped. Workers (serveagents, runagent) do "
        "that too; it may run beside them, and twice at once."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--loop", action="store_true", help="go on until SIGTERM or Ctrl-C")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            refuse_unsound_endpoints()
        except RunnerConfigurationError as error:
            raise CommandError(str(error)) from None
        if not endpoints():
            raise CommandError(f"{SETTING}['WEBHOOKS'] names no endpoint: there is nobody to tell")
        try:
            tally = asyncio.run(_serve() if options["loop"] else _send_once())
            left = WebhookDelivery.objects.pending().count()
        except DatabaseError as error:
            raise CommandError(f"The database refused: {str(error).partition(chr(10))[0]}") from error
        finally:
            database.close()
        self.stdout.write(
            f"Delivered {tally.delivered:,}, failed {tally.to_be_tried_again + tally.given_up:,} "
            f"(given up: {tally.given_up:,}). Pending: {left:,}."
        )


async def _send_once() -> Tally:
    sender = WebhookSender()
    try:
        return await sender.send_due()
    finally:
        await sender.abandon()


async def _serve() -> Tally:
    sender, stop = WebhookSender(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, stop.set)
    sender.start()
    await stop.wait()
    await sender.close(_LAST_SECONDS)
    return sender.tally
