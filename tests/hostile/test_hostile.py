"""The short form of ``python -m tests.hostile``: the known inputs, and some of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import corpus
from .kinds import NAMES
from .siege import siege

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

_SECONDS = 1.5


@pytest.mark.parametrize("server", ["daphne"])
async def test_no_input_holds_the_loop_or_takes_memory_while_a_second_call_plays(tmp_path: Path, server: str) -> None:
    async with siege(tmp_path, server=server) as one:
        for figure in corpus.figures():
            await corpus.measure_fairly(one, figure)
            assert corpus.kept(figure), (figure.name, figure.became, figure.window)
        await one.begin()
        for kind in NAMES:
            await one.attack(kind, _SECONDS)
        await one.end()
        # Other tests share the cores with this one: of sound that is late, only what is much counts here.
        assert one.broken(concealed_percent=3.0) == []
