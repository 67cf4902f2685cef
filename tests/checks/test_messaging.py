"""The check of the way to Redis."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import override_settings

from visionagents_runner.checks.messaging import check_way_to_redis

REDIS = "channels_redis.core.RedisChannelLayer"


def warnings(backend: str = REDIS, **config: Any) -> list[str]:
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": backend, "CONFIG": config}}):
        return [str(message.msg) for message in check_way_to_redis(None)]


@pytest.mark.parametrize(
    "host",
    [
        "redis://127.0.0.1:6379/1",
        "redis://[::1]:6379",
        "redis://localhost",
        "unix:///run/redis.sock",
        ("127.0.0.1", 6379),
        {"address": "redis://localhost:6379/0", "socket_timeout": 15},
        "rediss://:secret@redis.example:6380/0",
        {"address": "rediss://redis.example", "password": "secret"},
    ],
)
def test_a_redis_on_this_machine_or_behind_tls_and_a_password_is_no_matter(host: Any) -> None:
    assert warnings(hosts=[host]) == []


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("redis://redis.example:6379/0", "at redis.example without TLS and without a password"),
        ("redis://:secret@redis.example", "at redis.example without TLS:"),
        ("rediss://redis.example", "at redis.example without a password:"),
        (("10.0.0.5", 6379), "at 10.0.0.5 without TLS and without a password"),
        ({"address": "redis://10.0.0.5", "password": "secret"}, "at 10.0.0.5 without TLS:"),
    ],
)
def test_a_redis_that_others_may_reach_is_warned_of_without_its_password(host: Any, problem: str) -> None:
    [warning] = warnings(hosts=["redis://localhost", host])
    assert problem in warning
    assert "secret" not in warning


def test_keys_of_the_layer_or_no_redis_silence_it() -> None:
    assert warnings(hosts=["redis://redis.example"], symmetric_encryption_keys=["a key"]) == []
    assert warnings("channels.layers.InMemoryChannelLayer") == []
    with override_settings(CHANNEL_LAYERS={}):
        assert check_way_to_redis(None) == []
