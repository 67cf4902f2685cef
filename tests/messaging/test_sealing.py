"""What travels over the channel layer counts only if a process of this project sent it, there, and once."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import until
from visionagents_runner.messaging import sealing
from visionagents_runner.messaging.layer import Link
from visionagents_runner.messaging.sealing import Sealer, Unreadable, Unsealer, seal

HELLO = {"type": "test.hello", "n": 1, "frames": b"\0\1", "lanes": [["a", 0, ["text"], b"x"]], "none": None}


class Layer:
    """A channel layer whose server somebody else can read and write."""

    def __init__(self, *, takes_bytes: bool = True) -> None:
        self.takes_bytes = takes_bytes
        self.groups: set[str] = set()
        self.seen: list[dict[str, Any]] = []
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def new_channel(self, prefix: str) -> str:
        return f"{prefix}!mine"

    async def group_add(self, group: str, channel: str) -> None:
        self.groups.add(group)

    async def group_discard(self, group: str, channel: str) -> None:
        self.groups.discard(group)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if not self.takes_bytes:
            message = json.loads(json.dumps(message))
        self.seen.append(message)
        self.inbox.put_nowait(message)

    async def receive(self, channel: str) -> dict[str, Any]:
        return await self.inbox.get()


class Room:
    """Somebody who listens to two groups."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.link = Link(layer)
        self.heard: list[dict[str, Any]] = []
        self.undo = [self.link.join(group, self.heard.append) for group in ("here", "there")]

    async def until_heard(self, count: int) -> None:
        await until(lambda: len(self.heard) >= count)

    async def last(self) -> None:
        """Wait until all that was sent before has been looked at."""
        before = len(self.heard)
        self.link.send("here", {"type": "test.last"})
        await until(lambda: len(self.heard) > before and self.heard[-1]["type"] == "test.last")
        del self.heard[-1]


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    room = Room(Layer())
    await until(lambda: room.layer.groups == {"here", "there"})
    yield room
    for undo in room.undo:
        undo()


async def test_who_reads_along_reads_nothing(room: Room) -> None:
    room.link.send("here", {"type": "feed.partial", "text": "my secret words"})
    await room.until_heard(1)
    assert room.heard == [{"type": "feed.partial", "text": "my secret words"}]
    assert b"secret" not in repr(room.layer.seen).encode()
    assert b"partial" not in repr(room.layer.seen).encode()


@pytest.mark.parametrize("takes_bytes", [True, False])
async def test_a_message_arrives_as_it_was_also_over_a_layer_that_writes_json(takes_bytes: bool) -> None:
    room = Room(Layer(takes_bytes=takes_bytes))
    await until(lambda: room.layer.groups == {"here", "there"})
    room.link.send("here", HELLO)
    await room.until_heard(1)
    assert room.heard == [HELLO]
    for undo in room.undo:
        undo()


@pytest.mark.parametrize(
    "forged",
    [
        {"type": "relay.open", "key": "a", "from": "b", "group": "here", "call": ["default", "x"]},
        {"type": "control.close", "sessions": [], "by": "", "force": True, "group": "here"},
        {"type": "va.sealed", "group": "here"},
        {"type": "va.sealed", "group": "here", "sealed": None},
        {"type": "va.sealed", "group": "here", "sealed": 5},
        {"type": "va.sealed", "group": "here", "sealed": b""},
        {"type": "va.sealed", "group": "here", "sealed": b"short"},
        {"type": "va.sealed", "group": "here", "sealed": "no base64"},
        {"type": "va.sealed", "group": "here", "sealed": "Schön"},
        {"type": "va.sealed", "group": "here", "sealed": os.urandom(200)},
        {"type": "va.sealed", "group": "here", "sealed": Sealer("another key").seal("here", HELLO)},
    ],
)
async def test_what_nobody_of_the_project_sent_counts_for_nothing_and_is_told_once(
    room: Room, forged: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        await room.layer.group_send("here", forged)
    await room.last()
    assert room.heard == []
    [record] = caplog.records
    assert "do not count" in record.getMessage()
    assert "SECRET_KEY" in record.getMessage()


@pytest.mark.parametrize("group", [None, 5, ["here"], "nobody listens there"])
async def test_an_envelope_for_nobody_is_passed_over(room: Room, group: Any) -> None:
    await room.layer.group_send("here", {"type": "va.sealed", "group": group, "sealed": seal("here", HELLO)})
    await room.last()
    assert room.heard == []


async def test_a_message_that_is_sent_again_by_who_reads_along_counts_once(room: Room) -> None:
    for number in range(3):
        room.link.send("here", {"type": "test.hello", "n": number})
    await room.until_heard(3)
    for message in list(room.layer.seen):
        await room.layer.group_send("here", message)
    await room.last()
    assert [each["n"] for each in room.heard] == [0, 1, 2]


async def test_a_message_cannot_be_sent_on_to_another_group(room: Room) -> None:
    await room.layer.group_send("there", {"type": "va.sealed", "group": "there", "sealed": seal("here", HELLO)})
    await room.last()
    assert room.heard == []


def test_a_changed_message_counts_for_nothing() -> None:
    sealed = seal("here", HELLO)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(Unreadable):
            Unsealer().unseal("here", bytes(changed))


def test_a_replaced_secret_key_still_opens_what_was_sealed_with_it(settings: Any) -> None:
    settings.SECRET_KEY = "old"
    sealed, later = seal("here", HELLO), seal("here", HELLO)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", ["old"]
    unsealer = Unsealer()
    assert unsealer.unseal("here", sealed) == HELLO
    assert unsealer.unseal("here", seal("here", HELLO)) == HELLO
    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(Unreadable, match="another SECRET_KEY"):
        unsealer.unseal("here", later)


def test_messages_may_come_out_of_order_and_each_counts_once() -> None:
    sealer, unsealer = Sealer(sealing.settings.SECRET_KEY), Unsealer()
    sealed = [sealer.seal("here", {"type": "x", "n": number}) for number in range(10)]
    order = [3, 0, 9, 8, 1]
    assert [unsealer.unseal("here", sealed[number])["n"] for number in order] == order
    for number in order:
        with pytest.raises(Unreadable, match="before"):
            unsealer.unseal("here", sealed[number])
    assert unsealer.unseal("here", sealed[2])["n"] == 2


def test_what_is_too_old_to_know_whether_it_came_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_WINDOW", 4)
    sealer, unsealer = Sealer(sealing.settings.SECRET_KEY), Unsealer()
    sealed = [sealer.seal("here", {"type": "x", "n": number}) for number in range(10)]
    unsealer.unseal("here", sealed[9])
    assert unsealer.unseal("here", sealed[6])["n"] == 6
    with pytest.raises(Unreadable, match="before"):
        unsealer.unseal("here", sealed[5])


def test_as_many_senders_are_remembered_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_MOST_SENDERS", 3)
    unsealer = Unsealer()
    for _ in range(10):
        unsealer.unseal("here", Sealer(sealing.settings.SECRET_KEY).seal("here", HELLO))
    assert len(unsealer._senders) == 3
    with pytest.raises(Unreadable):
        unsealer.unseal("here", os.urandom(100))
    assert len(unsealer._senders) == 3


def test_a_process_that_forked_does_not_number_its_messages_like_its_parent() -> None:
    seal("here", HELLO)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, seal("here", HELLO))
        os._exit(0)
    os.waitpid(pid, 0)
    theirs = os.read(reader, 10_000)
    os.close(reader)
    os.close(writer)
    assert theirs[:16] != seal("here", HELLO)[:16]
    assert Unsealer().unseal("here", theirs) == HELLO
