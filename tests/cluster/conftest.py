"""These take minutes, and servers that may be stopped: only with ``CLUSTER=1``.

They need ``redis-server``, PostgreSQL and MariaDB (their programs; they are run in temporary folders), ``ip``,
``faketime``, and root for network namespaces and a small disk.
"""

from __future__ import annotations

import os

import pytest

collect_ignore_glob = [] if os.environ.get("CLUSTER") else ["test_*.py"]


@pytest.fixture(autouse=True)
def no_thread_keeps_a_connection() -> None:
    """Nothing here uses Django's connections: the fleet's processes do."""
