"""Settings of a process that a test started: the test's own database, as it is."""

from __future__ import annotations

import json
import os

from tests.settings import *  # noqa: F403

DATABASES = {"default": json.loads(os.environ["TEST_DATABASE"])}
VISIONAGENTS_RUNNER = {
    "RUNNER": os.environ.get("TEST_RUNNER", "tests.agents.runner"),
    **json.loads(os.environ.get("TEST_RUNNER_SETTINGS", "{}")),
}
