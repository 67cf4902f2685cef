"""Settings of the server that is attacked: as in production, on a database of its own."""

from __future__ import annotations

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

DATABASES["default"] = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": os.environ["HOSTILE_DATABASE"],
    "OPTIONS": {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    },
}
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
# The loop is held on purpose: a worker that refuses starts for that would be spared the rest.
VISIONAGENTS_RUNNER = {"RUNNER": "tests.hostile.agents.runner", "LOOP_LAG_LIMIT": 0, "LOOP_LAG_WARNING": 0}

if os.environ.get("HOSTILE_LIMITS") != "shipped":
    # Whoever attacks may have many invitations and keys. Here all have the same, so that theirs are no limits: what one
    # person, one address and the worker may have still counts, and what is behind the others is reached.
    VISIONAGENTS_RUNNER["LIMITS"] = dict.fromkeys(
        (
            "seats_per_identity",
            "joins_per_identity",
            "turns_per_identity",
            "turns_per_call",
            "events_per_identity",
            "mutes_per_identity",
            "media_per_identity",
            "sockets_per_identity",
            "openings_per_identity",
            "feeds_per_identity",
            "reads_per_identity",
        )
    )
