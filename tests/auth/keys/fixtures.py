"""Keys, and clients that present them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model

from tests.asgi_client import REMOTE, Client
from visionagents_runner.auth import keys
from visionagents_runner.models import AgentKey


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """Nothing is remembered from the test before, whose rows had the same ids."""
    yield
    keys.forget()
    keys._noted.clear()


def user(name: str = "caller", **fields: Any) -> Any:
    found = get_user_model().objects.filter(username=name).first()
    return found or get_user_model().objects.create_user(name, **fields)  # type: ignore[attr-defined]


def make_key(
    *scopes: str, owner: str = "caller", name: str = "backend", expires_in: timedelta | None = None
) -> tuple[AgentKey, str]:
    return keys.issue_key(name=name, owner=user(owner), scopes=scopes or ["view"], by="test", expires_in=expires_in)


def present(client: Client, plain: str, **changes: Any) -> Client:
    """Return ``client`` on another machine, without a cookie or an Origin, with a key."""
    headers = {"authorization": f"Bearer {plain}"}
    return client.like(**{"peer": REMOTE, "host": "agents.example", "scheme": "https", "headers": headers, **changes})


@sync_to_async
def with_key(client: Client, *scopes: str, **options: Any) -> tuple[Client, AgentKey]:
    row, plain = make_key(*scopes, **options)
    return present(client, plain), row
