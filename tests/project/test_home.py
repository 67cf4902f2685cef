"""The page of the shipped project."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from visionagents_runner.models import AgentSession


@pytest.mark.django_db
def test_it_lists_the_agents_with_how_many_are_live_and_tells_no_call_ids(client: Client) -> None:
    AgentSession(call_id="secret-call", agent="default").insert()
    page = client.get("/").content.decode()
    assert "<h2>default</h2>" in page
    assert "1 live" in page
    assert "secret-call" not in page


@pytest.mark.django_db
def test_its_links_lead_somewhere(client: Client, django_user_model: Any) -> None:
    client.force_login(django_user_model.objects.create_superuser("root"))
    for path in ("/docs", "/admin/visionagents_runner/agentsession/"):
        assert f'href="{path}"' in client.get("/").content.decode()
        assert client.get(path).status_code == 200
