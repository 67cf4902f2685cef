"""The soak in a form that is too short to find a slow leak, and finds what goes wrong at once."""

from __future__ import annotations

import pytest

from . import sessions
from .soak import Soak
from .stage import prepared_stage

pytestmark = pytest.mark.timeout(180)


async def test_nothing_grows_and_nothing_goes_wrong_while_workers_are_killed() -> None:
    async with prepared_stage("postgresql", limits={"call": sessions.PER_CALL}) as stage:
        await Soak(stage, minutes=0.6).run()
        await stage.finished()
