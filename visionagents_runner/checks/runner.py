"""The agents that the project names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004

from ..conf.settings import SETTING
from ..exceptions import RunnerConfigurationError
from .base import TAG, AppConfigs, missing_module, setting_as_written


@register(TAG)
def check_runner(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    """Look for the runner's module without importing it."""
    path = setting_as_written("RUNNER", "")
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
    if problem := missing_module(path):
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
    path = setting_as_written("RUNNER", "")
    if not isinstance(path, str) or not path or missing_module(path):
        return []  # check_settings or check_runner says so
    from ..registry import get_runner  # late: every command loads the checks, and this one is not often asked

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
