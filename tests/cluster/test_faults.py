"""The fault matrix in its short form, one fleet for all faults of a database; ``python -m tests.cluster`` is longer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from .faults import FAULTS, stage_for
from .stage import Stage, prepared_stage

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

ON_POSTGRESQL = [name for name, fault in FAULTS.items() if "postgresql" in fault.databases]
ON_MARIADB = ["kill", "database-restart", "connections"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def postgresql() -> AsyncIterator[Stage]:
    async with prepared_stage("postgresql") as stage:
        yield stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mariadb() -> AsyncIterator[Stage]:
    async with prepared_stage("mariadb") as stage:
        yield stage


@pytest.mark.parametrize("name", ON_POSTGRESQL)
async def test_every_session_ends_once_whatever_breaks(postgresql: Stage, name: str) -> None:
    await FAULTS[name].run(postgresql)
    await postgresql.settled()


async def test_nothing_is_left_when_the_fleet_has_gone(postgresql: Stage) -> None:
    await postgresql.finished()


@pytest.mark.parametrize("name", ON_MARIADB)
async def test_every_session_ends_once_on_mariadb_too(mariadb: Stage, name: str) -> None:
    await FAULTS[name].run(mariadb)
    await mariadb.settled()


async def test_every_session_ends_once_when_the_disk_of_sqlite_is_full() -> None:
    async with stage_for(FAULTS["disk-full"], "sqlite", workers=2) as stage:
        await FAULTS["disk-full"].run(stage)
        await stage.finished()
