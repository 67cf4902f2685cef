"""The live feeds: hellos, acks, many viewers of much."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from random import Random

from ..clients import Closed, Wire
from . import Attacker, junk, source


def _path(attacker: Attacker, rng: Random) -> str:
    target = attacker.target
    return str(
        rng.choice(
            (
                "/ws/sessions/",
                f"/ws/sessions/{target.attentive}/",
                f"/ws/sessions/{target.long}/",
                "/ws/sessions/00000000-0000-0000-0000-000000000000/",
            )
        )
    )


def _headers(attacker: Attacker, rng: Random) -> dict[str, str]:
    target = attacker.target
    own = f"http://127.0.0.1:{target.port}"
    return dict(
        rng.choice(
            (
                {"Authorization": f"Bearer {target.key}"},
                {"Authorization": f"Bearer {target.key}"},
                {"Cookie": f"sessionid={target.nobody}", "Origin": own},
                {},
                {"Authorization": "Bearer x"},
            )
        )
    )


async def hellos(attacker: Attacker, rng: Random) -> None:
    for _ in range(5):
        attacker.tally.sent()
        path = _path(attacker, rng)
        try:
            async with Wire.open(
                attacker.target.port, path, headers=_headers(attacker, rng), source=source(rng)
            ) as wire:
                hello = {
                    "type": "hello",
                    "v": 1,
                    "after": rng.choice((0, 0, 900, 2**52, -1)),
                    "limit": rng.choice((1, 100, 10**9)),
                }
                await wire.text(junk.dump(junk.mutated(rng, hello) if rng.random() < 0.5 else hello))
                code = await wire.end(0.5)
                attacker.tally.came(f"closed {code}" if code else "followed")
        except Closed as closed:
            attacker.tally.came(f"closed {closed.code}")
        except TimeoutError:
            attacker.tally.came("no answer")


async def messages(attacker: Attacker, rng: Random) -> None:
    with suppress(TimeoutError):
        try:
            key = {"Authorization": f"Bearer {attacker.target.key}"}
            async with Wire.open(attacker.target.port, _path(attacker, rng), headers=key, source=source(rng)) as wire:
                await wire.send("hello", v=1)
                for _ in range(30):
                    attacker.tally.sent()
                    kind = rng.randrange(4)
                    if kind == 0:
                        await wire.text(junk.dump({"type": "ack", "n": rng.choice(junk.NUMBERS)}))
                    elif kind == 1:
                        await wire.text(junk.dump({"type": "pong", "t": junk.value(rng)})[:60_000])
                    elif kind == 2:
                        await wire.text(f'{{"type":"x","x":{rng.choice(junk.BODIES)(60_000).decode()}}}')
                    else:
                        await wire.frame(2, bytes(rng.choice((0, 1920, 70_000))))
                attacker.tally.came(f"closed {await wire.end(0.5)}")
        except Closed as closed:
            attacker.tally.came(f"closed {closed.code}")


async def many_viewers(attacker: Attacker, rng: Random) -> None:
    """Who read nothing, or all, of a long history or of the list."""
    reads = rng.random() < 0.5
    path = rng.choice(
        ("/ws/sessions/", f"/ws/sessions/{attacker.target.long}/", f"/ws/sessions/{attacker.target.attentive}/")
    )
    headers = {"Authorization": f"Bearer {attacker.target.key}"}
    number = rng.choice((5, 25))
    async with AsyncExitStack() as stack:

        async def view() -> None:
            attacker.tally.sent()
            try:
                wire = await stack.enter_async_context(
                    Wire.open(attacker.target.port, path, headers=headers, source=source(rng))
                )
                await wire.send("hello", v=1, after=0)
                if reads:
                    code = await wire.end(1.5)
                    attacker.tally.came(f"closed {code}" if code else "followed")
                else:
                    attacker.tally.came("reads nothing")
            except Closed as closed:
                attacker.tally.came(f"closed {closed.code}")
            except TimeoutError:
                attacker.tally.came("no answer")

        await asyncio.gather(*(view() for _ in range(number)))
        await asyncio.sleep(0 if reads else 1.0)


async def news_for_many(attacker: Attacker, rng: Random) -> None:
    """Long words on a session that many follow."""
    path = f"/ws/sessions/{attacker.target.attentive}/"
    headers = {"Authorization": f"Bearer {attacker.target.key}"}
    async with AsyncExitStack() as stack:
        with suppress(Closed, TimeoutError):
            wires = [
                await stack.enter_async_context(
                    Wire.open(attacker.target.port, path, headers=headers, source=source(rng))
                )
                for _ in range(10)
            ]
            for wire in wires:
                await wire.send("hello", v=1, after=0)
            for _ in range(4):
                text = rng.choice((" a" * 2000, "\u0130" * 4000, "x" * 4000))
                attacker.tally.answered(
                    await attacker.target.ask("POST", f"/sessions/{attacker.target.attentive}/respond", {"text": text})
                )
            for code in await asyncio.gather(*(wire.end(1.0) for wire in wires)):
                attacker.tally.came(f"closed {code}" if code else "followed")


ATTACKS = (hellos, hellos, messages, many_viewers, news_for_many)
