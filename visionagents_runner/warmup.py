"""Loading what agents share, once per launcher: models, sessions of an inference engine, ..."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
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
_MISSING = object()


@dataclass(eq=False)
class _Resource:
    configuration: dict[str, Any]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    value: Any = _MISSING


class ResourceCache:
    """What vision-agents calls a WarmupCache, for components that may differ in configuration.

    Upstream's keys resources by class: two configurations of one class would share the first one's resource, a
    resource that is None would load every time, and an async ``on_warmed_up`` is not awaited on a hit.
    """

    def __init__(self) -> None:
        self._resources: dict[type, list[_Resource]] = {}

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
        known = self._resources.setdefault(type(warmable), [])
        configuration = _configuration(warmable)
        for resource in known:
            if resource.configuration == configuration:
                return resource
        if len(known) >= _MOST_CONFIGURATIONS:
            logger.warning(
                "%s was warmed up in %d configurations; the oldest is forgotten", type(warmable).__name__, len(known)
            )
            del known[0]
        known.append(_Resource(configuration))
        return known[-1]


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
        except Exception as error:
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
    from .edge.filters import PassThroughFilter

    agent._multi_speaker_filter = PassThroughFilter()


def _configuration(warmable: Any) -> dict[str, Any]:
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
                configuration[name] = _comparable(attributes[attribute])
                break
    return configuration


def _comparable(value: Any) -> Any:
    """Return ``value`` as something that compares; an object (a client, say) counts as any other of its class."""
    if value is None or isinstance(value, (str, bytes, int, float, bool, PurePath, Enum)):
        return value
    if isinstance(value, (list, tuple)):
        return [_comparable(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return {item for item in value if isinstance(item, (str, bytes, int, float))}
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items()}
    return type(value)
