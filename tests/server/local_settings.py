"""Settings of a server on a developer's machine, where local requests count and are told apart as they really are."""

from __future__ import annotations

import json
import os

os.environ.setdefault("SECRET_KEY", "tests-only")

from project.settings import *  # noqa: F403

DATABASES = {"default": json.loads(os.environ["TEST_DATABASE"])}
DEBUG = True
VISIONAGENTS_RUNNER = {"RUNNER": "tests.agents.runner", "LOOP_LAG_LIMIT": 0}
