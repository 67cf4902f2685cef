"""Settings of the test run: the project's, on the database that DATABASE_URL names (a SQLite file without it)."""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("SECRET_KEY", "tests-only")

from project.settings import *  # noqa: F403
from project.settings import DATABASES, INSTALLED_APPS
from tests.trust import trust_every_peer

# Its tests have settings of their own: `tests.dispatch.procrastinate`.
INSTALLED_APPS = [app for app in INSTALLED_APPS if app != "procrastinate.contrib.django"]
DEBUG = False
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = False
ALLOWED_HOSTS = ["*"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # Threads and in-memory SQLite do not mix: each connection would see a database of its own.
    DATABASES["default"]["TEST"] = {
        "NAME": os.path.join(tempfile.mkdtemp(prefix="visionagents_runner_tests_"), "test.sqlite3")
    }
else:
    # A pool keeps connections open, and the test database could not be dropped.
    DATABASES["default"]["OPTIONS"].pop("pool", None)

# A busy machine must not have a test refused: tests of the loop's lag set the limit themselves.
VISIONAGENTS_RUNNER = {"RUNNER": "tests.agents.runner", "LOOP_LAG_LIMIT": 0}

trust_every_peer()
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="visionagents_runner_state_")
