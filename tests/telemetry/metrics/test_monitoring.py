"""The dashboard and the alert rules that ship: they load, and name nothing that is not told."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.asgi_client import Client
from tests.machine.requirements import require
from tests.telemetry.metrics.scrape import scrape
from visionagents_runner import AgentLauncher
from visionagents_runner.observe import Observed
from visionagents_runner.worker.current import current_worker

DASHBOARD = json.loads((files("visionagents_runner") / "monitoring/grafana-dashboard.json").read_text())
RULES = yaml.safe_load((files("visionagents_runner") / "monitoring/prometheus-rules.yml").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
VALUES = {"$__rate_interval": "5m", "$job": ".*", "$agent": ".*"}


@pytest.fixture
def promtool() -> str:
    return require("promtool")


def plain(query: str) -> str:
    for name, value in VALUES.items():
        query = query.replace(name, value)
    return query


async def test_every_metric_and_label_that_they_name_is_told(serve: Any, allow_local: None) -> None:
    from tests.agents import create_agent, join_call

    client: Client = await serve(
        launchers={"default": AgentLauncher(create_agent, join_call, max_concurrent_sessions=3)}  # type: ignore[arg-type]
    )
    worker = current_worker()
    assert worker is not None
    turn = {"how": "speech", "total_ms": 5, "end_of_turn_ms": 1, "recognition_ms": 1, "model_ms": 1, "voice_ms": 1}
    worker.instruments.happened("default", Observed("turn", turn, 0.0))
    worker.instruments.happened("default", Observed("error", {"component": "llm"}, 0.0))
    page = await scrape(client)
    for query in [*QUERIES, *(rule["expr"] for rule in ALERTS)]:
        names = re.findall(r"\b(?:visionagents|process)_\w+", query)
        assert names, query
        assert set(names) <= page.names, query
        for name, matchers in re.findall(r"\b((?:visionagents|process)_\w+)\{([^}]*)\}", query):
            asked = set(re.findall(r"(\w+)=", matchers)) - {"job", "instance"}
            assert asked <= page.labels_of(name), query


def test_each_label_value_that_they_look_for_is_one_that_there_is() -> None:
    from visionagents_runner.models import EndReason, SessionStatus
    from visionagents_runner.store.queue_stats import FOR
    from visionagents_runner.telemetry.instruments import OUTCOMES

    known = {
        "outcome": set(OUTCOMES),
        "reason": set(EndReason.values),
        "status": set(SessionStatus.values),
        "state": {"running", "draining", "silent"},
        "how": {"speech", "text"},
        "waits_for": set(FOR),
    }
    for query in [*QUERIES, *(rule["expr"] for rule in ALERTS)]:
        for label, values in re.findall(r'(\w+)=~?"([^"$]*)"', query):
            assert set(values.split("|")) <= known[label], query


def test_the_dashboard_is_whole() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "job", "agent"]
    for panel in PANELS:
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.parametrize("what", ["rules", "dashboard"])
def test_prometheus_itself_reads_them(promtool: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    rules = [{"record": f"panel:{number}", "expr": plain(query)} for number, query in enumerate(QUERIES)]
    path.write_text(yaml.safe_dump(RULES if what == "rules" else {"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(ALERTS if what == 'rules' else rules)} rules found" in done.stdout


ALERT_TESTS = """
rule_files: [rules.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'visionagents_starts_total{job="a",agent="x",outcome="started"}', values: "0+10x40"}
      - {series: 'visionagents_starts_total{job="a",agent="x",outcome="failed"}', values: "0+1x40"}
      - {series: 'visionagents_starts_total{job="a",agent="y",outcome="started"}', values: "0+10x40"}
      - {series: 'visionagents_starts_total{job="a",agent="x",outcome="limit_reached"}', values: "0+6x40"}
      - {series: 'visionagents_starts_placed_total{job="a",agent="x"}', values: "0+6x40"}
      - {series: 'visionagents_starts_total{job="a",agent="y",outcome="limit_reached"}', values: "0+6x40"}
      - {series: 'visionagents_starts_placed_total{job="a",agent="y"}', values: "0+5x40"}
      - {series: 'visionagents_refused_total{job="a",what="turns",by="invitation"}', values: "0+600x40"}
      - {series: 'visionagents_refused_total{job="a",what="turns",by="user"}', values: "0+6x40"}
      - {series: 'visionagents_overloaded{job="a",instance="w1"}', values: "0x20 1x20"}
      - {series: 'visionagents_cluster_sessions{job="a",instance="w1",agent="x",status="active"}', values: "19x40"}
      - {series: 'visionagents_cluster_sessions{job="a",instance="w2",agent="x",status="active"}', values: "19x40"}
      - {series: 'visionagents_cluster_capacity_sessions{job="a",instance="w1"}', values: "20x40"}
      - {series: 'visionagents_cluster_workers{job="a",instance="w1",state="running"}', values: "1x40"}
      - {series: 'visionagents_cluster_queue_oldest_seconds{job="a",instance="w1",agent="x",waits_for="worker"}', values: "0+30x40"}
      - {series: 'visionagents_cluster_queue_oldest_seconds{job="a",instance="w1",agent="x",waits_for="limit"}', values: "59x40"}
    alert_rule_test:
      - eval_time: 2m
        alertname: AgentSessionsWait
      - eval_time: 30m
        alertname: AgentSessionsHeldByLimit
      - eval_time: 15m
        alertname: AgentWorkerOverloaded
      - eval_time: 30m
        alertname: AgentNoWorker
    promql_expr_test:
      - {expr: 'count(ALERTS{alertstate="firing",alertname="AgentStartsFail",agent="x"})', eval_time: 30m, exp_samples: [{value: 1, labels: "{}"}]}
      - {expr: 'count(ALERTS{alertstate="firing",alertname="AgentStartsFail",agent="y"})', eval_time: 30m}
      - {expr: 'count(ALERTS{alertstate="firing",alertname="AgentWorkerOverloaded"})', eval_time: 30m, exp_samples: [{value: 1, labels: "{}"}]}
      - {expr: 'count by (agent) (ALERTS{alertstate="firing",alertname="AgentStartsRefused"})', eval_time: 30m, exp_samples: [{value: 1, labels: '{agent="y"}'}]}
      - {expr: 'count by (by) (ALERTS{alertstate="firing",alertname="AgentShareRefused"})', eval_time: 30m, exp_samples: [{value: 1, labels: '{by="invitation"}'}]}
      - {expr: 'count(ALERTS{alertstate="firing",alertname="AgentSessionsWait",agent="x"})', eval_time: 3m, exp_samples: [{value: 1, labels: "{}"}]}
      - {expr: 'count(ALERTS{alertstate="firing",alertname="AgentCapacityNearlyUsed"})', eval_time: 30m, exp_samples: [{value: 1, labels: "{}"}]}
"""  # noqa: E501


def test_alerts_fire_when_they_should_and_only_then(promtool: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(RULES))
    (tmp_path / "tests.yml").write_text(ALERT_TESTS)
    done = subprocess.run(
        [promtool, "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
