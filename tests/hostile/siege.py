"""`Siege`: attacks on a server, one after the other, and what each of them did to it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from aiortc.exceptions import InvalidStateError

from . import agents
from .clients import Closed
from .kinds import Attack, Attacker, Tally, attacks
from .player import Player
from .server import Target, favour, running

HELD_MS = 50.0
"""For longer than that no callback may hold the loop."""
CONCEALED_PERCENT = 0.5
"""Of the second call's sound, at most."""
PEAK_MB = 160.0
"""What one kind of input, with all its connections, may take of memory while it goes on."""
LEFT_MB = 48.0
"""What a whole run may leave, of caches that fill once and of memory that the allocator keeps."""
LEFT_DESCRIPTORS = 24
"""Each thread that answers pages of Django's has a connection to the database, three descriptors, once it did so."""

_ATTACK_SECONDS = 60.0
_REPEATS = 3
_KNOWN = 2
"""An attack that was confirmed so often is not repeated any more."""
_ENOUGH_FRAMES = 1500
_GONE_SECONDS = 10.0


@dataclass
class Hold:
    """That the loop was held for too long, and by what."""

    attack: str
    seed: str
    held_ms: float
    cpu_ms: float
    collecting_ms: float
    where: str
    again: list[float] = field(default_factory=list)
    """How long each repetition held it."""

    @property
    def repetitions(self) -> str:
        return ", ".join(f"{each:,.0f}" for each in self.again)

    @property
    def confirmed(self) -> bool:
        """Whether it is no accident: it happened again, or it computed for twice as long as anything may.

        What happens now and then, garbage collection for one, does not happen again with the same input.
        """
        return sum(each > HELD_MS for each in self.again) >= 2 or self.cpu_ms > 2 * HELD_MS


@dataclass
class Row:
    """What one kind of input did."""

    kind: str
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    held_ms: float = 0.0
    cpu_ms: float = 0.0
    elsewhere_ms: float = 0.0
    late_p99_ms: float = 0.0
    collection_ms: float = 0.0
    peak_mb: float = 0.0
    left_mb: float = 0.0
    descriptors: int = 0
    expected: int = 0
    concealed: int = 0
    unheard: Counter[str] = field(default_factory=Counter)
    """Frames that were concealed during each attack."""

    @property
    def concealed_percent(self) -> float:
        return 100 * self.concealed / self.expected if self.expected else 0.0


class Siege:
    def __init__(self, target: Target, player: Player, *, seed: int = 1, tell: Callable[[str], None] = print) -> None:
        self.target = target
        self.player = player
        self.seed = seed
        self.rows: dict[str, Row] = {}
        self.holds: list[Hold] = []
        self.failures: list[str] = []
        self.before = (0.0, 0)
        self.after = (0.0, 0)
        self.memory: list[float] = []
        """MB after each round."""
        self._tell = tell
        self._numbers: dict[str, itertools.count[int]] = {}

    async def begin(self) -> None:
        """Note what the server takes, and forget what it did until now."""
        await asyncio.sleep(1)
        await self.target.watch.ask("settle")
        self.before = (self.target.memory_mb(), self.target.descriptors())
        await self.player.window()
        await self.target.watch.ask()

    async def end(self) -> None:
        """Note what is left, once everybody has gone."""
        await self._until_gone(self.before[1])
        await self.target.watch.ask("settle")
        await asyncio.sleep(1)
        self.after = (self.target.memory_mb(), self.target.descriptors())

    async def attack(self, kind: str, seconds: float, *, most: int | None = None) -> Row:
        """Attack by one kind of input, for some seconds, or each attack of it once if ``most`` says so."""
        row = self.rows.setdefault(kind, Row(kind))
        started = time.monotonic()
        memory, descriptors = self.target.memory_mb(), self.target.descriptors()
        self.target.forget_peak()
        attacker = Attacker(self.target, row.tally)
        number = self._numbers.setdefault(kind, itertools.count())
        order: list[Attack] = []
        done = 0
        await self.player.window()
        try:
            while time.monotonic() - started < seconds and (most is None or done < most):
                seed = f"{self.seed}:{kind}:{next(number)}"
                if not order:
                    order = attacks(kind)
                    Random(seed).shuffle(order)
                await self._once(row, attacker, order.pop(), seed)
                done += 1
        finally:
            await attacker.close()
        await self.target.tidy()
        row.seconds += time.monotonic() - started
        row.peak_mb = max(row.peak_mb, self.target.peak_mb() - memory)
        await self._until_gone(descriptors + 2)
        row.left_mb = max(row.left_mb, self.target.memory_mb() - memory)
        row.descriptors = max(row.descriptors, self.target.descriptors() - descriptors)
        await self._watched(row, "afterwards")
        return row

    async def repeat(self, name: str, seed: str, times: int = 1) -> list[dict[str, Any]]:
        """One attack again, alone; returns what was seen each time."""
        kind, _, function = name.partition(".")
        attack = next(each for each in attacks(kind) if each.__name__ == function)
        seen = []
        for _ in range(times):
            attacker = Attacker(self.target, Tally())
            await self.window()
            try:
                await self._strike(attacker, attack, seed)
            finally:
                await attacker.close()
            await asyncio.sleep(0.3)
            seen.append({**await self.window(), "outcomes": dict(attacker.tally.outcomes)})
        return seen

    async def _once(self, row: Row, attacker: Attacker, attack: Attack, seed: str) -> None:
        name = f"{row.kind}.{attack.__name__}"
        await self._strike(attacker, attack, seed)
        window = await self._watched(row, attack.__name__)
        if window["held_ms"] <= HELD_MS:
            return
        worst = window["holds"][0]
        hold = Hold(name, seed, window["held_ms"], worst["cpu_ms"], worst["collecting_ms"], worst["where"])
        self.holds.append(hold)
        if sum(each.attack == name and each.confirmed for each in self.holds) >= _KNOWN:
            return
        await attacker.close()
        for _ in range(_REPEATS):
            [again] = await self.repeat(name, seed)
            hold.again.append(again["held_ms"])
            if again["held_ms"] > HELD_MS and again["holds"]:
                hold.where = again["holds"][0]["where"]
        await self.player.window()  # what is heard while it is repeated counts for nothing
        self._tell(f"  {name} {seed} held the loop {hold.held_ms:,.0f} ms, again {hold.again}: {hold.where}")

    async def _strike(self, attacker: Attacker, attack: Attack, seed: str) -> None:
        try:
            await self.target.reopen()
            async with asyncio.timeout(_ATTACK_SECONDS):
                await attack(attacker, Random(seed))
        except (Closed, InvalidStateError, ConnectionError, TimeoutError, OSError) as error:
            attacker.tally.came(f"gave up: {type(error).__name__}")
        except Exception as error:
            # A fault of the harness, which is told of at the end, and must not end a long run.
            self.failures.append(f"{attack.__name__} {seed} itself failed: {error!r}")
        if not self.target.process.alive:
            raise RuntimeError(f"The server died during {attack.__name__} {seed}:\n{self.target.process.tail()}")

    async def window(self) -> dict[str, Any]:
        """What was seen since the last time, once nothing holds the loop any more."""
        window = await self.target.watch.ask()
        while window["running_ms"] > HELD_MS:
            await asyncio.sleep(0.1)
            more = await self.target.watch.ask()
            holds = sorted([*window["holds"], *more["holds"]], key=lambda hold: -hold["held_ms"])
            most = {name: max(window[name], more[name]) for name in window if name.endswith("_ms")}
            window = {**most, "running_ms": more["running_ms"], "holds": holds}
        return window

    async def _watched(self, row: Row, attack: str) -> dict[str, Any]:
        window = await self.window()
        row.held_ms = max(row.held_ms, window["held_ms"])
        row.cpu_ms = max([row.cpu_ms, *(hold["cpu_ms"] for hold in window["holds"])])
        row.elsewhere_ms = max(row.elsewhere_ms, window["elsewhere_ms"])
        row.late_p99_ms = max(row.late_p99_ms, window["late_p99_ms"])
        row.collection_ms = max(row.collection_ms, window["collection_ms"])
        heard = await self.player.window()
        if heard["closed"]:
            raise RuntimeError(f"The second call was cut off during {row.kind}.{attack}: {heard['closed']}")
        row.expected += heard["expected"]
        row.concealed += heard["concealed"]
        row.unheard[attack] += heard["concealed"]
        return window

    async def _until_gone(self, descriptors: int) -> None:
        deadline = time.monotonic() + _GONE_SECONDS
        while self.target.descriptors() > descriptors and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.2)

    # Judging

    def broken(self, *, concealed_percent: float = CONCEALED_PERCENT) -> list[str]:
        """Return a sentence for each bound that was not kept."""
        found = [
            f"{hold.attack} held the loop {hold.held_ms:,.0f} ms, and {hold.repetitions} ms when repeated, "
            f"in {hold.where}; again: python -m tests.hostile --again {hold.attack} --seed {hold.seed}"
            for hold in self.holds
            if hold.confirmed
        ]
        found += self.failures
        for row in self.rows.values():
            if row.expected >= _ENOUGH_FRAMES and row.concealed_percent > concealed_percent:
                found.append(
                    f"During {row.kind}, {row.concealed_percent:.2f} % of the second call's sound was concealed "
                    f"(at most {concealed_percent} %), most of it during {row.unheard.most_common(1)[0][0]}"
                )
            if row.peak_mb > PEAK_MB:
                found.append(f"{row.kind} took {row.peak_mb:.0f} MB of memory (at most {PEAK_MB:.0f} MB)")
        expected = sum(row.expected for row in self.rows.values())
        concealed = 100 * sum(row.concealed for row in self.rows.values()) / max(1, expected)
        if concealed > concealed_percent:
            found.append(
                f"In all, {concealed:.2f} % of the second call's sound was concealed (at most {concealed_percent} %)"
            )
        if not expected:
            found.append("Nothing of the second call was heard")
        memory, descriptors = self.after[0] - self.before[0], self.after[1] - self.before[1]
        if memory > LEFT_MB:
            found.append(f"{memory:.0f} MB of memory were left taken (at most {LEFT_MB:.0f} MB)")
        if descriptors > LEFT_DESCRIPTORS:
            found.append(f"{descriptors} file descriptors were left open (at most {LEFT_DESCRIPTORS})")
        return found


@asynccontextmanager
async def siege(
    folder: Path,
    *,
    server: str = "daphne",
    seed: int = 1,
    limits: bool = False,
    tell: Callable[[str], None] = print,
) -> AsyncIterator[Siege]:
    """A server with its second call playing."""
    async with running(folder, server, limits=limits) as target:
        player = Player(target.port, target.MUSIC_CALL, target.player_token, agents.HERTZ)
        favour(player.pid)
        try:
            await player.hear()
            await target.watch.ask()
            yield Siege(target, player, seed=seed, tell=tell)
        finally:
            player.close()


async def run(one: Siege, kinds: Iterable[str], seconds: float) -> None:
    """Warm up, then attack by each kind in turn, round after round."""
    kinds = list(kinds)
    rounds = max(1, round(seconds / (20.0 * len(kinds))))
    for kind in kinds:  # what is loaded or made once is no leak
        await one.attack(kind, 3.0)
    await one.begin()
    for _ in range(rounds):
        for kind in kinds:
            await one.attack(kind, seconds / rounds / len(kinds))
        one.memory.append(one.target.memory_mb())
    await one.end()
