"""Settings of the server that the browser tests talk to: a database of its own, and static files as in development.

Its own, because the test database is emptied after each test that uses it, and this server outlives its tests.
"""

from __future__ import annotations

import json
import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

DEBUG = True
DATABASES["default"] = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": os.environ["BROWSER_TESTS_DATABASE"],
    "OPTIONS": {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    },
}
VISIONAGENTS_RUNNER = {
    "RUNNER": "tests.browser.agents.runner",
    **json.loads(os.environ.get("TEST_RUNNER_SETTINGS", "{}")),
}
