"""The kinds of input. Each is a list of attacks: functions that send one input, or a burst of one sort."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ..clients import Answer
from ..server import Target

NAMES = ("http", "websocket", "feeds", "sdp", "rtp", "ice", "datachannel")


@dataclass
class Tally:
    """What was sent, and what became of it."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def sent(self, number: int = 1) -> None:
        self.inputs += number

    def came(self, outcome: str) -> None:
        self.outcomes[outcome] += 1

    def answered(self, answer: Answer) -> Answer:
        self.sent()
        self.came({0: "cut off", -1: "no answer"}.get(answer.status, str(answer.status)))
        return answer


class Attacker:
    """Whoever attacks: what they need for longer than one attack is kept here."""

    def __init__(self, target: Target, tally: Tally) -> None:
        self.target = target
        self.tally = tally
        self.stack = AsyncExitStack()
        self.kept: dict[str, Any] = {}

    async def close(self) -> None:
        self.kept.clear()
        await self.stack.aclose()
        self.stack = AsyncExitStack()


Attack = Callable[[Attacker, Random], Awaitable[None]]


def attacks(kind: str) -> list[Attack]:
    return list(importlib.import_module(f"{__name__}.{kind}").ATTACKS)


def pick(rng: Random, *values: Any) -> Any:
    return rng.choice(values)


def source(rng: Random) -> str:
    """An address of this machine that is not the one of everybody else."""
    return f"127.0.{rng.randrange(1, 250)}.{rng.randrange(1, 250)}"
