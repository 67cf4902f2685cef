"""``python -m tests.capacity``: what one database and one Redis can take, for docs/how-to/size-a-cluster.md.

Each kind of work is done by several processes at once, as the workers do it, for some seconds. What counts for sizing
is the CPU that the server spent on one of them, and the log that it wrote: the rate depends on how many cores are left
to the clients, which here share the machine with the server. So nothing else may use that server meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.database import Database, database
from tests.benchmarks.processes import ROOT, die_with_parent, environment

from .server import DatabaseServer, RedisServer, Spent
from .work import KINDS, MESSAGES


def main(args: list[str] | None = None) -> int:
    options = _parser().parse_args(args)
    console = Console()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows: list[tuple[str, ...]] = []
        if options.database_url:
            base = stack.enter_context(database(options.database_url, folder))
            server = stack.enter_context(DatabaseServer.of(base.url))
            wanted = [kind for kind in KINDS if not options.only or kind in options.only]
            for kind in wanted:
                console.print(f"[dim]{kind}", highlight=False)
                rows.append(_database_row(kind, base, server, options))
            _show(console, f"{base.label}, {options.processes} processes, {options.seconds:g} s each", rows)
        if options.redis_url and (not options.only or MESSAGES in options.only):
            _show_messages(console, options)
    return 0


def _database_row(kind: str, base: Database, server: DatabaseServer, options: argparse.Namespace) -> tuple[str, ...]:
    url = base.fresh()
    with _workers(kind, options.processes, DATABASE_URL=url) as workers:
        before = server.spent()
        counts = _run(workers, options.seconds)
        after = server.spent()
    return _row(kind, sum(counts), options.seconds, before, after)


def _row(kind: str, count: int, seconds: float, before: Spent, after: Spent) -> tuple[str, ...]:
    done = max(1, count)
    cpu = (after.cpu_seconds - before.cpu_seconds) / done
    log = (
        (after.log_bytes - before.log_bytes) / done
        if after.log_bytes is not None and before.log_bytes is not None
        else None
    )
    return (
        kind,
        f"{count / seconds:,.0f}",
        f"{cpu * 1e6:,.0f}",
        f"{1 / cpu:,.0f}" if cpu else "-",
        "-" if log is None else f"{log:,.0f}",
    )


def _show_messages(console: Console, options: argparse.Namespace) -> None:
    with (
        RedisServer(options.redis_url) as server,
        _workers(MESSAGES, options.processes, REDIS_URL=options.redis_url) as workers,
    ):
        before = server.spent()
        counts = _run(workers, options.seconds)
        after = server.spent()
    title = f"Redis {server.version}, {options.processes} processes"
    _show(console, title, [_row(MESSAGES, sum(counts), options.seconds, before, after)])


def _show(console: Console, title: str, rows: list[tuple[str, ...]]) -> None:
    table = Table(title=title)
    table.add_column("one")
    for name in ("a second here", "us of the server's CPU", "a second and core", "bytes of log"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


@contextmanager
def _workers(kind: str, number: int, **env: str) -> Iterator[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "tests.capacity.work", kind]
    children = []
    try:
        for index in range(number):
            children.append(
                subprocess.Popen(
                    [*command, str(index), str(number)],
                    cwd=ROOT,
                    env=environment(**env),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    preexec_fn=die_with_parent,
                )
            )
        for child in children:
            assert _hear(child) == "ready"
        yield children
    finally:
        for child in children:
            child.kill()
            child.communicate()


def _run(children: list[subprocess.Popen[str]], seconds: float) -> list[int]:
    for child in children:
        assert child.stdin is not None
        child.stdin.write(f"{seconds}\n")
        child.stdin.flush()
    return [int(_hear(child)) for child in children]


def _hear(child: subprocess.Popen[str]) -> Any:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise SystemExit(f"a process ended with {child.wait(10)}")
    return json.loads(line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.capacity", description=__doc__)
    parser.add_argument("--database-url", default=os.environ.get("DATABASE_URL", ""))
    parser.add_argument("--redis-url", default=os.environ.get("REDIS_URL", ""))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=[*KINDS, MESSAGES])
    return parser


if __name__ == "__main__":
    sys.exit(main())
