"""LIMITS and TRUSTED_PROXIES, and where refusals are seen."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.api.fixtures import allow_local, client, mount, serve
from tests.asgi_client import Client
from tests.checks.test_checks import ids_with, runner_settings
from tests.processes import ROOT
from tests.telemetry.metrics.scrape import scrape
from visionagents_runner import quotas
from visionagents_runner.checks.limits import check_limits
from visionagents_runner.exceptions import TooMany
from visionagents_runner.quotas.limits import Limits

__all__ = ["allow_local", "client", "mount", "serve"]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({}, []),
        ({"LIMITS": {"seats_per_identity": 2, "turns_per_person": "60/m burst 3", "starts_per_worker": None}}, []),
        ({"LIMITS": {"seats_per_identity": 0, "turns_per_person": 0}}, []),
        ({"LIMITS": {"seat_per_identity": 2}}, ["W021"]),
        ({"LIMITS": {"seats_per_identity": "2"}}, ["E021"]),
        ({"LIMITS": {"turns_per_person": 5, "starts_per_worker": "often"}}, ["E021", "E021"]),
        ({"LIMITS": "none"}, []),
        ({"TRUSTED_PROXIES": ["127.0.0.1", "10.0.0.0/8", "::1"]}, []),
        ({"TRUSTED_PROXIES": ["proxy.example"]}, ["E022"]),
        ({"TRUSTED_PROXIES": ["0.0.0.0/0"]}, ["W022"]),
        ({"TRUSTED_PROXIES": "10.0.0.1"}, []),
    ],
)
def test_what_makes_no_sense_is_told(values: dict[str, Any], found: list[str]) -> None:
    assert ids_with(check_limits, **runner_settings(**values)) == found


@pytest.mark.parametrize("mount", ["lean"], indirect=True)
async def test_what_was_refused_is_told_to_prometheus_from_the_first_on(client: Client, limit: Any) -> None:
    limit(turns_per_identity="1/m burst 1")
    assert (await scrape(client))("refused_total", what="turns", by="invitation") == 0
    quotas.spend("turns", identity="invitation:abc")
    with pytest.raises(TooMany):
        quotas.spend("turns", identity="invitation:abc")
    page = await scrape(client)
    assert page("refused_total", what="turns", by="invitation") == 1
    assert page("refused_total", what="seats", by="call") == 0


def test_the_page_of_limits_lists_every_one_with_its_default() -> None:
    page = (ROOT / "docs" / "reference" / "limits.md").read_text()
    listed = {}
    for names, values in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ((?:`[^`]+`(?:, )?)+) \|", page, re.MULTILINE):
        listed |= dict(zip(re.findall(r"`([^`]+)`", names), re.findall(r"`([^`]+)`", values), strict=False))
    defaults = {name: str(getattr(Limits(), name)) for name in Limits.__dataclass_fields__}
    assert {name: listed.get(name) for name in defaults} == defaults
