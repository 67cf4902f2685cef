"""The run of `sessions` in a short form."""

from __future__ import annotations

import pytest

from . import sessions
from .stage import prepared_stage

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("with_redis", [True, False], ids=["redis", "no redis"])
async def test_any_worker_answers_for_any_session_and_limits_are_exact(with_redis: bool) -> None:
    limits = sessions.options_for(count=40, workers=2)
    async with prepared_stage("postgresql", workers=2, own_server=False, with_redis=with_redis, **limits) as stage:
        await sessions.run(stage, count=40)
        await stage.finished()
