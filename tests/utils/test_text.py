"""What of a text from outside can be seen, and what passes for something else."""

from __future__ import annotations

import json

import pytest

from visionagents_runner.utils.text import clean_name, looks_like, one_line, visible, visible_json

HIDDEN = "\x00\x07\x08\x0b\x0c\r\x1b\x7f\x85\x9b\xad\u061c\u200b\u200e\u200f\u2028\u202a\u202e\u2060\u2066\ufeff"

TAGS = "\U000e0001\U000e0041\U000e007f"
JOINED = ["\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u2764\ufe0f\u200d\U0001f525", "\u0645\u06cc\u200c\u062e"]


@pytest.mark.parametrize("hidden", [*HIDDEN, *TAGS, "\ud800"])
def test_what_a_terminal_obeys_or_nobody_sees_is_written_out(hidden: str) -> None:
    shown = visible(f"a{hidden}b")
    assert shown.isascii()
    assert shown.startswith("a\\")
    assert shown == one_line(f"a{hidden}b")
    encoded = visible_json(json.dumps(f"a{hidden}b", ensure_ascii=False))
    assert encoded.isascii()
    assert encoded.isprintable()
    assert json.loads(encoded) == f"a{hidden}b"


@pytest.mark.parametrize("text", ["", "plain", "Zoë, 日本語, עברית", "🙂", *JOINED])
def test_every_language_and_emoji_stays_as_it_is(text: str) -> None:
    assert visible(text) == one_line(text) == clean_name(text) == text


@pytest.mark.parametrize("text", ["adm\u200din", "\u200dx", "é\u200d\u200dé", "é\u200d"])
def test_a_joiner_that_joins_nothing_is_written_out(text: str) -> None:
    assert "\u200d" not in visible(text)
    assert "\\u200d" in visible(text)


def test_lines_and_tabs_stay_unless_it_has_to_be_one_line() -> None:
    assert visible("a\n\tb") == "a\n\tb"
    assert one_line("a\n\tb") == "a\\n\\tb"
    assert len(one_line("a\r\nb\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029c").splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("  Ada \n Byron ", "Ada Byron"),
        ("A\u202ed\x1b[2Ja", "Ad[2Ja"),
        ("\u3164\u2800\u200b", ""),
        ("x" * 90, "x" * 80),
        ("x" * 79 + " yy", "x" * 79),
    ],
)
def test_a_name_is_one_line_that_can_be_seen(name: str, shown: str) -> None:
    assert clean_name(name) == shown


def test_names_are_alike_whatever_their_capitals_width_and_accents() -> None:
    assert looks_like("Demo agent", " \uff44emo-ÄGENT.")
    assert not looks_like("Demo agent", "Demo agent 2")
