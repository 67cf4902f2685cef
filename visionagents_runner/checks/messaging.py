"""System check of the way to Redis. What this app sends there is sealed; what the project's consumers send is not."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register  # noqa: A004

from .base import TAG, AppConfigs


@register(TAG, Tags.security, deploy=True)
def check_way_to_redis(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    layer = (getattr(settings, "CHANNEL_LAYERS", None) or {}).get("default") or {}
    config = layer.get("CONFIG") or {}
    if not str(layer.get("BACKEND", "")).startswith("channels_redis.") or config.get("symmetric_encryption_keys"):
        return []
    return [
        Warning(
            f"CHANNEL_LAYERS reaches the Redis at {place} {problem}: whoever is in between, or can connect, may read "
            "and write what your own consumers send. What this app sends is sealed with SECRET_KEY: they could only "
            "hold that back.",
            hint="Use rediss:// with a password, or set symmetric_encryption_keys in its CONFIG.",
            id="visionagents_runner.W018",
        )
        for place, problem in _open_ways(config.get("hosts") or ())
    ]


def _open_ways(hosts: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for host in hosts:
        options = host if isinstance(host, dict) else {}
        address = options.get("address", host if not options else (options.get("host", "localhost"), 6379))
        if isinstance(address, (tuple, list)):
            name, scheme, password = str(address[0]), "redis", options.get("password")
        else:
            parts = urlsplit(str(address))
            query = str(parts.query)
            name, scheme = parts.hostname or "", parts.scheme
            password = options.get("password") or parts.password or "password=" in query
        if scheme == "unix" or not name or name.startswith("/") or _is_this_machine(name):
            continue
        missing = [
            what for what, there in (("without TLS", scheme == "rediss"), ("without a password", password)) if not there
        ]
        if missing:
            yield name, " and ".join(missing)


def _is_this_machine(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
