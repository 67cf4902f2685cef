"""The pages about deployment, and the files that they are about, say what is so."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.urls import resolve

import visionagents_runner
from project import settings as shipped
from tests.capacity import sizing
from tests.processes import ROOT
from visionagents_runner import AgentLauncher
from visionagents_runner.cli import main
from visionagents_runner.conf import settings
from visionagents_runner.server.main import choose_server
from visionagents_runner.store import database

FOLDER = Path(visionagents_runner.__file__).parent / "deployment"
PAGES = ("deployment", "kubernetes", "many-workers", "proxies-and-tls", "size-a-cluster")
HOW_TO = "\n".join((ROOT / "docs" / "how-to" / f"{name}.md").read_text() for name in PAGES)
LIMITS = (ROOT / "docs" / "reference" / "limits.md").read_text()
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
NGINX = (FOLDER / "nginx.conf").read_text()
MIGRATION = yaml.safe_load((FOLDER / "kubernetes-migrate.yaml").read_text())
MONITOR = yaml.safe_load((FOLDER / "podmonitor.yaml").read_text())
MANIFESTS = {manifest["kind"]: manifest for manifest in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
PROBES = {probe: CONTAINER[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
POD_IP = "10.244.1.7"
DEFAULTS = settings.RunnerSettings()
CLOSE_TIMEOUT = AgentLauncher(lambda: None, lambda *args: None).close_timeout  # type: ignore[arg-type,return-value]
LONGEST_DRAIN = DEFAULTS.DRAIN_TIMEOUT + 2 * CLOSE_TIMEOUT + 15


def options_of(command: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    main.add_serve_arguments(parser)
    return parser.parse_args(command[command.index("serveagents") + 1 :])


def image_command() -> list[str]:
    [command] = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.M)
    return [str(part) for part in json.loads(command)]


def pod_environment() -> dict[str, str]:
    """Return what the container gets, without what the Secret has."""
    found = {"REDIS_URL": "", "SECRET_KEY": "deployment", "DJANGO_SETTINGS_MODULE": "project.settings"}
    for variable in CONTAINER["env"]:
        if "valueFrom" in variable:
            assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
            found[variable["name"]] = POD_IP
        else:
            found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found[name[1]], variable["value"])
    return found


def ask(port: int, path: str, host: str, **headers: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": host, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def answer_in_time(server: subprocess.Popen[bytes], port: int, path: str, host: str) -> int | None:
    """Return the first status that is not 503: the worker warms up."""
    status, deadline = None, time.monotonic() + 90
    while status in {None, 503} and server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
        with suppress(OSError):
            status = ask(port, path, host)[0]
    return status


def unit(name: str) -> dict[str, str]:
    lines = (FOLDER / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_every_file_that_the_pages_name_is_there_and_every_file_is_named() -> None:
    linked = set(re.findall(r"\]\(\.\./\.\./visionagents_runner/deployment/([^)]+)\)", HOW_TO))
    assert linked == {path.name for path in FOLDER.iterdir()}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([A-Z]+_[A-Z_]+)`", HOW_TO + LIMITS))))
def test_every_setting_that_the_pages_name_exists(name: str) -> None:
    others = {
        "DATABASES",
        "DATABASE_URL",
        "REDIS_URL",
        "SECRET_KEY",
        "SECRET_KEY_FALLBACKS",
        "CHANNEL_LAYERS",
        "ALLOWED_HOSTS",
        "FORWARDED_ALLOW_IPS",
        "STATIC_ROOT",
        "WEB_CONCURRENCY",
        "INSTALLED_APPS",
        "PROCRASTINATE_WORKER_DEFAULTS",
        "SECURE_HSTS_SECONDS",
        "SECURE_PROXY_SSL_HEADER",
        "SECURE_SSL_REDIRECT",
    }
    assert name in settings.known_keys() | others


@pytest.mark.parametrize("name", ["agents.service", "agents@.service"])
def test_the_units_start_what_exists_and_wait_for_a_whole_drain(name: str) -> None:
    service = unit(name)
    options = options_of(shlex.split(service["ExecStart"]))
    assert options.host == "127.0.0.1"
    # Behind nginx: daphne does not know that the page came by https.
    assert choose_server(options.server, int(options.workers or 1))[0] == "uvicorn"
    assert int(service["TimeoutStopSec"]) > LONGEST_DRAIN


def test_the_image_starts_what_exists_as_nobody_special() -> None:
    options = options_of(image_command())
    assert options.host == "0.0.0.0"
    assert options.server == "uvicorn"
    [made] = re.findall(r"useradd .*--uid (\d+)", DOCKERFILE)
    # Kubernetes cannot tell of a name that it is not root, and does not start the container.
    [user] = re.findall(r"^USER (.*)$", DOCKERFILE, re.M)
    assert user == made != "0"
    assert CONTAINER["securityContext"]["runAsNonRoot"] is True
    assert set(re.findall(r"/src\[([a-z,]+)\]", DOCKERFILE)) == {"cluster"}


def test_the_image_has_of_the_project_what_is_there_and_nothing_else() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    copied = [line.split()[1] for line in last.splitlines() if line.startswith("COPY ") and "--from" not in line]
    assert copied == ["manage.py", "project", "templates"]
    assert all((ROOT / name).exists() for name in copied)


def test_what_git_is_not_to_keep_is_kept_out_of_the_image_too() -> None:
    text = (FOLDER / ".dockerignore").read_text()
    assert (ROOT / ".dockerignore").read_text() == text
    ignored = {line.removeprefix("**/").strip("/") for line in text.splitlines() if line and not line.startswith("#")}
    covered = {".git", *(line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line)}
    patterns = {
        "db.sqlite3*": "*.sqlite3*",
        **dict.fromkeys([".pytest_cache", ".mypy_cache", ".ruff_cache"], ".*_cache"),
    }
    assert {patterns.get(name, name) for name in covered} <= ignored


def test_without_debug_the_shipped_project_serves_its_static_files_where_whitenoise_is_installed(
    tmp_path: Path,
) -> None:
    (tmp_path / "whitenoise.py").touch()
    code = "from project import settings; print(settings.MIDDLEWARE[1], settings.VISIONAGENTS_RUNNER['LEAN_API'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "DEBUG": "0", "SECRET_KEY": "deployment"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["whitenoise.middleware.WhiteNoiseMiddleware", "True"], done.stderr
    assert "whitenoise" in DOCKERFILE
    assert f"location /{shipped.STATIC_URL.strip('/')}/ {{" in NGINX
    assert f"/{shipped.STATIC_ROOT.name}/;" in NGINX


def test_nginx_takes_no_worker_out_for_a_503_and_asks_another_one_for_a_start() -> None:
    servers = re.findall(r"^ +server (127\S+) (.*);$", NGINX, re.M)
    assert {options for _, options in servers} == {"max_fails=0"}
    ports = {address.rpartition(":")[2] for address, _ in servers}
    assert ports == set(re.findall(r"\bagents@(\d+)", (FOLDER / "agents@.service").read_text()))
    [starts] = re.findall(r"location ~ (\S+) \{", NGINX)
    for path in ("/sessions", "/calls/room-1/sessions"):
        assert resolve(path)
        assert re.search(starts, path)
        assert re.search(starts, f"/agents{path}")
    for path in ("/sessions/1", "/sessions/1/say", "/ws/sessions/", "/admin/"):
        assert not re.search(starts, path)


def test_the_probes_ask_what_the_api_of_the_image_answers() -> None:
    assert PROBES == {"startupProbe": "/health", "readinessProbe": "/ready", "livenessProbe": "/health"}
    for path in PROBES.values():
        assert resolve(path)


def test_the_migrations_are_a_job_of_their_own_each_time() -> None:
    assert "Job" not in MANIFESTS
    assert "name" not in MIGRATION["metadata"]
    assert MIGRATION["metadata"]["generateName"]
    pod = MIGRATION["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["restartPolicy"] == "Never"
    assert container["image"] == CONTAINER["image"]
    # It runs before what kubernetes.yaml makes is there.
    assert container["envFrom"] == [{"secretRef": {"name": "agents"}}]
    assert "kubectl create -f kubernetes-migrate.yaml" in HOW_TO


def test_prometheus_finds_the_pods_and_the_key() -> None:
    assert MONITOR["spec"]["selector"] == MANIFESTS["Deployment"]["spec"]["selector"]
    [endpoint] = MONITOR["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in CONTAINER["ports"]}
    secret = endpoint["authorization"]["credentials"]
    assert f"create secret generic {secret['name']} --from-literal={secret['key']}=" in HOW_TO


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_pod_answers_the_kubelet_and_prometheus(tmp_path: Path) -> None:
    environment = {**os.environ, **pod_environment(), "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}"}
    made = """
from django.contrib.auth.models import User
from django.core.management import call_command
call_command("migrate", verbosity=0)
User.objects.create_user("prometheus")
call_command("createagentkey", "--name", "prometheus", "--owner", "prometheus", "--scope", "metrics")
"""
    shell = [sys.executable, "manage.py", "shell", "--no-imports", "-c", made]
    done = subprocess.run(shell, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    key = done.stdout.split()[-1]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, *image_command()[1:], "--port", str(port), "--host", "127.0.0.1"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        host, metrics = f"{POD_IP}:8000", MONITOR["spec"]["podMetricsEndpoints"][0]["path"]
        for path in PROBES.values():
            assert answer_in_time(server, port, path, host) == 200, (tmp_path / "log").read_text()
        bearer = {"Authorization": f"Bearer {key}", "Accept": "application/openmetrics-text;version=1.0.0,text/plain"}
        status, text = ask(port, metrics, host, **bearer)
        assert status == 200
        assert "\nvisionagents_sessions{" in text
        assert "\nvisionagents_capacity_sessions " in text
        assert ask(port, metrics, host)[0] == 401
        assert ask(port, metrics, "10.244.1.8:8000", **bearer)[0] == 400
        assert ask(port, metrics, "agents.example", **bearer)[0] == 200
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(30)
        finally:
            server.kill()
            server.wait()


def test_a_pod_has_the_time_that_its_drain_takes() -> None:
    [before] = [int(part) for part in CONTAINER["lifecycle"]["preStop"]["exec"]["command"] if part.isdigit()]
    assert POD["terminationGracePeriodSeconds"] > before + LONGEST_DRAIN
    strategy: dict[str, Any] = MANIFESTS["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert strategy["maxUnavailable"] == 0


def test_the_autoscaler_asks_for_the_metric_that_its_page_makes() -> None:
    [metric] = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert f"name: {{as: {metric['pods']['metric']['name']}}}" in HOW_TO
    assert "replicas" not in MANIFESTS["Deployment"]["spec"]  # each `kubectl apply` would set it back
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
    for name in re.findall(r"\| `(max_[a-z_]+)` \|", LIMITS):
        assert hasattr(AgentLauncher(lambda: None, lambda *args: None), name)  # type: ignore[arg-type,return-value]


def test_the_sizing_table_is_what_follows_from_what_was_measured() -> None:
    assert sizing.table() in HOW_TO
    assert len((database._writer, *database._readers, database._pulse, database._reaper)) == sizing.LANES
    pool = shipped._database("postgresql://server/name")["OPTIONS"]["pool"]
    assert (pool["min_size"], pool["max_size"]) == sizing.POOL
    [jobs] = re.findall(
        r"^_CONNECTIONS = (\d+)$", (FOLDER.parent / "dispatch" / "procrastinate" / "worker.py").read_text(), re.M
    )
    assert int(jobs) + 1 == sizing.ENGINE
    for microseconds in sizing.CPU_US.values():
        assert f"| {_rounded(microseconds)} |" in HOW_TO


def _rounded(microseconds: float) -> str:
    return f"{microseconds:g} µs" if microseconds < 1000 else f"{microseconds / 1000:.1f} ms"
