"""System checks: what in a project's settings would keep agents from running, or open them to strangers.

None touches the database or imports the runner (and with it vision-agents), but for those that run under ``--deploy``
alone. All carry the tag ``visionagents_runner``.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register  # noqa: A004

from ..conf.settings import SETTING, RunnerSettings, get_settings, known_keys, unknown_keys

TAG = "visionagents_runner"
SQLITE_TIMEOUT = 5
"""The least number of seconds that one writer should wait for another."""

_MAY_BE_ZERO = frozenset({"DRAIN_TIMEOUT", "LOOP_LAG_LIMIT", "LOOP_LAG_WARNING", "WORKER_GRACE"})
_SECRET = frozenset({"ICE_SERVERS", "WEBHOOKS"})
_WAL = re.compile(r"journal_mode\s*(=|\()\s*['\"]?wal\b", re.IGNORECASE)
_SQLITE_OPTIONS = (
    '"OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20, '
    '"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}'
)

AppConfigs = Sequence[AppConfig] | None


# The VISIONAGENTS_RUNNER setting


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
        elif not problem and _is_number(value):
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
        if problem := _missing_module(path):
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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _out_of_range(name: str, value: float) -> str:
    if not math.isfinite(value):
        return f"must be finite, not {value!r}"
    if name in _MAY_BE_ZERO:
        return "" if value >= 0 else f"must not be negative, as {value!r} is"
    return "" if value > 0 else f"must be above 0, not {value!r}"


# The runner


@register(TAG)
def check_runner(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    """Look for the runner's module without importing it."""
    path = _setting("RUNNER", "")
    if not isinstance(path, str):
        return []  # check_settings says so
    if not path:
        return [
            Warning(
                f"{SETTING} names no runner: no agent can start in this project.",
                hint=f'Set {SETTING} = {{"RUNNER": "yourproject.agents.runner"}}: the dotted path of a '
                "visionagents_runner.Runner.",
                id="visionagents_runner.W001",
            )
        ]
    if problem := _missing_module(path):
        return [
            Error(
                f"{SETTING}['RUNNER'] = {path!r}: {problem}.",
                hint='Write the path of a module and the name in it, as in "yourproject.agents.runner" for '
                "runner = Runner(...) in yourproject/agents.py.",
                id="visionagents_runner.E001",
            )
        ]
    return []


@register(TAG, deploy=True)
def check_runner_imports(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    """Import the runner, which takes seconds, and look at its options."""
    path = _setting("RUNNER", "")
    if not isinstance(path, str) or not path or _missing_module(path):
        return []  # check_settings or check_runner says so
    from ..exceptions import RunnerConfigurationError
    from ..registry import get_runner

    try:
        runner = get_runner()
    except RunnerConfigurationError as error:
        problem = str(error)
    except Exception as error:  # whatever the project's module raises while it is imported
        problem = f"{SETTING}['RUNNER'] = {path!r} raised {type(error).__name__} while it was imported: {error}"
    else:
        return list(_open_origins(runner.options.cors_allow_origins))
    return [
        Error(
            problem,
            hint=f'See the whole traceback with: python -c "import django; django.setup(); '
            f'import {path.rpartition(".")[0]}"',
            id="visionagents_runner.E002",
        )
    ]


def _open_origins(origins: Iterable[str]) -> Iterator[CheckMessage]:
    if "*" in origins:
        yield Warning(
            "ServeOptions(cors_allow_origins=...) holds '*': scripts of every web page may read the API's answers.",
            hint='Name the origins: cors_allow_origins={"https://app.example"}.',
            id="visionagents_runner.W008",
        )


def _missing_module(path: str) -> str:
    """Why the object at this dotted path cannot be there, or ""; only packages around its module are imported."""
    module, dot, name = path.rpartition(".")
    if not (dot and module and name.isidentifier()):
        return "it is no dotted path"
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        return f"there is no module {error.name!r}"
    except Exception as error:  # whatever a package around it raises while it is imported
        return f"looking for the module {module!r} raised {type(error).__name__}: {error}"
    return "" if found else f"there is no module {module!r}"


# Installed apps and the server


@register(TAG)
def check_apps(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    if not apps.is_installed("channels"):
        messages.append(
            Warning(
                "'channels' is not in INSTALLED_APPS.",
                hint='Add "channels" to INSTALLED_APPS: messages between workers and live feeds pass through it.',
                id="visionagents_runner.W009",
            )
        )
    if not apps.is_installed("ninja"):
        messages.append(
            Warning(
                "'ninja' is not in INSTALLED_APPS: the API's docs page would load its assets from a CDN.",
                hint='Add "ninja" to INSTALLED_APPS: they are served from here then.',
                id="visionagents_runner.W010",
            )
        )
    return messages


@register(TAG, Tags.staticfiles)
def check_runserver(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    """Whether ``runserver`` is Daphne's where Daphne is installed: the first app that has the command provides it."""
    if not apps.is_installed("daphne"):
        return []
    from django.core.management import get_commands, load_command_class

    provider = get_commands().get("runserver", "django.core")
    if provider == "daphne" or not isinstance(provider, str):
        return []
    from django.utils.module_loading import import_string

    daphnes = import_string("daphne.management.commands.runserver.Command")
    if isinstance(load_command_class(provider, "runserver"), daphnes):
        return []  # it builds on the next one in line, as WhiteNoise's does
    return [
        Error(
            f"'daphne' comes after {provider!r} in INSTALLED_APPS, so runserver is that app's: it is no ASGI server, "
            "and no agent runs in it.",
            hint='Make "daphne" the first of INSTALLED_APPS.',
            id="visionagents_runner.E003",
        )
    ]


@register(TAG)
def check_asgi(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    if getattr(settings, "ASGI_APPLICATION", None):
        return []
    only = ", only WSGI_APPLICATION is" if getattr(settings, "WSGI_APPLICATION", None) else ""
    return [
        Warning(
            f"ASGI_APPLICATION is not set{only}: runserver cannot host agents, and under WSGI every start is refused.",
            hint='Set ASGI_APPLICATION = "yourproject.asgi.application", with "application = get_asgi_application()" '
            "from visionagents_runner.asgi in that file, and serve it with serveagents, daphne or uvicorn.",
            id="visionagents_runner.W011",
        )
    ]


@register(TAG)
def check_lean_api(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    if _setting("LEAN_API", "auto") != "auto":
        return []
    if any(message.id == "visionagents_runner.E004" for message in check_settings(app_configs)):
        return []
    from ..asgi.lean import foreign_middleware

    foreign = foreign_middleware()
    if not foreign:
        return []
    return [
        Info(
            "The API is served through Django's whole middleware, because MIDDLEWARE has some that is not Django's "
            f"and might guard it: {', '.join(foreign)}.",
            hint=f"To spare the event loop that carries the audio, name those that the API needs in "
            f"{SETTING}['API_MIDDLEWARE'] and set LEAN_API to True; or set it to False, and this stays as it is.",
            id="visionagents_runner.I001",
        )
    ]


# The database


@register(TAG)
def check_databases(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    """Read DATABASES only: this runs before the database exists."""
    from django.db import router

    from ..models import AgentSession

    messages = list(_kept_connections())
    alias = router.db_for_write(AgentSession)
    database = settings.DATABASES.get(alias) or {}
    engine = str(database.get("ENGINE", ""))
    if "sqlite" in engine or "spatialite" in engine:
        messages += _sqlite(alias, database)
    elif "oracle" in engine:
        messages.append(
            Warning(
                f"DATABASES[{alias!r}] is Oracle, on which this app was never tested: it takes '' for NULL.",
                hint="Route the app to PostgreSQL, MariaDB, MySQL or SQLite with DATABASE_ROUTERS.",
                id="visionagents_runner.W012",
            )
        )
    return messages


def _kept_connections() -> Iterator[CheckMessage]:
    for alias, database in settings.DATABASES.items():
        age = database.get("CONN_MAX_AGE", 0)
        if age != 0:
            yield Warning(
                f"DATABASES[{alias!r}] has CONN_MAX_AGE = {age!r}: under ASGI each thread keeps a connection that no "
                "request finds again, until the database refuses new ones.",
                hint='Set CONN_MAX_AGE to 0; on PostgreSQL, "OPTIONS": {"pool": True} is what it was meant for.',
                id="visionagents_runner.W005",
            )


def _sqlite(alias: str, database: Mapping[str, Any]) -> Iterator[CheckMessage]:
    name = str(database.get("NAME", ""))
    if name == ":memory:":
        yield Warning(
            f"DATABASES[{alias!r}] is SQLite in memory: each thread of the runner would see an empty database of its "
            "own.",
            hint='Give it a file: "NAME": BASE_DIR / "db.sqlite3".',
            id="visionagents_runner.W004",
        )
        return
    if "mode=memory" in name:
        return  # what Django's test runner makes of a file
    options = database.get("OPTIONS") or {}
    missing = []
    if not _WAL.search(str(options.get("init_command", ""))):
        missing.append("an init_command that sets journal_mode=WAL")
    if str(options.get("transaction_mode") or "").upper() not in {"IMMEDIATE", "EXCLUSIVE"}:
        missing.append('"transaction_mode": "IMMEDIATE"')
    timeout = options.get("timeout", 0)
    if not _is_number(timeout) or timeout < SQLITE_TIMEOUT:
        missing.append(f'a "timeout" of {SQLITE_TIMEOUT} s or more')
    if missing:
        yield Warning(
            f"DATABASES[{alias!r}] is SQLite without {', '.join(missing)}: two that write at once meet "
            '"database is locked", and sessions fail.',
            hint=f"Write {_SQLITE_OPTIONS}.",
            id="visionagents_runner.W003",
        )


@register(TAG)
def check_time_zones(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    if settings.USE_TZ:
        return []
    return [
        Warning(
            "USE_TZ is False: times of sessions would be off wherever the zones of server, database and user differ.",
            hint="Set USE_TZ = True, Django's default.",
            id="visionagents_runner.W013",
        )
    ]


# Only for a deployment


@register(TAG, deploy=True)
def check_channel_layer(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    layer = (getattr(settings, "CHANNEL_LAYERS", None) or {}).get("default") or {}
    backend = str(layer.get("BACKEND", ""))
    if backend and not backend.endswith(".InMemoryChannelLayer"):
        return []
    what = "is in memory" if backend else "is not configured"
    return [
        Warning(
            f"The channel layer {what}: with more than one process, they hear of each other only at their next look "
            "into the database, and live feeds end at the process.",
            hint='Install "visionagents-runner[redis]" and set CHANNEL_LAYERS to '
            "channels_redis.core.RedisChannelLayer. With a single process, silence this check.",
            id="visionagents_runner.W006",
        )
    ]


@register(TAG, Tags.security, deploy=True)
def check_local_requests(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    allow = _setting("ALLOW_LOCAL", None)
    if not (allow is True or (allow is None and settings.DEBUG)):
        return []
    why = f"{SETTING}['ALLOW_LOCAL'] is True" if allow else "DEBUG is True"
    return [
        Warning(
            f"{why}: programs of the server's own user on its machine may start and close sessions without signing in, "
            "and so may whoever has that user's token. A proxy is known by what it has open, but not every one can be.",
            hint=f"Set DEBUG = False and leave {SETTING}['ALLOW_LOCAL'] out, or set it to False.",
            id="visionagents_runner.W007",
        )
    ]


def _setting(key: str, default: Any) -> Any:
    """The value as written, wrong ones included."""
    raw = getattr(settings, SETTING, None)
    return raw.get(key, default) if isinstance(raw, Mapping) else default
