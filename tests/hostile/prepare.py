"""Run before the server: makes its database, the people who attack it and what they look at; prints them as JSON."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import django

EVENTS, EVENT_CHARACTERS = 1000, 4000


def main() -> None:
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    print(
        json.dumps(
            {
                "key": _key(),
                "starter": _cookie("starter", start=True),
                "nobody": _cookie("nobody"),
                "long": _long_session(),
            }
        )
    )


def _key() -> str:
    from visionagents_runner.auth import keys
    from visionagents_runner.models import Scope

    _, plain = keys.issue_key(name="hostile", owner=_user("backend"), scopes=list(Scope.values), by="tests")
    return str(plain)


def _user(name: str) -> Any:
    from django.contrib.auth.models import User

    return User.objects.get_or_create(username=name)[0]


def _cookie(name: str, *, start: bool = False) -> str:
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import Permission
    from django.contrib.sessions.backends.db import SessionStore

    user = _user(name)
    if start:
        user.user_permissions.set(Permission.objects.filter(codename__in=["start_agentsession"]))
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return str(session.session_key)


def _long_session() -> str:
    """An ended session with as many and as long events as one page may have."""
    from visionagents_runner.models import AgentSession, EventLine, SessionEvent

    now = datetime.now(UTC)
    row = AgentSession(
        call_id=uuid.uuid4().hex,
        agent="attentive",
        status="closed",
        end_reason="finished",
        started_at=now,
        ended_at=now,
    )
    row.insert()
    text = "What is said goes on and on, \u201clike this\u201d. " * (EVENT_CHARACTERS // 44)
    SessionEvent.objects.append([EventLine(row.pk, "message", now, {"text": text}) for _ in range(EVENTS)])
    return str(row.pk)


if __name__ == "__main__":
    main()
