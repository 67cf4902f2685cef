"""Processes that begin with what is slow to import: forked from one that has it, which each pytest process has once.

They are processes of their own in every other way. Importing vision-agents anew took most of the time of tests with two
workers.
"""

from __future__ import annotations

import atexit
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

_context = multiprocessing.get_context("forkserver")
# Nothing that reads settings: each process has its own.
_context.set_forkserver_preload(
    ["vision_agents.core", "aiortc", "aiohttp", "redis.asyncio", "cryptography.x509", "django.db.models", "django.http"]
)


class ForkedProcess:
    """Runs the text of a program, with pipes for what it reads and prints; the rest is as `subprocess.Popen` has it."""

    def __init__(self, program: str, env: Mapping[str, str]) -> None:
        theirs, self.stdin = _pipe_to()
        self.stdout, out = _pipe_from()
        error = Connection(os.dup(2), readable=False)
        self._process = _context.Process(target=_run, args=(program, dict(env), os.getcwd(), (theirs, out, error)))
        self._process.start()
        for each in (theirs, out, error):
            each.close()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired("a forked process", timeout)
        return code

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End it, if it has not ended, and what led to it."""
        self._process.kill()
        self._process.join()
        for pipe in (self.stdin, self.stdout):
            with suppress(BrokenPipeError):
                pipe.close()


def _pipe_to() -> tuple[Connection, io.TextIOWrapper]:
    read, write = os.pipe()
    return Connection(read, writable=False), open(write, "w", encoding="utf-8")


def _pipe_from() -> tuple[io.TextIOWrapper, Connection]:
    read, write = os.pipe()
    return open(read, encoding="utf-8"), Connection(write, readable=False)


def _run(program: str, env: dict[str, str], folder: str, descriptors: tuple[Connection, ...]) -> None:
    for number, connection in enumerate(descriptors):
        os.dup2(connection.fileno(), number)
        connection.close()
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.argv = ["-c"]
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    warnings.simplefilter("default")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    # multiprocessing's own runs these from Python 3.13 on.
    atexit._clear()
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), namespace)
    finally:
        atexit._run_exitfuncs()
