"""What `quotas` counts, in a time and at once."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from throttled.utils import now_mono_f

from visionagents_runner import quotas
from visionagents_runner.exceptions import RunnerConfigurationError, TooMany
from visionagents_runner.quotas import holdings, limits, rates, refusals
from visionagents_runner.quotas.limits import BYS, WORDS, Limits, get_limits, labels, split


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let seconds pass at once."""
    passed = 0.0

    def advance(seconds: float) -> None:
        nonlocal passed
        passed += seconds
        monkeypatch.setattr("throttled.utils.now_mono_f", lambda: now_mono_f() + passed)

    return advance


def spent(what: str, times: int, **whom: str) -> int:
    """Return how many of so many went through."""
    done = 0
    for _ in range(times):
        try:
            quotas.spend(what, **whom)
            done += 1
        except TooMany:
            pass
    return done


def test_so_many_at_once_and_then_one_each_so_many_seconds(limit: Any, wait: Any) -> None:
    limit(turns_per_person="30/m burst 5")
    assert spent("turns", 10, person="a") == 5
    assert spent("turns", 10, person="b") == 5
    wait(2.1)
    assert spent("turns", 10, person="a") == 1
    wait(3600)
    assert spent("turns", 10, person="a") == 5


def test_who_has_too_much_is_told_of_what_and_until_when(limit: Any) -> None:
    limit(turns_per_person="30/m burst 1")
    quotas.spend("turns", person="a")
    with pytest.raises(TooMany, match=r"Too many typed turns.*30/m burst 1.*Try again in 2 s") as refusal:
        quotas.spend("turns", person="a")
    assert (refusal.value.what, refusal.value.by, refusal.value.retry_after) == ("turns", "person", 2)


def test_a_flood_by_one_takes_nothing_from_what_others_share(limit: Any) -> None:
    limit(turns_per_person="1/m burst 2", turns_per_call="1/m burst 4")
    assert spent("turns", 100, person="flood", call="one") == 2
    assert spent("turns", 100, person="other", call="one") == 2
    assert spent("turns", 100, person="third", call="one") == 0
    assert spent("turns", 100, person="fourth", call="two") == 2


def test_what_an_identity_has_of_one_call_it_has_of_another_too(limit: Any) -> None:
    limit(turns_per_identity="1/m burst 3")
    for call in ("one", "two"):
        assert spent("turns", 9, identity="key:abc", call=call) == 3


@pytest.mark.parametrize("off", [None, 0])
def test_a_limit_may_be_left_out(limit: Any, off: Any) -> None:
    names = [name for name in Limits.__dataclass_fields__ if name.startswith(("turns", "feeds"))]
    limit(**dict.fromkeys(names, off))
    assert spent("turns", 1000, person="a", identity="user:1", call="one") == 1000
    held = [quotas.hold("feeds", identity="user:1") for _ in range(1000)]
    for give_back in held:
        give_back()


def test_what_is_held_is_given_back_once(limit: Any) -> None:
    limit(sockets_per_identity=2, sockets_per_worker=3)
    first = quotas.hold("sockets", identity="user:1")
    second = quotas.hold("sockets", identity="user:1")
    with pytest.raises(TooMany, match="one user may have no more than 2"):
        quotas.hold("sockets", identity="user:1")
    other = quotas.hold("sockets", identity="user:2")
    with pytest.raises(TooMany, match="this server takes no more than 3"):
        quotas.hold("sockets", identity="user:3")
    first()
    first()
    assert holdings.held("sockets", "identity", "user:1") == 1
    assert holdings.held("sockets", "worker") == 2
    for give_back in (second, other):
        give_back()
    assert not holdings._held


def test_new_keys_do_not_grow_the_memory_without_bound(limit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_MOST", 100)
    limit(starts_per_worker=None, starts_per_identity=None)
    for number in range(1000):
        quotas.spend("starts", address=f"192.0.2.{number}")
    stores = {id(each._store): each._store for group in rates._get_limiters().values() for _, _, each in group}
    (store,) = stores.values()
    assert len(store._backend._client) <= 100
    assert len(store._backend.expire_info) <= 100


def test_who_goes_on_is_not_forgotten_for_those_who_are_new(limit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_MOST", 100)
    limit(starts_per_address="1/h", starts_per_worker=None)
    quotas.spend("starts", address="flood")
    for number in range(1000):
        quotas.spend("starts", address=f"192.0.2.{number}")
        assert spent("starts", 1, address="flood") == 0


def test_every_limit_has_words_and_a_kind_of_its_own() -> None:
    for name in Limits.__dataclass_fields__:
        what, by = split(name)
        assert not by or (by in BYS and what in WORDS), name
    assert len(set(labels())) == len(labels())
    assert set(quotas.refused()) == set(labels())
    assert limits.find_problems({name: getattr(Limits(), name) for name in Limits.__dataclass_fields__}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seats_per_identity", "4"),
        ("seats_per_identity", -1),
        ("seats_per_identity", True),
        ("turns_per_person", 5),
        ("turns_per_person", "often"),
        ("turns_per_person", "5/s, 10/m"),
        ("turns_per_person", "5/s burst 0"),
        ("turns_per_person", ""),
    ],
)
def test_a_limit_that_makes_no_sense_is_named(limit: Any, name: str, value: Any) -> None:
    limit(**{name: value})
    with pytest.raises(RunnerConfigurationError, match=name):
        get_limits()


def test_the_log_has_one_line_a_minute_for_each_kind(
    limit: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(refusals.time, "monotonic", lambda: now)
    limit(turns_per_identity="30/m burst 1", feeds_per_identity=1)
    with caplog.at_level(logging.WARNING):
        spent("turns", 51, identity="invitation:abc")
        give_back = quotas.hold("feeds", identity="user:7")
        with pytest.raises(TooMany):
            quotas.hold("feeds", identity="user:7")
        now += 61
        spent("turns", 10, identity="invitation:abc")
    give_back()
    assert [record.getMessage() for record in caplog.records] == [
        "Too many typed turns of one invitation (invitation:abc): 1 refused, the first",
        "Too many live feeds of one user (user:7): 1 refused, the first",
        "Too many typed turns of one invitation (invitation:abc): 50 refused since the last line like this",
    ]
    assert quotas.refused()["turns", "invitation"] == 59  # one was allowed after the minute


async def test_long_reads_go_one_after_the_other_and_only_so_many_wait(limit: Any) -> None:
    limit(reads_per_identity=3)
    running = most = 0
    go_on = asyncio.Event()

    async def read(identity: str) -> None:
        nonlocal running, most
        async with quotas.heavy_read(quotas.Who(identity)):
            running += 1
            most = max(most, running)
            await go_on.wait()
            running -= 1

    async with asyncio.TaskGroup() as group:
        for each in ("user:1", "user:1", "user:1", "user:2"):
            group.create_task(read(each))
        await asyncio.sleep(0)
        with pytest.raises(TooMany, match="reads of history"):
            await read("user:1")
        go_on.set()
    assert most == 1


def test_what_threads_hold_at_once_is_counted_rightly() -> None:
    # Under WSGI each request has a thread: what was lost from the count would keep somebody out for good.
    def hold(_: int) -> None:
        for _ in range(2000):
            quotas.hold("reads", identity="user:1")()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(hold, range(4)))
    finally:
        sys.setswitchinterval(before)
    assert holdings.held("reads", "identity", "user:1") == holdings.held("reads", "worker") == 0
