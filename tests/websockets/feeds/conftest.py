"""Live feeds as the ASGI application serves them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client as DjangoClient

from tests.auth.keys.fixtures import afresh
from tests.websockets.calls.client import Socket
from tests.websockets.calls.conftest import Server, allow_local, serve, server
from visionagents_runner.messaging import notifications

__all__ = ["afresh", "allow_local", "serve", "server"]

ACK_EVERY = 20


class Feed(Socket):
    """Acknowledges what it receives, unless it is ``frozen``."""

    frozen = False
    is_live = False

    async def _send(self, event: dict[str, Any]) -> None:
        await super()._send(event)
        self.is_live |= '"type":"live"' in event.get("text", "")
        if event["type"] == "websocket.send" and self.count % ACK_EVERY == 0 and not self.frozen:
            self.ack()

    async def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Return the next event of that kind; what came before it is forgotten."""
        while (message := await self.hear("event", **fields))["kind"] != kind:
            pass
        return message

    async def all(self, **hello: Any) -> list[dict[str, Any]]:
        """Say hello; return everything that comes until the feed closes."""
        self.send("hello", v=1, **hello)
        await self.end()
        return self.received


def feed(server: Server, session_id: Any, **options: Any) -> Feed:
    return Feed(server.app, f"/ws/sessions/{session_id}/", **options)


def feed_list(server: Server, **options: Any) -> Feed:
    return Feed(server.app, "/ws/sessions/", **options)


async def ask(session: Any, text: str) -> None:
    """Type something to the agent of a session, and leave its call again."""
    person = session.agent.edge.person()
    await person.say(text)
    person.leave()


def numbers(messages: list[dict[str, Any]]) -> list[int]:
    return [message["seq"] for message in messages if message["type"] == "event"]


def tasks() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("feed")]


@pytest.fixture(autouse=True)
def nothing_listens_any_more() -> Iterator[None]:
    yield
    assert not notifications._news


@sync_to_async
def cookie(*codenames: str, name: str = "viewer") -> tuple[Any, str]:
    """Return a new user with these permissions, and the cookie of their browser."""
    user = get_user_model().objects.create_user(name)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    django = DjangoClient()
    django.force_login(user)
    return user, f"sessionid={django.cookies['sessionid'].value}"


@pytest.fixture
def polls_only(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Callable[..., None]:
    """As if others wrote: nothing tells this process of what is new."""
    tell = notifications._tell

    def tell_no_news(listeners: Any, *values: Any) -> None:
        if listeners is not notifications._news:
            tell(listeners, *values)

    monkeypatch.setattr(notifications, "_tell", tell_no_news)
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "POLL_INTERVAL": 0.05}
    return lambda: None
