"""People who come and go in every way, and what they leave: ``python -m tests.edge.soak --rounds 1000``."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from vision_agents.core import Agent

from tests.edge.browser import Browser, speak, tone
from visionagents_runner.edge import Media, Person, join_room


@dataclass(frozen=True)
class State:
    tasks: int
    threads: int
    files: int
    people: int
    peers: int

    @classmethod
    def now(cls) -> State:
        from visionagents_runner.edge.webrtc import Peer

        gc.collect()
        kinds = [type(one) for one in gc.get_objects()]
        # Those of the executor that encodes video stay, as many as there are processors at most.
        threads = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
        files = len(list(Path("/proc/self/fd").iterdir()))
        return cls(len(asyncio.all_tasks()), len(threads), files, kinds.count(Person), kinds.count(Peer))

    def no_more_than(self, other: State) -> bool:
        mine = (self.tasks, self.threads, self.files, self.people, self.peers)
        others = (other.tasks, other.threads, other.files, other.people, other.peers)
        return all(one <= two for one, two in zip(mine, others, strict=True))


async def connected(person: Person) -> None:
    async with asyncio.timeout(20):
        async for event in person:
            if isinstance(event, Media) and event.state == "connected":
                return


async def come_and_go(agent: Agent, way: int) -> None:
    """One person comes and goes; ``way`` counts through the ways to do so."""
    person = join_room("default", "c", f"p{way}")
    kind = way % 5
    if kind == 0:  # frames, in order
        link = person.open_pcm()
        for _ in range(10):
            link.receive(tone(440, 0.02).tobytes())
        await asyncio.sleep(0.02)
        link.close()
        person.leave()
        return
    if kind == 1:  # frames, never reads, never says goodbye: signalling lets it out
        link = person.open_pcm()
        link.receive(tone(440, 0.02).tobytes())
        await speak(agent, 500, 0.5)
        await asyncio.sleep(0.05)
        person.leave()
        return
    page = Browser(person)
    await page.connect()
    if kind != 4:
        await connected(person)
    if kind == 2:  # leaves in order
        person.leave()
        await page.close()
    elif kind == 3:  # the page is closed, signalling notices later
        await page.close()
        await asyncio.sleep(0.05)
        person.leave()
    else:  # gone before it was connected, or frozen: no packet any more, no goodbye
        if way % 2:
            await connected(person)
        page.vanish()
        await asyncio.sleep(0.05)
        person.leave()
        await page.close()


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def main() -> None:
    from visionagents_runner.edge import BrowserEdge, background
    from visionagents_runner.testing import stub_agent

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    agent = stub_agent(edge=BrowserEdge())
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        for way in range(rounds + 1):
            if way % 50 == 0:
                await background.idle()
                await asyncio.sleep(1)
                print(way, State.now(), f"{resident_mb():.0f} MB", flush=True)
            await come_and_go(agent, way)


if __name__ == "__main__":
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    asyncio.run(main())
