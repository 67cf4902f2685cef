"""Other processes on the test database, for tests that need more than one, or one to kill."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from django.db import connections

from tests.forks import ForkedProcess

ROOT = Path(__file__).resolve().parent.parent

_PRELUDE = """
import asyncio, json, sys
import django
django.setup()
from tests.agents import *
from visionagents_runner import *

def say(what):
    print(json.dumps(what), flush=True)

def wait():
    sys.stdin.readline()

def go():
    say("ready")
    wait()

async def main():
{body}

asyncio.run(main())
"""


def environment(**more: str) -> dict[str, str]:
    """Return the environment in which another process uses the test database."""
    database = connections["default"].settings_dict
    # A class is no JSON; the file is made already, with the mode that it is there for.
    options = {name: value for name, value in database["OPTIONS"].items() if name != "factory"}
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.child_settings",
        "TEST_DATABASE": json.dumps({**database, "OPTIONS": options}, default=str),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "default",
        **more,
    }


def at_a_terminal(command: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[int, list[str]]:
    """Run a command at a terminal of its own; return its exit code and the lines that the terminal was given."""
    master, slave = os.openpty()
    try:
        with subprocess.Popen(command, cwd=ROOT, env=env, stdin=slave, stdout=slave, stderr=slave) as process:
            os.close(slave)
            written = b"".join(iter(partial(_read_terminal, master), b""))
            code = process.wait(60)
    finally:
        os.close(master)
    return code, written.decode().splitlines()


def _read_terminal(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # what Linux says when the last program has closed it; elsewhere nothing is read
        return b""


class Child:
    """A program in another process that says JSON lines and is told to go on by lines."""

    def __init__(self, program: str, **more: str) -> None:
        body = textwrap.indent(textwrap.dedent(program), "    ")
        self.process = ForkedProcess(_PRELUDE.format(body=body), environment(TEST_WITHOUT_DAPHNE="1", **more))

    def hear(self) -> Any:
        line = self.process.stdout.readline()
        assert line, f"the process ended with {self.process.wait(30)}"
        return json.loads(line)

    def tell(self, line: str = "") -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> int:
        try:
            return self.process.wait(30)
        finally:
            self.process.close()


@contextmanager
def child(program: str, **more: str) -> Iterator[Child]:
    process = Child(program, **more)
    try:
        yield process
    finally:
        process.process.close()


def freeze(process: ForkedProcess) -> None:
    """Send SIGSTOP, and not in the middle of a transaction: on SQLite that would lock everybody else out, too."""
    while True:
        process.send_signal(signal.SIGSTOP)
        while not _is_stopped(process.pid):
            time.sleep(0.001)
        if _can_write():
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)


def _is_stopped(pid: int) -> bool:
    """Only its parent, which is not this process, could wait for that."""
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "T"


def _can_write() -> bool:
    settings = connections["default"].settings_dict
    if not settings["ENGINE"].endswith("sqlite3"):
        return True
    with closing(sqlite3.connect(settings["NAME"], timeout=0.2, isolation_level=None, uri=True)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
    return True


def run_side_by_side(program: str, *, processes: int, **more: str) -> list[str]:
    """Run ``program`` in several processes that pass ``go()`` together and end together; returns what each said."""
    children = [Child(program, **more) for _ in range(processes)]
    try:
        for each in children:
            assert each.hear() == "ready"
        for each in children:
            each.tell()
        said = [str(each.hear()) for each in children]
        for each in children:
            each.tell()
        for each in children:
            assert each.end() == 0
        return said
    finally:
        for each in children:
            each.process.close()
