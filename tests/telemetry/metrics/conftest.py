from typing import Any

import pytest

from tests.api.fixtures import allow_local, client, mount, serve

__all__ = ["allow_local", "client", "mount", "serve"]


@pytest.fixture(autouse=True)
def limit_the_lag(settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "LOOP_LAG_LIMIT": 0.5}
