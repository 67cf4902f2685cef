"""`BrowserCustomEvent`: what the page of a person sends to the agents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vision_agents.core.events import PluginBaseEvent

from ..observe.bus import register_custom_event


@dataclass
class BrowserCustomEvent(PluginBaseEvent):
    """Subscribe to it on ``agent.events``; ``participant`` is who sent it."""

    type: str = field(default="plugin.browser.custom", init=False)
    data: dict[str, Any] = field(default_factory=dict)


register_custom_event(BrowserCustomEvent)
