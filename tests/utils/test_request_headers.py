"""Headers are read within bounds, and as Django reads them."""

from __future__ import annotations

import pytest
from django.http import parse_cookie

from visionagents_runner.utils.request_headers import find_cookie, why_refused

COOKIES = [
    "",
    ";;",
    "sessionid",
    "sessionid=",
    "sessionid=abc",
    "a=b; sessionid=abc; c=d",
    "a=b;sessionid = abc ;c=d",
    "sessionid=one; sessionid=two",
    'sessionid="abc"',
    'sessionid="',
    "xsessionid=abc; sessionidx=abc",
    "sessionid=a=b",
]


@pytest.mark.parametrize("header", COOKIES)
def test_a_cookie_is_found_as_django_finds_it(header: str) -> None:
    assert find_cookie([header], "sessionid") == parse_cookie(header).get("sessionid")


def test_cookies_are_looked_for_in_all_headers_and_not_unquoted() -> None:
    assert find_cookie(["sessionid=abc", "b=c"], "sessionid") == "abc"
    assert find_cookie(['sessionid="' + "\\" * 8000 + '"'], "sessionid") == "\\" * 8000
    assert find_cookie(["sessionid=" + "x" * 10_000], "sessionid") is None


def test_headers_without_measure_are_refused() -> None:
    browser = [(b"host", b"localhost"), (b"cookie", b'a="\\303\\251"; ' * 90), (b"user-agent", b"x" * 500)]
    assert why_refused(browser) is None
    assert "256 headers" in (why_refused([(b"a", b"")] * 257) or "")
    assert "65536 bytes" in (why_refused([(b"a", b"x" * 70_000)]) or "")
    assert "2000 backslashes" in (why_refused([(b"cookie", b'a="' + b"\\" * 1500)] * 2) or "")
