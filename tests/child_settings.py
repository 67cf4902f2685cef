"""Settings of a process that a test started: the test's own database, as it is."""

from __future__ import annotations

import json
import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES as _DATABASES
from tests.settings import INSTALLED_APPS as _INSTALLED_APPS

DATABASES = {"default": json.loads(os.environ["TEST_DATABASE"])}
if "factory" in DATABASES["default"]["OPTIONS"]:  # a class, which JSON does not hold
    DATABASES["default"]["OPTIONS"]["factory"] = _DATABASES["default"]["OPTIONS"]["factory"]
if "TEST_WITHOUT_DAPHNE" in os.environ:  # it loads Twisted, for runserver
    INSTALLED_APPS = [app for app in _INSTALLED_APPS if app != "daphne"]
VISIONAGENTS_RUNNER = {
    "RUNNER": os.environ.get("TEST_RUNNER", "tests.agents.runner"),
    **json.loads(os.environ.get("TEST_RUNNER_SETTINGS", "{}")),
}
