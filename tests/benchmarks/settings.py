"""Settings of the benchmark's processes: the project's as in production, on the database of DATABASE_URL."""

from __future__ import annotations

import os

os.environ.setdefault("SECRET_KEY", "benchmarks-only")
os.environ["DEBUG"] = "0"

from project.settings import *  # noqa: F403
from project.settings import INSTALLED_APPS
from tests.trust import trust_every_peer

ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
VISIONAGENTS_RUNNER = {
    "RUNNER": "tests.benchmarks.ours.runner",
    "ALLOW_LOCAL": True,
    "LEAN_API": "auto" if os.environ.get("BENCHMARK_LEAN", "1") == "1" else False,
    "DRAIN_TIMEOUT": 0,
}

if os.environ.get("BENCHMARK_WITHOUT_APP"):
    INSTALLED_APPS.remove("visionagents_runner")
    ROOT_URLCONF = "tests.benchmarks.urls_without_app"

trust_every_peer()  # who measures serves others too
