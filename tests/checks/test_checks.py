"""Each check: that it speaks up, under what id, with a hint, and that it is silent otherwise."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.core.management import get_commands
from django.test import override_settings

from visionagents_runner.checks.base import TAG
from visionagents_runner.checks.database import check_databases, check_time_zones
from visionagents_runner.checks.deployment import check_channel_layer, check_local_requests
from visionagents_runner.checks.installation import check_apps, check_asgi, check_lean_api, check_runserver
from visionagents_runner.checks.runner import check_runner, check_runner_imports
from visionagents_runner.checks.settings import check_settings
from visionagents_runner.exceptions import RunnerConfigurationError
from visionagents_runner.options import ServeOptions

APPS = ["django.contrib.auth", "django.contrib.contenttypes", "visionagents_runner"]
FOUND = {"RUNNER": "tests.agents.runner"}
SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
}


def ids(messages: list[CheckMessage]) -> list[str]:
    for message in messages:
        assert message.hint, message
    return [str(message.id).removeprefix("visionagents_runner.") for message in messages]


def ids_with(check: Callable[..., list[CheckMessage]], **values: Any) -> list[str]:
    with override_settings(**values):
        return ids(check(None))


def check_databases_with(databases: dict[str, Any], **values: Any) -> list[CheckMessage]:
    # Not by override_settings, which warns that the connections do not change: here they shall not.
    with mock.patch.object(settings, "DATABASES", databases), override_settings(**values):
        return check_databases(None)


def runner_settings(**values: Any) -> dict[str, Any]:
    return {"VISIONAGENTS_RUNNER": {**FOUND, **values}}


def database(**values: Any) -> dict[str, Any]:
    default = {"ENGINE": "django.db.backends.sqlite3", "NAME": "/tmp/db.sqlite3", "OPTIONS": SQLITE_OPTIONS, **values}
    return {"default": default}


# The shipped project


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=root,
        env={"PATH": "/usr/bin:/bin", "SECRET_KEY": "tests-only-" + "x1y2z3" * 10, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.smoke
def test_the_shipped_project_has_nothing_to_say() -> None:
    done = manage("check")
    assert "System check identified no issues" in done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.slow
def test_ordinary_checks_import_neither_the_runner_nor_vision_agents_nor_open_a_database() -> None:
    code = (
        "import sys, django; django.setup()\n"
        "from django.core.checks import run_checks\n"
        "from django.db import connections\n"
        "assert run_checks() == []\n"
        "assert 'vision_agents' not in sys.modules\n"
        "assert 'project.agents' not in sys.modules\n"
        "assert all(each.connection is None for each in connections.all(initialized_only=True))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={"PATH": "/usr/bin:/bin", "DJANGO_SETTINGS_MODULE": "project.settings", "SECRET_KEY": "x"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_deployment_of_the_shipped_project_on_redis_is_not_warned_of_by_us() -> None:
    done = manage("check", "--deploy", "--tag", "visionagents_runner", DEBUG="0", REDIS_URL="redis://127.0.0.1:6379/0")
    assert "no issues" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.smoke
def test_a_deployment_of_the_shipped_project_can_satisfy_all_of_djangos_checks_by_its_environment() -> None:
    done = manage(
        "check",
        "--deploy",
        "--fail-level",
        "WARNING",
        DEBUG="0",
        REDIS_URL="redis://127.0.0.1:6379/0",
        ALLOWED_HOSTS="agents.example",
        SECURE_SSL_REDIRECT="1",
        SECURE_PROXY_SSL_HEADER="X-Forwarded-Proto",
        SECURE_HSTS_SECONDS="31536000",
        SECURE_HSTS_INCLUDE_SUBDOMAINS="1",
        SECURE_HSTS_PRELOAD="1",
    )
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout + done.stderr


@pytest.mark.slow
def test_a_deployment_with_debug_and_in_memory_layer_is_warned_of() -> None:
    done = manage("check", "--deploy", "--tag", "visionagents_runner", DEBUG="1")
    assert "visionagents_runner.W006" in done.stderr
    assert "visionagents_runner.W007" in done.stderr


def test_all_checks_are_registered_under_one_tag() -> None:
    with override_settings(INSTALLED_APPS=APPS):
        found = ids(run_checks(tags=[TAG]))
        assert {"W009", "W010"} <= set(found)
    with override_settings(CHANNEL_LAYERS={}, **runner_settings(ALLOW_LOCAL=True)):
        assert not {"W006", "W007"} & set(ids(run_checks(tags=[TAG])))
        assert {"W006", "W007"} <= set(ids(run_checks(tags=[TAG], include_deployment_checks=True)))


# The setting


@pytest.mark.parametrize("value", [None, {}, FOUND])
def test_sound_settings_are_silent(value: Any) -> None:
    assert ids_with(check_settings, VISIONAGENTS_RUNNER=value) == []


@pytest.mark.parametrize(
    "values",
    [
        {"ALLOW_LOCAL": False, "LEAN_API": True, "API_MIDDLEWARE": ["django.middleware.common.CommonMiddleware"]},
        {"LEAN_API": "auto", "MAX_BODY_BYTES": 1, "START_TIMEOUT": 1, "DRAIN_TIMEOUT": 0, "WORKER_GRACE": 0.0},
        {"HEARTBEAT_INTERVAL": 0.1, "WORKER_TTL": 0.5},
    ],
)
def test_sound_values_are_silent(values: dict[str, Any]) -> None:
    assert ids_with(check_settings, **runner_settings(**values)) == []


@pytest.mark.parametrize("value", [["RUNNER"], "tests.agents.runner", 7])
def test_a_setting_that_is_no_dict_is_an_error(value: Any) -> None:
    assert ids_with(check_settings, VISIONAGENTS_RUNNER=value) == ["E004"]
    assert ids_with(check_runner, VISIONAGENTS_RUNNER=value) in ([], ["W001"])
    assert ids_with(check_lean_api, VISIONAGENTS_RUNNER=value, MIDDLEWARE=["other.Middleware"]) == []


def test_an_unknown_key_is_named_with_the_nearest_known_one() -> None:
    with override_settings(**runner_settings(HEARTBEAT_INTERVALL=5, heartbeat_interval=5, ZZZ=1)):
        messages = check_settings(None)
    assert ids(messages) == ["W002"] * 3
    upper, unlike, lower = messages
    assert "'HEARTBEAT_INTERVALL'" in upper.msg
    assert upper.hint == lower.hint == "Did you mean 'HEARTBEAT_INTERVAL'?"
    assert "HEARTBEAT_INTERVAL, " in str(unlike.hint)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("RUNNER", 7),
        ("RUNNER", None),
        ("ALLOW_LOCAL", "yes"),
        ("ALLOW_LOCAL", 1),
        ("LEAN_API", "on"),
        ("API_MIDDLEWARE", "one.string"),
        ("API_MIDDLEWARE", [7]),
        ("MAX_BODY_BYTES", 1.5),
        ("MAX_BODY_BYTES", True),
        ("MAX_BODY_BYTES", 0),
        ("START_TIMEOUT", "60"),
        ("START_TIMEOUT", -1),
        ("START_TIMEOUT", float("nan")),
        ("DRAIN_TIMEOUT", -0.5),
        ("DRAIN_TIMEOUT", float("inf")),
        ("HEARTBEAT_INTERVAL", 0),
        ("POLL_INTERVAL", None),
    ],
)
def test_a_value_of_a_wrong_type_or_out_of_range_is_an_error(key: str, value: Any) -> None:
    with override_settings(**runner_settings(**{key: value})):
        [message] = check_settings(None)
    assert ids([message]) == ["E004"]
    assert f"[{key!r}]" in message.msg
    assert repr(value) in message.msg


@pytest.mark.parametrize("interval", [30, 31.0])
def test_a_heartbeat_that_comes_no_sooner_than_the_time_to_live_is_an_error(interval: float) -> None:
    assert ids_with(check_settings, **runner_settings(HEARTBEAT_INTERVAL=interval)) == ["E005"]


@pytest.mark.parametrize("path", ["tests.nowhere.Middleware", "nodots", "tests.."])
def test_api_middleware_that_is_nowhere_is_an_error(path: str) -> None:
    assert ids_with(check_settings, **runner_settings(API_MIDDLEWARE=[path])) == ["E006"]


# The runner


def test_a_project_without_a_runner_is_warned_of() -> None:
    assert ids_with(check_runner, VISIONAGENTS_RUNNER={}) == ["W001"]
    assert ids_with(check_runner, VISIONAGENTS_RUNNER={"RUNNER": ""}) == ["W001"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nodots", "no dotted path"),
        ("project.", "no dotted path"),
        ("project.agents.not-a-name", "no dotted path"),
        ("nowhere.agents.runner", "no module 'nowhere'"),
        ("tests.nowhere.runner", "no module 'tests.nowhere'"),
        ("tests.agents.deeper.runner", "no module"),
    ],
)
def test_a_runner_whose_module_does_not_exist_is_an_error(path: str, words: str) -> None:
    with override_settings(VISIONAGENTS_RUNNER={"RUNNER": path}):
        messages = check_runner(None)
        assert check_runner_imports(None) == []
    assert ids(messages) == ["E001"]
    assert words in messages[0].msg


def test_a_package_that_fails_on_import_is_reported_not_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_package").mkdir()
    (tmp_path / "failing_package" / "__init__.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with override_settings(VISIONAGENTS_RUNNER={"RUNNER": "failing_package.agents.runner"}):
        [message] = check_runner(None)
    assert ids([message]) == ["E001"]
    assert "ZeroDivisionError" in message.msg


def test_a_module_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "untouched_agents.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert ids_with(check_runner, VISIONAGENTS_RUNNER={"RUNNER": "untouched_agents.runner"}) == []
    assert "untouched_agents" not in sys.modules


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import no_such_library", "no_such_library"),
        ("other = 1", "runner"),
        ("runner = 1", "int"),
    ],
)
def test_a_deployment_imports_the_runner_and_reports_why_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    (tmp_path / "broken_agents.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_agents", raising=False)
    with override_settings(VISIONAGENTS_RUNNER={"RUNNER": "broken_agents.runner"}):
        [message] = check_runner_imports(None)
    monkeypatch.delitem(sys.modules, "broken_agents", raising=False)
    assert ids([message]) == ["E002"]
    assert words in message.msg


def test_a_deployment_with_a_sound_runner_is_silent() -> None:
    assert ids_with(check_runner_imports, VISIONAGENTS_RUNNER=FOUND) == []


def test_the_runners_own_advice_is_what_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RunnerConfigurationError("do this")

    monkeypatch.setattr("visionagents_runner.registry.get_runner", refuse)
    with override_settings(VISIONAGENTS_RUNNER=FOUND):
        [message] = check_runner_imports(None)
    assert message.msg == "do this"


def test_a_deployment_open_to_scripts_of_every_page_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.agents import runner

    monkeypatch.setattr(runner, "options", ServeOptions(cors_allow_origins={"*"}))
    assert ids_with(check_runner_imports, VISIONAGENTS_RUNNER=FOUND) == ["W008"]
    monkeypatch.setattr(runner, "options", ServeOptions(cors_allow_origins={"https://app.example"}))
    assert ids_with(check_runner_imports, VISIONAGENTS_RUNNER=FOUND) == []


# Apps and server


def test_missing_apps_are_named() -> None:
    assert ids_with(check_apps, INSTALLED_APPS=APPS) == ["W009", "W010"]
    assert ids_with(check_apps, INSTALLED_APPS=["channels", *APPS]) == ["W010"]
    assert ids_with(check_apps, INSTALLED_APPS=["channels", "ninja", *APPS]) == []


@pytest.fixture
def fresh_commands() -> Iterator[None]:
    """Django remembers which app provides which command."""
    get_commands.cache_clear()
    yield
    get_commands.cache_clear()


@pytest.mark.usefixtures("fresh_commands")
@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        (["daphne", "django.contrib.staticfiles"], []),
        (["django.contrib.staticfiles", "daphne"], ["E003"]),
        (["tests.checks.other_runserver", "daphne"], ["E003"]),
        (["tests.checks.building_runserver", "daphne"], []),
        (["django.contrib.staticfiles"], []),
        (["daphne"], []),
    ],
)
def test_runserver_must_be_daphnes_where_daphne_is_installed(installed: list[str], expected: list[str]) -> None:
    assert ids_with(check_runserver, INSTALLED_APPS=[*installed, *APPS]) == expected


def test_a_project_without_asgi_is_warned_of() -> None:
    assert ids_with(check_asgi) == []
    assert ids_with(check_asgi, ASGI_APPLICATION=None) == ["W011"]
    with override_settings(ASGI_APPLICATION=None, WSGI_APPLICATION="project.wsgi.application"):
        [message] = check_asgi(None)
    assert "only WSGI_APPLICATION is" in message.msg


def test_middleware_that_keeps_the_api_from_being_lean_is_named() -> None:
    middleware = ["django.middleware.common.CommonMiddleware", "corsheaders.middleware.CorsMiddleware", "ours.Guard"]
    with override_settings(MIDDLEWARE=middleware, **runner_settings()):
        [message] = check_lean_api(None)
    assert ids([message]) == ["I001"]
    assert "corsheaders.middleware.CorsMiddleware, ours.Guard" in message.msg
    for values in ({"LEAN_API": True}, {"LEAN_API": False}, {"API_MIDDLEWARE": middleware[1:]}):
        assert ids_with(check_lean_api, MIDDLEWARE=middleware, **runner_settings(**values)) == []
    assert ids_with(check_lean_api, MIDDLEWARE=middleware[:1], **runner_settings()) == []


# Databases


def test_sqlite_with_all_it_needs_is_silent() -> None:
    assert ids(check_databases_with(database())) == []
    other = {**SQLITE_OPTIONS, "transaction_mode": "exclusive", "init_command": "pragma journal_mode = 'wal'"}
    assert ids(check_databases_with(database(OPTIONS=other))) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"init_command": "PRAGMA synchronous=NORMAL;"}, "WAL"),
        ({"init_command": "PRAGMA journal_mode=DELETE;"}, "WAL"),
        ({"transaction_mode": "DEFERRED"}, "IMMEDIATE"),
        ({"transaction_mode": None}, "IMMEDIATE"),
        ({"timeout": 1}, "timeout"),
    ],
)
def test_sqlite_without_wal_immediate_or_timeout_is_warned_of(change: dict[str, Any], words: str) -> None:
    [message] = check_databases_with(database(OPTIONS={**SQLITE_OPTIONS, **change}))
    assert ids([message]) == ["W003"]
    assert words in message.msg


def test_one_warning_names_all_that_sqlite_lacks() -> None:
    [message] = check_databases_with(database(OPTIONS={}))
    assert all(words in message.msg for words in ("WAL", "IMMEDIATE", "timeout"))


def test_sqlite_in_memory_is_warned_of_but_not_a_test_runners() -> None:
    assert ids(check_databases_with(database(NAME=":memory:"))) == ["W004"]
    assert ids(check_databases_with(database(NAME="file:memorydb_default?mode=memory&cache=shared"))) == []


def test_other_databases_are_silent() -> None:
    for engine in ("django.db.backends.postgresql", "django.db.backends.mysql"):
        assert ids(check_databases_with(database(ENGINE=engine, OPTIONS={}))) == []
    assert ids(check_databases_with(database(ENGINE="django.db.backends.oracle"))) == ["W012"]


class _ToAgents:
    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "agents"


def test_the_database_that_is_looked_at_is_where_the_sessions_are() -> None:
    both = {
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "/tmp/a", "OPTIONS": {}},
        "agents": {"ENGINE": "django.db.backends.sqlite3", "NAME": "/tmp/b", "OPTIONS": SQLITE_OPTIONS},
    }
    assert ids(check_databases_with(both)) == ["W003"]
    assert ids(check_databases_with(both, DATABASE_ROUTERS=[_ToAgents()])) == []


@pytest.mark.parametrize(("age", "expected"), [(0, []), (60, ["W005"]), (None, ["W005"])])
def test_connections_that_are_kept_are_warned_of(age: int | None, expected: list[str]) -> None:
    assert ids(check_databases_with(database(CONN_MAX_AGE=age))) == expected


def test_naive_times_are_warned_of() -> None:
    assert ids_with(check_time_zones, USE_TZ=False) == ["W013"]
    assert ids_with(check_time_zones, USE_TZ=True) == []


# Deployment


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ({}, ["W006"]),
        ({"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}, ["W006"]),
        ({"default": {"BACKEND": "channels_redis.core.RedisChannelLayer"}}, []),
    ],
)
def test_a_layer_of_one_process_is_warned_of(layers: dict[str, Any], expected: list[str]) -> None:
    assert ids_with(check_channel_layer, CHANNEL_LAYERS=layers) == expected


@pytest.mark.parametrize(
    ("debug", "allow", "expected"),
    [
        (False, None, []),
        (True, None, ["W007"]),
        (False, True, ["W007"]),
        (True, False, []),
    ],
)
def test_requests_that_need_no_sign_in_are_warned_of(debug: bool, allow: bool | None, expected: list[str]) -> None:
    values = {} if allow is None else {"ALLOW_LOCAL": allow}
    assert ids_with(check_local_requests, DEBUG=debug, **runner_settings(**values)) == expected
