"""Rows in every state, and people with one permission each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db.models.functions import Now
from django.test import Client

from visionagents_runner.models import AgentSession, EndReason, SessionStatus, Worker

LIST = "/admin/visionagents_runner/agentsession/"
WORKERS = "/admin/visionagents_runner/worker/"


def page_of(session: AgentSession) -> str:
    return f"{LIST}{session.pk}/change/"


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Every test here needs one."""


@pytest.fixture
def worker() -> Worker:
    return Worker.objects.create(hostname="web-1.example", pid=4211, capacity=10)


@pytest.fixture
def silent_worker() -> Worker:
    silent = Worker.objects.create(hostname="web-2.example", pid=77)
    Worker.objects.filter(pk=silent.pk).update(heartbeat_at=Now() - timedelta(hours=1))
    return silent


@pytest.fixture
def make(worker: Worker) -> Callable[..., AgentSession]:
    """Make a session in a state by the models' own methods: ``make("call", "closing", ...)``."""

    def make(call_id: str = "call", status: str = "active", **values: Any) -> AgentSession:
        reason, error = values.pop("reason", EndReason.FINISHED), values.pop("error", "")
        queued = status == SessionStatus.QUEUED
        values.setdefault("worker", None if queued else worker)
        session = AgentSession(call_id=call_id, status="queued" if queued else "starting", **values)
        session.insert()
        if status not in {"queued", "starting"}:
            session.mark_active(agent_id="agent-1")
        if status == "closing":
            session.mark_closing(by="test")
        if status == "unreachable":
            AgentSession.objects.filter(pk=session.pk).mark_unreachable()
        if status in {"closed", "failed", "lost"}:
            session.finish(reason, error=error)
        session.refresh_from_db()
        assert session.status == status
        return session

    return make


@pytest.fixture
def sign_in() -> Callable[..., Client]:
    """Return a client of a member of staff with these permissions (``view_agentsession`` unless told otherwise)."""

    def sign_in(*codenames: str, view: bool = True) -> Client:
        user = get_user_model().objects.create_user("staff", is_staff=True)
        wanted = {*codenames, *(["view_agentsession", "view_worker"] if view else [])}
        permissions = Permission.objects.filter(content_type__app_label="visionagents_runner", codename__in=wanted)
        assert {permission.codename for permission in permissions} == wanted
        user.user_permissions.set(permissions)
        client = Client()
        client.force_login(user)
        return client

    return sign_in


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root"))
    return client
