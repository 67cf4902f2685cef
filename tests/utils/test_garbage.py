"""When garbage is collected."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from tests.conftest import until
from visionagents_runner.utils import garbage

pytestmark = pytest.mark.slow


class Knot:
    """Something that refers to itself, as aiortc's connections do."""

    left = 0

    def __init__(self) -> None:
        self.me = self
        Knot.left += 1

    def __del__(self) -> None:
        Knot.left -= 1


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threshold = gc.get_threshold()
    monkeypatch.setattr(garbage, "_settled", False)
    monkeypatch.setattr(garbage, "_PAUSE_SECONDS", 0.01)
    gc.disable()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)
    gc.enable()


async def test_what_has_ended_is_collected_soon_and_together() -> None:
    garbage.settle()
    before = gc.get_stats()[2]["collections"]
    for _ in range(3):
        Knot()
        garbage.collect_soon()
    assert Knot.left == 3
    await until(lambda: Knot.left == 0)
    assert gc.get_stats()[2]["collections"] == before + 1
    Knot()
    garbage.collect_soon()
    await until(lambda: Knot.left == 0)


async def test_what_was_there_before_is_not_looked_at_again() -> None:
    Knot()
    knots = [Knot() for _ in range(2)]
    garbage.settle()
    assert Knot.left == 2
    knots.clear()
    gc.collect()
    assert Knot.left == 2
    gc.unfreeze()
    gc.collect()
    assert Knot.left == 0


async def test_a_process_that_has_not_settled_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "collect", lambda: pytest.fail("it would look at everything"))
    garbage.collect_soon()
    await asyncio.sleep(0)
    assert garbage._due is None
