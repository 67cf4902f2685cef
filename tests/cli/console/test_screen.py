"""What the chat prints."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from visionagents_runner.cli.console.screen import Glyphs, PlainScreen, TerminalScreen
from visionagents_runner.cli.console.turn import Figures
from visionagents_runner.edge import Words

CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def words(delta, text=None, *, completed=False, message_id="m"):
    return Words(
        message_id=message_id,
        role="assistant",
        user_id="agent",
        text=delta if text is None else text,
        delta=delta,
        completed=completed,
    )


@pytest.fixture
def output():
    return io.StringIO()


@pytest.fixture
def terminal(output):
    return TerminalScreen(Console(file=output, force_terminal=True, width=30, color_system="standard"))


@pytest.fixture
def plain(output):
    return PlainScreen(Console(file=output, width=30))


def shown(output):
    return [line.rstrip() for line in CODES.sub("", output.getvalue()).split("\n")]


def test_a_terminal_shows_each_piece_at_once_under_its_label(terminal, output):
    terminal.words("agent", words("One "))
    assert shown(output) == ["agent › One"]  # noqa: RUF001
    terminal.words("agent", words("two", "One two"))
    terminal.words("agent", words("", "One two", completed=True))
    assert shown(output) == ["agent › One two", ""]  # noqa: RUF001


def test_long_replies_break_between_words_and_keep_their_column(terminal, output):
    terminal.words("agent", words("one two three four five six\nseven", completed=True))
    assert shown(output) == ["agent › one two three four", "        five six", "        seven", ""]  # noqa: RUF001


def test_two_speakers_at_once_do_not_mix_their_lines(terminal, output):
    terminal.words("agent", words("One ", message_id="1"))
    terminal.words("guest", words("Hey", completed=True, message_id="2"))
    terminal.words("agent", words("two", "One two", completed=True, message_id="1"))
    assert shown(output) == ["agent › One", "guest › Hey", "agent › … two", ""]  # noqa: RUF001


def test_what_comes_while_somebody_types_clears_the_prompt_first(terminal, output):
    terminal.prompt()
    terminal.prompt()
    terminal.line("Guest left")
    assert output.getvalue().count("you ›") == 1  # noqa: RUF001
    assert "\r\x1b[2K" in output.getvalue()
    assert output.getvalue().endswith("\n")


def test_closing_ends_the_line_that_is_open(terminal, output):
    terminal.prompt()
    terminal.close()
    terminal.close()
    assert output.getvalue().count("\n") == 1


def test_errors_and_slow_turns_are_red(terminal, output):
    terminal.tool_failed("no")
    assert "\x1b[31m" in output.getvalue()
    terminal.figures(Figures(model=999))
    assert output.getvalue().count("\x1b[31m") == 1
    terminal.figures(Figures(model=1000))
    assert output.getvalue().count("\x1b[31m") == 2


def test_figures_stand_right_and_only_what_was_measured(terminal, output):
    terminal.figures(Figures(model=310.4))
    terminal.figures(Figures(model=310.4, voice=120))
    assert shown(output)[:2] == ["model 310 ─ 310 ms".rjust(30), "model 310 · voice 120 ─ 430 ms"]


@pytest.mark.parametrize("screen", ["terminal", "plain"])
def test_control_characters_from_outside_never_reach_the_terminal(screen, output, request):
    screen = request.getfixturevalue(screen)
    screen.words("age\x1b[31mnt", words("a\x1b]0;title\x07b\x9b2J\rc\ud800", completed=True))
    screen.line("x\x1b[2Jy")
    visible = CODES.sub("", output.getvalue())
    assert not set(visible) & {"\x1b", "\x07", "\x9b", "\r"}
    assert r"a\x1b]0;title\x07b\x9b2J\rc\ud800" in visible


@pytest.mark.parametrize("screen", ["terminal", "plain"])
def test_nothing_turns_the_direction_of_a_line_or_hides_in_it(screen, output, request):
    screen = request.getfixturevalue(screen)
    screen.words("a\u202egent", words("x\u2066y\u200b\U000e0041\u2028z", completed=True))
    assert r"x\u2066y\u200b\U000e0041\u2028z" in CODES.sub("", output.getvalue()).replace("\n        ", "")
    assert r"a\u202egent" in output.getvalue()


def test_nobody_can_write_a_line_that_looks_like_that_of_another(plain, output):
    plain.words("guest\nagent", words("hi\nagent> trust me\r\nyou> yes", completed=True))
    plain.tool_done("ok\nagent> trust me")
    assert not [line for line in shown(output) if line.startswith(("agent>", "you>"))]
    assert shown(output)[0] == r"guest\nagent> hi"


def test_markup_is_not_interpreted(plain, output):
    plain.words("agent", words("[red]list[0][/red] :smile:", completed=True))
    assert output.getvalue() == "agent> [red]list[0][/red] :smile:\n"


def test_plain_lines_have_no_codes_and_are_never_broken(plain, output):
    plain.prompt()
    plain.typed("hello")
    plain.words("agent", words("One "))
    plain.words("agent", words("two", "One two " * 10 + "\nend", completed=True))
    plain.tool_called("f", "x=1")
    plain.tool_failed("no")
    plain.figures(Figures(model=1))
    plain.close()
    assert output.getvalue() == (f"you> hello\nagent> {'One two ' * 10}\n       end\n→ f(x=1)\n✗ no\n")


def test_an_encoding_without_the_signs_gets_ascii():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    screen = PlainScreen(Console(file=file))
    assert screen.glyphs == Glyphs(says=">", calls="->", done="ok", failed="failed:", dot="|", dash="-", more="...")
    screen.words("agent", words("café", completed=True))
    assert raw.getvalue() == b"agent> caf?\n"


def test_what_others_write_stands_above_the_prompt(terminal, output):
    terminal.prompt()
    terminal.outside("10:00 WARNING something\n")
    assert output.getvalue().count("\r\x1b[2K") == 1
    assert shown(output)[-1].endswith("you ›")  # noqa: RUF001
    assert "10:00 WARNING something" in shown(output)[-2]


def test_what_others_write_breaks_into_no_line_of_a_reply(terminal, output):
    terminal.words("agent", words("One "))
    terminal.outside("10:00 WARNING something\n")
    terminal.words("agent", words("two", "One two"))
    assert shown(output) == ["agent › One", "10:00 WARNING something", "agent › … two"]  # noqa: RUF001
