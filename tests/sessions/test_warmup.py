"""Warming up: once per launcher, shared only between equals, and not the end of the world when it fails."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from vision_agents.core.utils.audio_filter import FirstSpeakerWinsFilter
from vision_agents.core.warmup import Warmable

from visionagents_runner.sessions.warmup import ResourceCache, warm_up


class Model(Warmable[Any]):
    loads = 0

    def __init__(self, name: str = "small", resource: Any = "weights") -> None:
        self._name = name
        self.random = object()
        self._resource_to_load = resource
        self.got: list[Any] = []

    async def on_warmup(self) -> Any:
        type(self).loads += 1
        return f"{self._name} {self._resource_to_load}" if self._resource_to_load else None

    def on_warmed_up(self, resource: Any) -> None:
        self.got.append(resource)


class AsyncModel(Model):
    async def on_warmed_up(self, resource: Any) -> None:  # type: ignore[override]
        self.got.append(resource)


@dataclass
class Parts:
    llm: Any = None
    tts: Any = None
    stt: Any = None
    turn_detection: Any = None
    processors: tuple[Any, ...] = ()
    _multi_speaker_filter: Any = None


@pytest.fixture(autouse=True)
def nothing_loaded() -> None:
    Model.loads = AsyncModel.loads = WithClient.loads = 0


async def test_equal_components_share_one_resource() -> None:
    cache = ResourceCache()
    one, two = Model(), Model()
    await one.warmup(cache)  # type: ignore[arg-type]
    await two.warmup(cache)  # type: ignore[arg-type]
    assert (Model.loads, one.got, two.got) == (1, ["small weights"], ["small weights"])


async def test_components_of_one_class_with_other_settings_do_not() -> None:
    cache = ResourceCache()
    small, large = Model("small"), Model("large")
    await small.warmup(cache)  # type: ignore[arg-type]
    await large.warmup(cache)  # type: ignore[arg-type]
    assert (small.got, large.got) == (["small weights"], ["large weights"])


async def test_a_resource_that_is_none_is_loaded_once() -> None:
    cache = ResourceCache()
    for _ in range(3):
        await Model(resource=None).warmup(cache)  # type: ignore[arg-type]
    assert Model.loads == 1


async def test_an_async_on_warmed_up_is_awaited_on_a_hit_too() -> None:
    cache = ResourceCache()
    await AsyncModel().warmup(cache)  # type: ignore[arg-type]
    second = AsyncModel()
    await second.warmup(cache)  # type: ignore[arg-type]
    assert second.got == ["small weights"]


async def test_a_component_that_cannot_warm_up_is_named_and_the_others_are_warm(caplog: Any) -> None:
    class Offline(Model):
        async def on_warmup(self) -> Any:
            raise ConnectionError("no internet")

    tts = Model()
    with caplog.at_level(logging.WARNING):
        await warm_up(Parts(stt=Offline(), tts=tts), ResourceCache())  # type: ignore[arg-type]
    assert tts.got == ["small weights"]
    assert "Warming up Offline failed (ConnectionError: no internet)" in caplog.text


async def test_without_its_model_the_audio_filter_lets_everybody_through(monkeypatch: Any, caplog: Any) -> None:
    tries = []

    async def offline(self: Any) -> Any:
        tries.append(1)
        raise ConnectionError("no internet")

    monkeypatch.setattr(FirstSpeakerWinsFilter, "on_warmup", offline)
    cache = ResourceCache()
    for _ in range(2):
        parts = Parts(_multi_speaker_filter=FirstSpeakerWinsFilter())
        await warm_up(parts, cache)  # type: ignore[arg-type]
        frame: Any = object()
        for participant in ("first", "second"):
            assert await parts._multi_speaker_filter.process_audio(frame, participant) is frame
    assert len(tries) == 1
    assert "multi_speaker_filter=" in caplog.text


class Client:
    """Something that every component makes for itself."""


class WithClient(Model):
    def __init__(self, name: str = "small", client: Any = None, options: Any = None) -> None:
        super().__init__(name)
        self.client = client or Client()
        self.options = options


async def test_objects_of_its_own_do_not_make_a_component_load_again() -> None:
    cache = ResourceCache()
    for _ in range(3):
        await WithClient(options={"at": [Path("a"), Client()]}).warmup(cache)  # type: ignore[arg-type]
    assert WithClient.loads == 1
    await WithClient(options={"at": [Path("b"), Client()]}).warmup(cache)  # type: ignore[arg-type]
    assert WithClient.loads == 2


async def test_values_that_only_look_equal_are_different_settings() -> None:
    cache = ResourceCache()
    for value in (1, True, 1.0, "1", [1], (1,), {1}, {1: 1}, [True], None):
        await WithClient(options=value).warmup(cache)  # type: ignore[arg-type]
    assert WithClient.loads == 10


async def test_a_structure_that_holds_itself_is_compared_all_the_same() -> None:
    cache = ResourceCache()
    options: list[Any] = []
    options.append(options)
    for _ in range(2):
        await WithClient(options=options).warmup(cache)  # type: ignore[arg-type]
    assert WithClient.loads == 1


async def test_ever_new_settings_do_not_fill_the_memory(caplog: Any) -> None:
    cache = ResourceCache()
    with caplog.at_level(logging.WARNING):
        for number in range(20):
            await Model("kept").warmup(cache)  # type: ignore[arg-type]
            await Model(f"model {number}").warmup(cache)  # type: ignore[arg-type]
    assert Model.loads == 21  # what is in use all the time is not what is dropped
    assert sum(map(len, cache._resources.values())) == 8
    [record] = caplog.records
    assert "Model" in record.message


async def test_agents_without_vision_agents_do_not_wait_for_its_import(monkeypatch: Any) -> None:
    monkeypatch.delitem(sys.modules, "vision_agents.core.warmup")
    await warm_up(Parts(), ResourceCache())  # type: ignore[arg-type]
    assert "vision_agents.core.warmup" not in sys.modules


async def test_a_component_that_exits_is_named_like_any_that_fails(caplog: Any) -> None:
    class Exiting(Model):
        async def on_warmup(self) -> Any:
            sys.exit(3)

    with caplog.at_level(logging.WARNING):
        await warm_up(Parts(stt=Exiting()), ResourceCache())  # type: ignore[arg-type]
    assert "Warming up Exiting failed (SystemExit: 3)" in caplog.text
