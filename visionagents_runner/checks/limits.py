"""System checks of LIMITS and TRUSTED_PROXIES."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004

from ..conf.settings import SETTING
from ..quotas.limits import Limits, find_problems
from ..quotas.who import find_networks
from .base import TAG, AppConfigs


@register(TAG)
def check_limits(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    raw = getattr(settings, SETTING, None)
    if not isinstance(raw, Mapping):
        return []  # check_settings says so
    return [*_limits(raw.get("LIMITS")), *_proxies(raw.get("TRUSTED_PROXIES"))]


def _limits(raw: Any) -> Iterator[CheckMessage]:
    if not isinstance(raw, Mapping):
        return
    known = sorted(Limits.__dataclass_fields__)
    for name in raw:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            yield Warning(
                f"{SETTING}['LIMITS'] has the unknown key {name!r}: it has no effect.",
                hint=f"Did you mean {near[0]!r}?" if near else f"Remove it. There are: {', '.join(known)}.",
                id="visionagents_runner.W021",
            )
    for name, problem in find_problems(raw):
        default = getattr(Limits(), name)
        yield Error(
            f"{SETTING}['LIMITS']{problem}.",
            hint=f"The default is {default!r}: leave the key out to have it.",
            id="visionagents_runner.E021",
        )


def _proxies(raw: Any) -> Iterator[CheckMessage]:
    if not isinstance(raw, (list, tuple, set)) or not all(isinstance(entry, str) for entry in raw):
        return  # check_settings says so
    for entry in raw:
        try:
            (network,) = find_networks([entry])
        except ValueError as error:
            yield Error(
                f"{SETTING}['TRUSTED_PROXIES'] names what is neither an address nor a network: {error}.",
                hint='Name the addresses of your proxies, as in ["127.0.0.1", "10.0.0.0/8"].',
                id="visionagents_runner.E022",
            )
            continue
        if network.prefixlen == 0:
            yield Warning(
                f"{SETTING}['TRUSTED_PROXIES'] trusts every address: whoever sends X-Forwarded-For chooses by which "
                "address the limits count.",
                hint="Name the addresses of your proxies only.",
                id="visionagents_runner.W022",
            )
