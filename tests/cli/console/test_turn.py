"""When a reply is complete."""

from __future__ import annotations

import pytest

from visionagents_runner.cli.console.turn import Turn
from visionagents_runner.edge import Words


def words(text, *, completed, message_id="m"):
    return Words(message_id=message_id, role="assistant", user_id="a", text=text, delta=text, completed=completed)


def test_a_greeting_in_between_is_not_the_reply():
    turn = Turn()
    turn.on_words(words("Hello!", completed=True, message_id="greeting"))
    assert not turn.done.is_set()
    assert turn.figures() is None
    turn.on_words(words("It is", completed=False))
    turn.on_words(words("It is noon", completed=True))
    assert turn.done.is_set()
    assert turn.figures() is not None


@pytest.mark.parametrize("order", ["words first", "event first"])
def test_a_reply_without_partial_words_is_known_by_the_models_event(order):
    turn = Turn()
    steps = [lambda: turn.on_words(words("It is noon", completed=True)), lambda: turn.on_final("It is **noon** ")]
    first, second = steps if order == "words first" else reversed(steps)
    first()
    assert not turn.done.is_set()
    second()
    assert turn.done.is_set()


def test_a_realtime_models_first_words_are_the_reply():
    turn = Turn(realtime=True)
    turn.on_words(words("Noon", completed=True))
    assert turn.done.is_set()


def test_an_empty_reply_is_an_error():
    turn = Turn()
    turn.on_final("")
    turn.on_words(words("", completed=True))
    assert "empty answer" in turn.error
    assert turn.figures() is None


def test_an_interrupted_turn_has_no_figures():
    turn = Turn()
    turn.on_words(words("It", completed=False))
    turn.interrupt()
    turn.fail("too late")
    assert turn.done.is_set()
    assert turn.error == ""
    assert turn.figures() is None


def test_the_voice_is_measured_by_its_first_sentence():
    turn = Turn()
    turn.on_words(words("It", completed=False))
    turn.on_voice(120.0)
    turn.on_voice(80.0)
    turn.on_words(words("It is", completed=True))
    figures = turn.figures()
    assert figures is not None
    assert figures.voice == 120.0
    assert figures.total == figures.model + 120.0
