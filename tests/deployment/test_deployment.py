"""The deployment page and the files beside it say what is so."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.urls import resolve

import visionagents_runner
from tests.capacity import sizing
from visionagents_runner import AgentLauncher, cli, conf

FOLDER = Path(visionagents_runner.__file__).parent / "deployment"
PAGE = (FOLDER / "README.md").read_text()
MANIFESTS = {manifest["kind"]: manifest for manifest in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
DEFAULTS = conf.RunnerSettings()
CLOSE_TIMEOUT = AgentLauncher(lambda: None, lambda *args: None).close_timeout  # type: ignore[arg-type,return-value]
LONGEST_DRAIN = DEFAULTS.DRAIN_TIMEOUT + 2 * CLOSE_TIMEOUT + 15


def options_of(command: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    cli.add_serve_arguments(parser)
    return parser.parse_args(command[command.index("serveagents") + 1 :])


def unit(name: str) -> dict[str, str]:
    lines = (FOLDER / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_every_file_that_the_page_names_is_there_and_every_file_is_named() -> None:
    linked = set(re.findall(r"\]\(([^):]+)\)", PAGE))
    assert linked == {path.name for path in FOLDER.iterdir()} - {"README.md"}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([A-Z]+_[A-Z_]+)`", PAGE))))
def test_every_setting_that_the_page_names_exists(name: str) -> None:
    others = {
        "DATABASES",
        "DATABASE_URL",
        "REDIS_URL",
        "SECRET_KEY",
        "CHANNEL_LAYERS",
        "ALLOWED_HOSTS",
        "INSTALLED_APPS",
        "PROCRASTINATE_WORKER_DEFAULTS",
    }
    assert name in conf.known_keys() | others


@pytest.mark.parametrize("name", ["agents.service", "agents@.service"])
def test_the_units_start_what_exists_and_wait_for_a_whole_drain(name: str) -> None:
    service = unit(name)
    options = options_of(shlex.split(service["ExecStart"]))
    assert options.host == "127.0.0.1"
    assert int(service["TimeoutStopSec"]) > LONGEST_DRAIN


def test_the_image_starts_what_exists_as_nobody_special() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    [command] = re.findall(r"^CMD (\[.*\])$", text, re.M)
    assert options_of(json.loads(command)).host == "0.0.0.0"
    assert re.search(r"^USER (?!root)", text, re.M)
    [extras] = re.findall(r"/src\[([a-z,]+)\]", text)
    assert set(extras.split(",")) == {"cluster", "postgres", "redis"}


def test_the_probes_ask_what_the_api_answers() -> None:
    asked = {probe: CONTAINER[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    paths = {probe: ask["path"] for probe, ask in asked.items()}
    assert paths == {
        "startupProbe": "/agents/health",
        "readinessProbe": "/agents/ready",
        "livenessProbe": "/agents/health",
    }
    for path in paths.values():
        assert resolve(path.removeprefix("/agents"))
    allowed = MANIFESTS["ConfigMap"]["data"]["ALLOWED_HOSTS"]
    assert all({"name": "Host", "value": allowed} in ask["httpHeaders"] for ask in asked.values())


def test_a_pod_has_the_time_that_its_drain_takes() -> None:
    [before] = [int(part) for part in CONTAINER["lifecycle"]["preStop"]["exec"]["command"] if part.isdigit()]
    assert POD["terminationGracePeriodSeconds"] > before + LONGEST_DRAIN
    strategy: dict[str, Any] = MANIFESTS["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert strategy["maxUnavailable"] == 0


def test_the_autoscaler_asks_for_the_metric_that_the_page_makes() -> None:
    [metric] = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert f"`{metric['pods']['metric']['name']}`" in PAGE or metric["pods"]["metric"]["name"] in PAGE
    assert MANIFESTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "agents"


def test_the_limits_that_the_page_lists_can_be_set() -> None:
    AgentLauncher(
        lambda: None,  # type: ignore[arg-type,return-value]
        lambda *args: None,  # type: ignore[arg-type,return-value]
        max_concurrent_sessions=1,
        max_sessions=1,
        max_sessions_per_call=1,
        restart="on-worker-loss",
    )
    for name in re.findall(r"\| `(max_[a-z_]+)` \|", PAGE):
        assert hasattr(AgentLauncher(lambda: None, lambda *args: None), name)  # type: ignore[arg-type,return-value]


def test_the_sizing_table_is_what_follows_from_what_was_measured() -> None:
    assert sizing.table() in PAGE
    for microseconds in sizing.CPU_US.values():
        assert f"| {_rounded(microseconds)} |" in PAGE


def _rounded(microseconds: float) -> str:
    return f"{microseconds:g} µs" if microseconds < 1000 else f"{microseconds / 1000:.1f} ms"
