"""What a process writes to its terminal besides the chat is taken line by line, whoever writes it, and given back."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tests.processes import at_a_terminal
from visionagents_runner.cli.console.capture import TerminalCapture

pytestmark = pytest.mark.slow

PROGRAM = """
import faulthandler, logging, os, subprocess, sys, threading, warnings
from visionagents_runner.cli.console.capture import TerminalCapture

logging.basicConfig(format="%(message)s")
capture = TerminalCapture()
terminal = capture.terminal

def show(text):
    terminal.write("".join(f"<{line}>\\n" for line in text.splitlines()))
    terminal.flush()

capture.start(show)
terminal.write("prompt\\n")
terminal.flush()
BODY
capture.stop()
print("after")
"""


def captured(body: str) -> list[str]:
    """Run a program that captures its terminal meanwhile; return the lines that the terminal was given."""
    code, lines = at_a_terminal([sys.executable, "-c", PROGRAM.replace("BODY", textwrap.dedent(body))])
    assert code == 0, lines
    return lines


@pytest.mark.parametrize(
    "writes",
    [
        'logging.warning("something")',
        'print("something")',
        'warnings.showwarning = lambda *args: print("something", file=sys.stderr)\nwarnings.warn("x")',
        'os.write(2, b"something\\n")',
        'subprocess.run(["sh", "-c", "echo something"])',
        'thread = threading.Thread(target=print, args=("something",))\nthread.start()\nthread.join()',
    ],
)
def test_whoever_writes_is_taken_and_the_terminal_is_given_back(writes: str) -> None:
    assert captured(writes) == ["prompt", "<something>", "after"]


def test_a_line_without_an_end_is_shown_all_the_same() -> None:
    assert captured('print("a question? ", end="", flush=True)') == ["prompt", "<a question? >", "after"]


def test_a_child_that_lives_on_holds_nothing_up() -> None:
    lines = captured("""
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        print("started")
        capture.stop()
        child.stdin.close()
        child.wait()
    """)
    assert lines == ["prompt", "<started>", "after"]


def test_a_crash_is_told_on_the_terminal_itself() -> None:
    lines = captured("""
        faulthandler.enable()
        capture.stop()
        again = TerminalCapture()
        again.start(lambda text: None)
        pid = os.fork()
        if pid == 0:
            os.abort()
        os.waitpid(pid, 0)
        again.stop()
    """)
    assert any("Fatal Python error: Aborted" in line for line in lines)


def test_output_that_is_no_terminal_is_left_alone() -> None:
    program = PROGRAM.replace("BODY", "print('something')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["prompt", "something", "after"]


def test_stopping_without_having_started_does_nothing() -> None:
    capture = TerminalCapture()
    capture.stop()
    assert capture.terminal is sys.stdout
