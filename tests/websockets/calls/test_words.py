"""What the people of a call are told when a session ends."""

from __future__ import annotations

import pytest

from visionagents_runner.models import EndReason
from visionagents_runner.websockets.calls.sessions import end_words


@pytest.mark.parametrize("reason", list(EndReason))
def test_every_end_has_words(reason: EndReason) -> None:
    assert end_words(reason).endswith(".")
    assert end_words(None) not in {end_words(each) for each in EndReason}
