"""Settings of a worker of the fleet: the project's as in production, on DATABASE_URL and REDIS_URL."""

from __future__ import annotations

import json
import os

os.environ.setdefault("SECRET_KEY", "cluster-only")
os.environ["DEBUG"] = "0"

from project.settings import *  # noqa: F403
from tests.trust import trust_every_peer

ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.cluster.urls"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = False

if pool := os.environ.get("CLUSTER_POOL"):
    # Connections for the project's own code: the first that it cannot get is soon told so.
    DATABASES["default"]["OPTIONS"]["pool"] = {"min_size": 1, "max_size": int(pool), "timeout": 1.0}  # noqa: F405

# A busy machine must not have a start refused: the loop's lag is tested elsewhere.
VISIONAGENTS_RUNNER = {
    "RUNNER": "tests.cluster.agents.runner",
    "ALLOW_LOCAL": True,
    "LOOP_LAG_LIMIT": 0,
    **json.loads(os.environ.get("CLUSTER_SETTINGS", "{}")),
}

trust_every_peer()  # who measures serves others too
