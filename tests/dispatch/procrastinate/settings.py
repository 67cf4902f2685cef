"""Settings of a test run with Procrastinate: on PostgreSQL, whatever the others run on."""

from __future__ import annotations

import os

POSTGRES_URL = os.environ.get("POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
if not os.environ.get("DATABASE_URL", "").startswith("postgres"):
    os.environ["DATABASE_URL"] = POSTGRES_URL

from tests.settings import *  # noqa: E402, F403
from tests.settings import DATABASES, INSTALLED_APPS  # noqa: E402

if "procrastinate.contrib.django" not in INSTALLED_APPS:
    INSTALLED_APPS.append("procrastinate.contrib.django")
DATABASES["default"]["TEST"] = {"NAME": f"test_visionagents_engine_{os.getpid()}"}
