"""Keys and passwords in texts of errors: a library's message may quote the request that failed."""

from __future__ import annotations

import re
import traceback

from .text import visible

MAX_ERROR_CHARACTERS = 60 * 1024

_AS = r"[\"']?\s{0,4}[:=]\s{0,4}[\"']?"
_NAMES = r"(?:(?:api|access|private|secret|client|auth)[_-]?)?(?:key|token|secret)|passw(?:or)?d|pwd|sessionid"
_SERVICES = (
    *("whsec_", "sk-", "sk_", "rk_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xoxa-", "xoxb-"),
    *("xoxp-", "AKIA", "ASIA", "AIza", "hf_", "gsk_", "r8_", "npm_", "SG."),
)

# Each begins at the start of a word, and looks no further than so many characters: the search is linear. What follows a
# name like "token" counts only if it has a digit: in a line of code it is most often another name.
_PATTERNS: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = tuple(
    (tuple(needed.split()), re.compile(pattern, re.ASCII | re.DOTALL), shown)
    for needed, pattern, shown in (
        ("://", r"(?<=://)([^\s/@:]{0,256}:)[^\s/]{1,1024}(?=@)", r"\1***"),
        (
            "-----begin",
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)",
            "***",
        ),
        ("va_", r"(?<![\w-])(va_[0-9a-z]{10})_[0-9A-Za-z]{43}(?!\w)", r"\1_***"),
        (
            " ".join(_SERVICES).lower(),
            rf"(?<![\w-])({'|'.join(map(re.escape, _SERVICES))})[\w./+=-]{{12,}}",
            r"\1***",
        ),
        ("eyj", r"(?<![\w.-])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+", "***"),
        (
            "authorization",
            rf"(?i:(?<![a-z0-9])(authorization{_AS}(?:(?:bearer|basic|token|digest)\s{{1,4}})?))[^\s\"',;]+",
            r"\1***",
        ),
        ("bearer", r"(?i:(?<![a-z0-9])(bearer\s{1,4}))(?=[^\s0-9]{0,64}[0-9])[\w.~+/=-]{8,}", r"\1***"),
        (
            "key token secret passw pwd sessionid",
            rf"(?i:(?<![a-z0-9])((?:{_NAMES}){_AS}))(?=[^\s\"',;&)}}\]0-9]{{0,64}}[0-9])[^\s\"',;&)}}\]]{{6,}}",
            r"\1***",
        ),
    )
)
"""Each with what a text has to hold, in small letters, to be worth the search."""


def without_credentials(text: str) -> str:
    """Return ``text`` with ``***`` in place of what has the form of a key or password.

    It knows the forms in common use: passwords in URLs, ``Authorization``, the keys of well-known services and of this
    one, private keys, and what is called a key, token, secret or password. It is a net, no promise.
    """
    small = text.lower()
    for needed, pattern, shown in _PATTERNS:
        if any(map(small.__contains__, needed)):
            text = pattern.sub(shown, text)
    return text


def error_text(error: BaseException) -> str:
    """Return the traceback of ``error`` as it may be kept: lines of code, never values of variables."""
    text = "".join(traceback.format_exception(error))
    if len(text) > MAX_ERROR_CHARACTERS:
        half = MAX_ERROR_CHARACTERS // 2
        text = f"{text[:half]}\n[...]\n{text[-half:]}"
    return visible(without_credentials(text))
