"""``manage.py createagentkey``: an API key for a program, printed once."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from visionagents_runner.auth import keys
from visionagents_runner.models import Scope
from visionagents_runner.utils.durations import parse_duration
from visionagents_runner.utils.text import one_line

_NEVER = "never"


class Command(BaseCommand):
    help = (
        "Makes an API key and prints it on standard output, this once: only a hash of it is kept. A program sends it "
        "as 'Authorization: Bearer <key>'. To revoke one, use the admin."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", required=True, help="what uses it")
        parser.add_argument(
            "--owner",
            required=True,
            metavar="USER",
            help="name of the user who answers for it: what it starts is theirs, and without the scope view it sees "
            "only that",
        )
        parser.add_argument(
            "--scope",
            action="append",
            required=True,
            choices=Scope.values,
            dest="scopes",
            help="what it may do; give it once for each: "
            + "; ".join(f"{scope.value} ({scope.label})" for scope in Scope),
        )
        parser.add_argument(
            "--expires",
            type=_expires,
            default=None,
            metavar="AGE",
            help="how long it counts, for example 90d or 12h (default: never ends)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        users: Any = get_user_model()
        try:
            owner = users._default_manager.get_by_natural_key(options["owner"])
        except users.DoesNotExist:
            raise CommandError(f"There is no user {options['owner']!r}: --owner takes a user's name") from None
        if not getattr(owner, "is_active", True):
            raise CommandError(f"The user {options['owner']!r} is not active: a key of theirs would be void")
        try:
            row, plain = keys.issue_key(
                name=options["name"],
                owner=owner,
                scopes=options["scopes"],
                expires_in=options["expires"],
                by="createagentkey",
            )
        except ValueError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(plain)
        until = f"until {row.expires_at:%Y-%m-%d %H:%M} UTC" if row.expires_at else "until it is revoked"
        # Words go elsewhere, so that the key alone can be piped into a file or a vault.
        self.stderr.write(
            f"This is the key of {row.name!r}, shown this once. It counts {until}, for {', '.join(row.scopes)}; what "
            f"it starts is {one_line(owner.get_username())}'s.",
            self.style.SUCCESS,
        )


def _expires(text: str) -> timedelta | None:
    if text.strip().lower() == _NEVER:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
