"""Settings of a test run with Procrastinate: on PostgreSQL, whatever the others run on."""

from __future__ import annotations

import os

from tests.machine.requirements import require

if not os.environ.get("DATABASE_URL", "").startswith("postgres"):
    os.environ["DATABASE_URL"] = require("postgresql")

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, INSTALLED_APPS

if "procrastinate.contrib.django" not in INSTALLED_APPS:
    INSTALLED_APPS.append("procrastinate.contrib.django")
DATABASES["default"]["TEST"] = {"NAME": f"test_visionagents_engine_{os.getpid()}"}
