"""Settings of a process that one of these tests started: its database, as it is."""

from __future__ import annotations

import os

os.environ["DATABASE_URL"] = "postgresql://"

from tests.child_settings import *  # noqa: F403
from tests.child_settings import INSTALLED_APPS

if "procrastinate.contrib.django" not in INSTALLED_APPS:
    INSTALLED_APPS.append("procrastinate.contrib.django")
