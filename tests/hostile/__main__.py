"""``python -m tests.hostile [--minutes 20] [--kind http,rtp] [--seed 1] [--server daphne|uvicorn] [--keep]``

Ends with 1 if a bound is broken. ``--figures`` measures the known inputs instead, ``--again KIND.ATTACK --seed SEED``
repeats one attack that the report names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from . import corpus
from .kinds import NAMES
from .report import show
from .siege import run, siege


async def main(options: argparse.Namespace, console: Console) -> int:
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    kinds = options.kind.split(",") if options.kind else list(NAMES)
    if unknown := set(kinds) - set(NAMES):
        console.print(f"There is no kind {', '.join(sorted(unknown))}: choose from {', '.join(NAMES)}")
        return 2
    seed = options.seed if options.seed.isdecimal() else "1"

    def tell(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    try:
        async with siege(folder, server=options.server, seed=int(seed), limits=options.limits, tell=tell) as one:
            if options.again:
                for seen in await one.repeat(options.again, options.seed, times=5):
                    console.print_json(json.dumps(seen))
                return 0
            if options.figures:
                return 0 if await corpus.show(one, console) else 1
            await run(one, kinds, options.minutes * 60)
            show(one, console)
            return 1 if one.broken() else 0
    finally:
        if options.keep:
            console.print(f"The server's log and database are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--kind", default="", help=f"one or more of {','.join(NAMES)}")
    parser.add_argument("--seed", default="1", help="the same seed is the same input")
    parser.add_argument("--server", choices=["daphne", "uvicorn"], default="daphne")
    parser.add_argument("--limits", action="store_true", help="leave the limits of one invitation or key in force")
    parser.add_argument("--keep", action="store_true", help="keep the server's log and database")
    parser.add_argument(
        "--figures", action="store_true", help="measure the inputs that were once found to hold the loop"
    )
    parser.add_argument("--again", default="", metavar="KIND.ATTACK", help="repeat one attack; --seed as in the report")
    return parser


if __name__ == "__main__":
    sys.exit(asyncio.run(main(_parser().parse_args(), Console(emoji=False, width=150))))
