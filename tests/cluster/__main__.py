"""``python -m tests.cluster``: the long versions, with a table at the end. Exits with 1 if anything does not hold."""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import time
from types import FrameType

from rich.console import Console
from rich.table import Table

from . import sessions
from .databases import KINDS
from .faults import FAULTS, Fault, stage_for
from .soak import Soak
from .stage import prepared_stage

_PARTS = ("sessions", "faults", "soak")


def main(args: list[str] | None = None) -> int:
    options = _parser().parse_args(args)
    signal.signal(signal.SIGTERM, _leave)
    console = Console()
    parts = options.only or (["faults"] if options.fault else _PARTS)
    good = True
    if "sessions" in parts:
        good &= _sessions(options, console)
    if "faults" in parts:
        good &= _faults(options, console)
    if "soak" in parts:
        good &= _soak(options, console)
    return 0 if good else 1


def _sessions(options: argparse.Namespace, console: Console) -> bool:
    good = True
    for kind in options.database or ("postgresql",):
        for with_redis in (True, False) if options.redis is None else (options.redis == "with",):
            title = (
                f"{options.workers} workers, {options.sessions} sessions, {kind}, {'' if with_redis else 'no '}Redis"
            )
            console.print(f"[dim]{title}", highlight=False)
            table = Table("", "", title=title)
            holds, seen, limit = asyncio.run(_run_sessions(kind, options, with_redis=with_redis))
            for name, value in seen.values.items():
                table.add_row(name, value)
            if seen.teardown_ms:
                # What the close is for. The feed tells of it later: it waits a round (20 ms), or a poll, on purpose.
                met = statistics.median(seen.teardown_ms) < limit
                table.add_row(f"p50 until the agent closed under {limit:g} ms", "yes" if met else "NO")
                good &= met
            good &= holds
            console.print(table)
    return good


async def _run_sessions(
    kind: str, options: argparse.Namespace, *, with_redis: bool
) -> tuple[bool, sessions.Seen, float]:
    limits = sessions.options_for(options.sessions, options.workers)
    seen = sessions.Seen()
    try:
        async with prepared_stage(
            kind, workers=options.workers, own_server=False, with_redis=with_redis, **limits
        ) as stage:
            limit = sessions.CLOSE_MS if with_redis else stage.fleet.poll * 1000
            seen = await sessions.run(stage, options.sessions)
            seen.note("in the end", await stage.finished())
    except (AssertionError, TimeoutError) as error:
        seen.note("PROBLEM", repr(error))
        return False, seen, 0.0
    return True, seen, limit


def _faults(options: argparse.Namespace, console: Console) -> bool:
    table = Table("fault", "database", "seconds", "holds", "seen", title="Faults")
    good = True
    for name in options.fault or FAULTS:
        fault = FAULTS[name]
        for kind in options.database or fault.databases:
            if kind in fault.databases:
                console.print(f"[dim]{name} on {kind}: {fault.text}", highlight=False)
                began = time.monotonic()
                holds, seen = asyncio.run(_try(fault, kind, options.quick))
                good &= holds
                colour = "green" if holds else "red"
                console.print(f"  [{colour}]{seen}", highlight=False)
                table.add_row(name, kind, f"{time.monotonic() - began:.0f}", "yes" if holds else "NO", seen)
    console.print(table)
    return good


def _soak(options: argparse.Namespace, console: Console) -> bool:
    good = True
    for kind in options.database or ("postgresql",):
        console.print(f"[dim]soak of {options.minutes:g} minutes on {kind}", highlight=False)
        holds, said, soak = asyncio.run(_run_soak(kind, options.minutes))
        if soak is not None:
            console.print(soak.samples.table())
            console.print(f"  done: {dict(soak.done.most_common())}", highlight=False)
        console.print(f"  [{'green' if holds else 'red'}]{said}", highlight=False)
        good &= holds
    return good


async def _run_soak(kind: str, minutes: float) -> tuple[bool, str, Soak | None]:
    soak = None
    try:
        async with prepared_stage(kind, limits={"call": sessions.PER_CALL}) as stage:
            soak = Soak(stage, minutes)
            problem = ""
            try:
                await soak.run()
            except AssertionError as error:
                problem = f"; {error}"
            said = f"{await stage.finished()}{problem}"
    except (AssertionError, TimeoutError) as error:
        return False, repr(error), soak
    return not problem, said, soak


async def _try(fault: Fault, kind: str, quick: bool) -> tuple[bool, str]:
    seen: list[str] = []
    try:
        async with stage_for(fault, kind, long=not quick, tell=seen.append) as stage:
            await fault.run(stage)
            verdict = await stage.finished()
            seen.append(str(verdict))
    except (AssertionError, TimeoutError) as error:
        return False, "; ".join([*seen, str(error) or repr(error)])
    return True, "; ".join(seen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--only", action="append", choices=_PARTS, help="only this part")
    parser.add_argument("--quick", action="store_true", help="the short versions, as CI runs them")
    parser.add_argument("--fault", action="append", choices=sorted(FAULTS), metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--database", action="append", choices=KINDS)
    parser.add_argument("--minutes", type=float, default=30.0, help="of the soak (default: %(default)g)")
    parser.add_argument("--workers", type=int, default=4, help="of the part `sessions` (default: %(default)s)")
    parser.add_argument("--redis", choices=("with", "without"), help="of that part: only so")
    parser.add_argument("--sessions", type=int, default=400, help="of that part, too (default: %(default)s)")
    return parser


def _leave(number: int, frame: FrameType | None) -> None:
    # As an exception, so that everything is ended and dropped on the way out.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
