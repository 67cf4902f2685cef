"""Limits of a test's own, and the API and the sockets to try them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.auth.keys.fixtures import afresh

__all__ = ["afresh"]


@pytest.fixture
def limit(settings: Any) -> Callable[..., None]:
    """Have these limits instead of the defaults: ``limit(turns_per_person="30/m burst 1")``."""

    def use(**values: Any) -> None:
        settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "LIMITS": values}

    return use
