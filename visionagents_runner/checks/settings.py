"""The values of the setting VISIONAGENTS_RUNNER."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import timedelta
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004

from ..conf.settings import SETTING, RunnerSettings, get_settings, known_keys, unknown_keys
from .base import TAG, AppConfigs, is_number, missing_module

_MAY_BE_ZERO = frozenset({"DRAIN_TIMEOUT", "LOOP_LAG_LIMIT", "LOOP_LAG_WARNING", "WORKER_GRACE"})
_SECRET = frozenset({"ICE_SERVERS", "WEBHOOKS"})


@register(TAG)
def check_settings(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    raw = getattr(settings, SETTING, None)
    if raw is not None and not isinstance(raw, Mapping):
        return [
            Error(
                f"{SETTING} is a {type(raw).__name__}, not a dict.",
                hint=f'Write {SETTING} = {{"RUNNER": "yourproject.agents.runner"}}.',
                id="visionagents_runner.E004",
            )
        ]
    return [*_unknown_keys(), *_wrong_values(raw or {})]


def _unknown_keys() -> Iterator[CheckMessage]:
    known = sorted(known_keys())
    for key in unknown_keys():
        near = difflib.get_close_matches(str(key).upper(), known, n=1)
        yield Warning(
            f"{SETTING} has the unknown key {key!r}: it has no effect.",
            hint=f"Did you mean {near[0]!r}?" if near else f"Remove it. There are: {', '.join(known)}.",
            id="visionagents_runner.W002",
        )


def _wrong_values(raw: Mapping[str, Any]) -> Iterator[CheckMessage]:
    hints = get_type_hints(RunnerSettings)
    sound = True
    for field in fields(RunnerSettings):
        if field.name not in raw:
            continue
        value, hint = raw[field.name], hints[field.name]
        shown = f"a {type(value).__name__}" if field.name in _SECRET else repr(value)
        problem = "" if _accepts(hint, value) else f"must be {_words(hint)}, not {shown}"
        if isinstance(value, timedelta):
            problem = problem or _out_of_range(field.name, value.total_seconds())
        elif not problem and is_number(value):
            problem = _out_of_range(field.name, value)
        if problem:
            sound = False
            yield Error(
                f"{SETTING}[{field.name!r}] {problem}.",
                hint=f"The default is {field.default!r}: leave the key out to have it.",
                id="visionagents_runner.E004",
            )
    if not sound:
        return
    current = get_settings()
    if current.HEARTBEAT_INTERVAL >= current.WORKER_TTL:
        yield Error(
            f"{SETTING}: HEARTBEAT_INTERVAL ({current.HEARTBEAT_INTERVAL:g} s) is not below WORKER_TTL "
            f"({current.WORKER_TTL:g} s): every worker would be taken for dead between two heartbeats.",
            hint="Make WORKER_TTL several times the HEARTBEAT_INTERVAL; the defaults are 30 and 5.",
            id="visionagents_runner.E005",
        )
    for path in current.API_MIDDLEWARE:
        if problem := missing_module(path):
            yield Error(
                f"{SETTING}['API_MIDDLEWARE'] names {path!r}: {problem}.",
                hint="Name middleware as in MIDDLEWARE, or remove it from the list.",
                id="visionagents_runner.E006",
            )


def _accepts(hint: Any, value: Any) -> bool:
    origin = get_origin(hint)
    if origin in {Union, UnionType}:
        return any(_accepts(part, value) for part in get_args(hint))
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(hint))
    if origin is tuple:
        return isinstance(value, (list, tuple, set)) and all(_accepts(get_args(hint)[0], item) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint in {int, float}:  # a bool is an int to Python, but not to whoever writes a number of seconds
        return not isinstance(value, bool) and isinstance(value, int if hint is int else (int, float))
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in {Union, UnionType}:
        return " or ".join(_words(part) for part in get_args(hint))
    if origin is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    if origin is tuple:
        return "a list of strings" if get_args(hint)[0] is str else "a list of dicts"
    names = {
        int: "a whole number",
        float: "a number",
        str: "a string",
        bool: "True or False",
        NoneType: "None",
        timedelta: "a timedelta",
    }
    return names.get(hint, str(hint))


def _out_of_range(name: str, value: float) -> str:
    if not math.isfinite(value):
        return f"must be finite, not {value!r}"
    if name in _MAY_BE_ZERO:
        return "" if value >= 0 else f"must not be negative, as {value!r} is"
    return "" if value > 0 else f"must be above 0, not {value!r}"
