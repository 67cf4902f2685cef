"""What of an error's text is kept."""

from __future__ import annotations

import pytest

from visionagents_runner.utils.credentials import MAX_ERROR_CHARACTERS, error_text, without_credentials

PASSWORD = "hunter22"
KEY = "Abc123" * 8


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"postgresql://me:{PASSWORD}@db.example/x failed", "postgresql://me:***@db.example/x failed"),
        (f"redis://:p@{PASSWORD}@cache.example", "redis://:***@cache.example"),
        (f"{{'Authorization': 'Bearer {KEY}'}}", "{'Authorization': 'Bearer ***'}"),
        (f"Authorization: Basic {KEY}", "Authorization: Basic ***"),
        (f"with Bearer {KEY}", "with Bearer ***"),
        (f"key va_0123456789_{'a' * 43} is", "key va_0123456789_*** is"),
        (f"Incorrect API key provided: sk-proj-{KEY}.", "Incorrect API key provided: sk-***"),
        (f"whsec_{KEY}", "whsec_***"),
        (f"OPENAI_API_KEY={KEY}", "OPENAI_API_KEY=***"),
        (f'"password": "{PASSWORD}"', '"password": "***"'),
        (f"GET /x?token={KEY}&page=2", "GET /x?token=***&page=2"),
        (f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{KEY}", "***"),
        (f"-----BEGIN RSA PRIVATE KEY-----\n{KEY}\n-----END RSA PRIVATE KEY-----\nrest", "***\nrest"),
        (f"-----BEGIN PRIVATE KEY-----\n{KEY}", "***"),
    ],
)
def test_what_has_the_form_of_a_key_or_password_is_left_out(text: str, kept: str) -> None:
    assert without_credentials(text) == kept
    assert without_credentials(kept) == kept


@pytest.mark.parametrize(
    "text",
    [
        "    token = make_join_token(session)",
        "    key=lambda row: row.pk,",
        "https://docs.example/errors:429",
        "the bearer of news",
        "max_tokens=100000",
        "tokens: 100000",
        "git@github.com:owner/name",
        "KeyError: 'agent'",
    ],
)
def test_code_and_prose_stay(text: str) -> None:
    assert without_credentials(text) == text


def failing(secret: str) -> Exception:
    try:
        raise ConnectionError("cannot reach postgresql://me:hunter22@db\x1b[2J\u202e")
    except ConnectionError as error:
        return error


def test_the_text_of_an_error_has_its_lines_but_no_values_and_no_control_characters() -> None:
    text = error_text(failing("value-of-a-variable"))
    assert "Traceback (most recent call last):" in text
    assert 'raise ConnectionError("cannot reach' in text
    assert "postgresql://me:***@db\\x1b[2J\\u202e" in text.splitlines()[-1]
    assert "value-of-a-variable" not in text
    assert PASSWORD not in text


def test_an_error_that_says_too_much_is_cut_in_its_middle() -> None:
    text = error_text(ValueError("begin " + "x" * 10 * MAX_ERROR_CHARACTERS + " end"))
    assert len(text) < MAX_ERROR_CHARACTERS + 100
    assert "begin" in text
    assert text.rstrip().endswith("end")
