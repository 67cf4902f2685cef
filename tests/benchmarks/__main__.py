"""``python -m tests.benchmarks``: measure, print a table of ratios. Exits with 1 if a requirement is not met."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from types import FrameType, ModuleType

from rich.console import Console

from .bench import Bench
from .database import database
from .results import Result, print_table
from .rows import closing, cpu, idle, limits, memory, reading, recorder, speech, starts, startup

ROWS: dict[str, ModuleType] = {
    row.NAME: row for row in (starts, limits, closing, reading, cpu, idle, memory, startup, recorder, speech)
}


def main(args: list[str] | None = None) -> int:
    options = _parser().parse_args(args)
    signal.signal(signal.SIGTERM, _leave)
    progress = Console(stderr=True)
    began = time.monotonic()
    results: list[Result] = []
    with (
        tempfile.TemporaryDirectory(prefix="visionagents_benchmark_") as folder,
        database(options.database_url, Path(folder)) as made,
    ):
        bench = Bench(Path(folder), made, options.quick, lambda text: progress.print(f"  {text}", style="dim"))
        for name, row in ROWS.items():
            if not options.only or name in options.only:
                results += row.run(bench)
        label = made.label
    title = (
        f"visionagents-runner {version('visionagents-runner')} beside the Runner of vision-agents "
        f"{version('vision-agents')} · Python {platform.python_version()}, {os.cpu_count()} cores, {label} · "
        f"{'quick, ' if options.quick else ''}{time.monotonic() - began:.0f} s · times and CPU: lower is better, "
        "where the column does not say otherwise"
    )
    print_table(results, title)
    if options.json:
        data = {"title": title, "results": [result.as_json() for result in results]}
        Path(options.json).write_text(json.dumps(data, indent=2) + "\n")
    failed = [result for result in results if result.met is False]
    return 1 if failed and not options.quick else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=sorted(ROWS), metavar="NAME", help=f"only this row: {', '.join(ROWS)}"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds; says little, exits with 0")
    parser.add_argument("--json", metavar="FILE", help="write the values there too")
    parser.add_argument(
        "--database-url",
        default="",
        metavar="URL",
        help="postgresql://... or mysql://...; a database of its own is made there",
    )
    return parser


def _leave(number: int, frame: FrameType | None) -> None:
    # As an exception, so that servers and the database are cleaned up on the way out.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
