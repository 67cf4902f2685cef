"""A full disk under SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.machine.requirements import require

from ..stage import Stage
from .server import all_went_on

_MEGABYTES = 16


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a small file system on ``folder``, which takes root."""
    require("root")
    folder.mkdir()
    options = f"size={_MEGABYTES}m,mode=0755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def full(stage: Stage) -> None:
    """The disk of SQLite is full for a while: calls go on, what cannot be kept is refused, and then all works again."""
    fleet = stage.fleet
    disk = Path(fleet.database.url.removeprefix("sqlite:///")).parent
    assert disk.is_mount(), "this fault needs its database on a small disk of its own"
    begun = await stage.begin()
    mine = {session_id for sessions in begun.values() for session_id in sessions}
    filler = disk / "filler"
    async with stage.traffic(every=0.1):
        await asyncio.sleep(0.5)
        deadline = asyncio.get_running_loop().time() + (fleet.until_lost + 2 if stage.long else fleet.ttl)
        while asyncio.get_running_loop().time() < deadline:
            _fill(filler)  # also what a checkpoint has freed meanwhile
            await asyncio.sleep(0.1)
        running = {run.session_id for run in await asyncio.to_thread(fleet.runs) if run.stopped is None}
        filler.unlink()
        assert mine <= running, "calls go on while nothing can be written"
        for worker in fleet.living:

            async def starts(worker: object = worker) -> bool:
                return (await fleet.client.start(via=worker)).accepted  # type: ignore[arg-type]

            await stage.until(f"{worker} starts sessions", starts, 30.0)
    refused = sum(not asked.accepted for asked in fleet.client.asked)
    stage.tell(f"{refused} starts refused")
    assert refused, "the disk was not full"
    await all_went_on(stage, mine)


def _fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
