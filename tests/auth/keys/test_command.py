"""``manage.py createagentkey``."""

from __future__ import annotations

import re
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.auth.keys.fixtures import user
from visionagents_runner.models import AgentKey
from visionagents_runner.models.key import digest_of
from visionagents_runner.utils.durations import parse_duration

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command("createagentkey", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_it_prints_the_key_alone_and_the_words_elsewhere() -> None:
    owner = user()
    out, err = run("--name", "backend", "--owner", "caller", "--scope", "start", "--scope", "close", "--expires", "90d")
    assert re.fullmatch(r"va_[0-9a-z]{10}_[0-9A-Za-z]{43}\n", out)
    row = AgentKey.objects.get()
    assert row.digest == digest_of(out.strip())
    assert (row.name, row.owner, row.scopes) == ("backend", owner, ["close", "start"])
    assert row.created_by == "createagentkey"
    assert row.expires_at is not None
    assert row.expires_at - row.created_at == timedelta(days=90)
    assert "shown this once" in err
    assert out.strip() not in err


@pytest.mark.parametrize("expires", [(), ("--expires", "never")])
def test_a_key_may_count_until_it_is_revoked(expires: tuple[str, ...]) -> None:
    user()
    _, err = run("--name", "backend", "--owner", "caller", "--scope", "metrics", *expires)
    assert AgentKey.objects.get().expires_at is None
    assert "until it is revoked" in err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--owner": "nobody"}, "There is no user 'nobody'"),
        ({"--owner": "gone"}, "not active"),
        ({"--scope": "root"}, "invalid choice"),
        ({"--scope": None}, "required: --scope"),
        ({"--name": None}, "required: --name"),
        ({"--name": "two\nlines"}, "printable"),
        ({"--name": " "}, "needs a name"),
        ({"--expires": "90"}, "no length of time"),
        ({"--expires": "0d"}, "above 0"),
        ({"--expires": "-1d"}, "expected one argument"),
        ({"--expires": "99999999999w"}, "longer than anything"),
    ],
)
def test_a_mistake_is_one_sentence_and_makes_nothing(changes: dict[str, Any], words: str) -> None:
    user()
    user("gone", is_active=False)
    options = {"--name": "backend", "--owner": "caller", "--scope": "start", **changes}
    with pytest.raises(CommandError) as raised:
        run(*[part for option, value in options.items() if value is not None for part in (option, value)])
    assert words in str(raised.value)
    assert not AgentKey.objects.exists()


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("30d", timedelta(days=30)),
        ("1w 2d", timedelta(days=9)),
        (" 12H ", timedelta(hours=12)),
        ("1.5h", timedelta(minutes=90)),
        ("90m", timedelta(minutes=90)),
        ("1s", timedelta(seconds=1)),
    ],
)
def test_lengths_of_time_are_read_as_people_write_them(text: str, length: timedelta) -> None:
    assert parse_duration(text) == length


@pytest.mark.parametrize("text", ["", "d", "30", "30 days", "1d-2h", "1y", "1e3d", "nan d", "30dd", "1d,2h"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="length of time"):
        parse_duration(text)
