"""A worker under its supervisor: what it does when told, and until when it answers."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import threading
from multiprocessing import Pipe

import pytest

from tests.agents import runner
from visionagents_runner.server.lifecycle import Life
from visionagents_runner.server.subprocess import Supervised
from visionagents_runner.utils import garbage
from visionagents_runner.worker.process import sweep


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
async def test_a_worker_whose_place_is_taken_hangs_up_and_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "_settled", False)  # as it is again afterwards
    supervisor, its_end = Pipe()
    happened: list[str] = []
    looked_at_no_more: list[int] = []
    thresholds = gc.get_threshold()
    stopped = asyncio.Event()
    with socket.socket() as listener, supervisor, its_end:
        life = Life(runner, 0.0, Supervised(its_end, listener, late=False))
        life.begin(stopped.set, lambda: happened.append("listens no more"), lambda: happened.append("hangs up"))
        loop = asyncio.get_running_loop()
        try:
            await life.settled.wait()
            looked_at_no_more.append(gc.get_freeze_count())
            supervisor.send(("retire",))
            async with asyncio.timeout(20):
                await stopped.wait()
        finally:
            gc.unfreeze()
            gc.set_threshold(*thresholds)
            loop.remove_reader(its_end.fileno())
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
    assert happened == ["listens no more", "hangs up"]
    # What was loaded until it was warm costs no later garbage collection anything.
    assert looked_at_no_more[0] > 10_000


def test_a_worker_answers_its_supervisor_until_its_loop_is_closed() -> None:
    supervisor, its_end = Pipe()
    swept = threading.Event()
    heard = []

    def ask_at_the_very_end() -> None:
        swept.wait()
        supervisor.send(("ping",))
        if supervisor.poll(20):
            heard.append(supervisor.recv())

    async def main() -> None:
        Supervised(its_end, listener, late=False).begin(
            on_signal=lambda count, number: None,
            on_retire=lambda: None,
            on_reload=lambda: None,
            on_orphaned=lambda: None,
        )
        assert await asyncio.to_thread(supervisor.recv) == ("begun", "")
        asyncio.get_running_loop().run_in_executor(None, ask_at_the_very_end)
        await sweep()
        swept.set()

    with socket.socket() as listener, supervisor, its_end:
        asyncio.run(main())  # whose last act is to wait for the threads
    assert heard == [("pong", "")]
