"""Loading what agents share, once per launcher: models, sessions of an inference engine, ..."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vision_agents.core import Agent
    from vision_agents.core.warmup import Warmable

logger = logging.getLogger(__name__)

_FILTER_TIMEOUT_SECONDS = 30.0
_MOST_CONFIGURATIONS = 8
_DEPTH = 5
_MISSING = object()


@dataclass(eq=False)
class _Resource:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    value: Any = _MISSING


class ResourceCache:
    """What vision-agents calls a WarmupCache, for components that may differ in configuration.

    Upstream's keys resources by class: two configurations of one class would share the first one's resource, a
    resource that is None would load every time, and an async ``on_warmed_up`` is not awaited on a hit.
    """

    def __init__(self) -> None:
        self._resources: dict[type, dict[Hashable, _Resource]] = {}
        self._named_as_many: set[type] = set()

    async def warmup(self, warmable: Warmable[Any]) -> None:
        """Give ``warmable`` its resource, loading it if no component of equal configuration did so before."""
        resource = self._resource_for(warmable)
        async with resource.lock:
            if resource.value is _MISSING:
                resource.value = await warmable.on_warmup()
        result: Any = warmable.on_warmed_up(resource.value)
        if inspect.isawaitable(result):
            await result

    def _resource_for(self, warmable: Warmable[Any]) -> _Resource:
        kind = type(warmable)
        known = self._resources.setdefault(kind, {})
        configuration = _configuration(warmable)
        resource = known.pop(configuration, None) or _Resource()
        if len(known) >= _MOST_CONFIGURATIONS:
            del known[next(iter(known))]
            if kind not in self._named_as_many:
                self._named_as_many.add(kind)
                logger.warning(
                    "%s was warmed up in %d configurations; from now on the one that was not used for longest is "
                    "forgotten, and loads again when it is wanted",
                    kind.__name__,
                    _MOST_CONFIGURATIONS,
                )
        known[configuration] = resource  # as the last, which is the one used last
        return resource


async def warm_up(agent: Agent, cache: ResourceCache) -> None:
    """Warm up every component of ``agent``, side by side.

    A component that cannot (no internet, say) is named in a warning and left to load by itself when it is used. The
    audio filter cannot do that: without its model, a second speaker would make the agent deaf for good. It is replaced
    by one that lets everybody through.
    """
    if "vision_agents.core.warmup" not in sys.modules:
        return  # nothing of the agent can be a Warmable, and importing it would hold the event loop for seconds
    from vision_agents.core.warmup import Warmable

    async def component(warmable: Warmable[Any]) -> None:
        try:
            await warmable.warmup(cache)  # type: ignore[arg-type]  # only its ``warmup`` is called
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # the latter two would end the loop
            logger.warning(
                "Warming up %s failed (%s: %s); sessions start without it being warm",
                type(warmable).__name__,
                type(error).__name__,
                error,
            )

    parts: list[Any] = [agent.llm, agent.tts, agent.stt, agent.turn_detection, *agent.processors]
    await asyncio.gather(
        _warm_up_filter(agent, cache), *(component(part) for part in parts if isinstance(part, Warmable))
    )


async def _warm_up_filter(agent: Agent, cache: ResourceCache) -> None:
    from vision_agents.core.warmup import Warmable

    audio_filter = agent._multi_speaker_filter
    if not isinstance(audio_filter, Warmable):
        return
    known = cache._resource_for(audio_filter)
    if not isinstance(known.value, Exception):
        try:
            async with asyncio.timeout(_FILTER_TIMEOUT_SECONDS):
                await audio_filter.warmup(cache)  # type: ignore[arg-type]
        except Exception as error:
            # Remembered, so that not every start waits for a download that will not come.
            known.value = error
            logger.warning(
                "The filter for several speakers could not load its model (%s: %s): all speakers are let through. "
                "Pass Agent(multi_speaker_filter=...) to choose another",
                type(error).__name__,
                error,
            )
        else:
            return
    from ..edge.filters import PassThroughFilter

    agent._multi_speaker_filter = PassThroughFilter()


def _configuration(warmable: Any) -> Hashable:
    """Return what distinguishes one component of a class from another: attributes named after constructor parameters.

    Other attributes (event buses, random ids, locks) differ in every instance and mean nothing for the resource.
    """
    try:
        parameters = inspect.signature(type(warmable).__init__).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    attributes = getattr(warmable, "__dict__", {})
    configuration = {}
    for name in parameters:
        for attribute in (name, f"_{name}"):
            if attribute in attributes:
                configuration[name] = attributes[attribute]
                break
    return _comparable(configuration)


def _comparable(value: Any, depth: int = _DEPTH) -> Hashable:
    """Return ``value`` as something that compares; an object (a client, say) counts as any other of its class.

    It keeps no such object in memory. The class goes along, since 1, True and 1.0 are equal.
    """
    kind = type(value)
    if isinstance(value, (str, bytes, int, float, PurePath, Enum)):
        return kind, value
    if depth and isinstance(value, (list, tuple)):
        return kind, tuple(_comparable(item, depth - 1) for item in value)
    if depth and isinstance(value, (set, frozenset)):
        return kind, frozenset(_comparable(item, depth - 1) for item in value)
    if depth and isinstance(value, dict):
        items = value.items()
        return kind, frozenset((_comparable(key, depth - 1), _comparable(item, depth - 1)) for key, item in items)
    return (kind,)
