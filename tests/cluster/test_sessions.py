"""The run of `sessions` in a short form."""

from __future__ import annotations

import statistics

import pytest

from . import sessions
from .stage import prepared_stage

pytestmark = pytest.mark.timeout(180)

_PATIENCE = 6
"""So much longer may it take on a machine that is busy with other tests. A poll takes nearly three times that again."""


@pytest.mark.parametrize("with_redis", [True, False], ids=["redis", "no redis"])
async def test_any_worker_answers_for_any_session_and_limits_are_exact(with_redis: bool) -> None:
    limits = sessions.options_for(count=42, workers=3)
    async with prepared_stage("postgresql", workers=3, own_server=False, with_redis=with_redis, **limits) as stage:
        seen = await sessions.run(stage, count=42)
        await stage.finished()
        median = statistics.median(seen.teardown_ms)
        assert median < (_PATIENCE * sessions.CLOSE_MS if with_redis else stage.fleet.poll * 1000), seen.values
