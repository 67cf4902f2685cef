"""From which address somebody comes."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.test import RequestFactory

from visionagents_runner.quotas import address_of, address_of_request, who


def scope(peer: str | None, port: int = 50000, **headers: str) -> dict[str, Any]:
    sent = [(name.replace("_", "-").encode(), value.encode("latin1")) for name, value in headers.items()]
    return {"client": None if peer is None else (peer, port), "headers": sent}


@pytest.fixture
def proxies(settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {
        **settings.VISIONAGENTS_RUNNER,
        "TRUSTED_PROXIES": ["127.0.0.1", "10.0.0.0/8", "2001:db8:ffff::/48"],
    }


@pytest.fixture(autouse=True)
def warn_again() -> None:
    who._warn_of_proxy.cache_clear()


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("192.168.1.20", "192.168.1.20"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("", None),
        ("testclient", None),
        (None, None),
    ],
)
def test_the_address_is_the_peers_and_a_household_of_ipv6_is_one(peer: str | None, address: str | None) -> None:
    assert address_of(scope(peer)) == address


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.1.2.3", "198.51.100.9", "198.51.100.9"),
        ("10.1.2.3", "1.1.1.1, 198.51.100.9", "198.51.100.9"),  # what the client itself made up stands first
        ("127.0.0.1", "198.51.100.9, 10.9.9.9", "198.51.100.9"),
        ("10.1.2.3", "198.51.100.9:4711", "198.51.100.9"),
        ("10.1.2.3", "[2001:db8:1:2::9]:4711", "2001:db8:1:2::/64"),
        ("2001:db8:ffff::1", "198.51.100.9", "198.51.100.9"),
        ("10.1.2.3", "198.51.100.9, unknown", None),
        ("10.1.2.3", "10.4.4.4", None),
        ("10.1.2.3", "", None),
        ("203.0.113.7", "198.51.100.9", "203.0.113.7"),  # no proxy of ours
    ],
)
def test_behind_a_trusted_proxy_it_is_the_last_that_is_none_of_ours(
    proxies: None, peer: str, forwarded: str, address: str | None
) -> None:
    assert address_of(scope(peer, x_forwarded_for=forwarded)) == address


def test_the_standard_header_counts_too(proxies: None) -> None:
    sent = 'for=1.1.1.1, for="[2001:db8:1:2::9]:47";proto=https;by=10.0.0.1, for=10.3.3.3'
    assert address_of(scope("127.0.0.1", forwarded=sent)) == "2001:db8:1:2::/64"
    assert address_of(scope("127.0.0.1", forwarded="proto=https")) is None


def test_only_so_many_hops_are_read(proxies: None) -> None:
    assert address_of(scope("10.1.2.3", x_forwarded_for="198.51.100.9" + ", 10.0.0.1" * 5000)) is None


@pytest.mark.parametrize("header", ["x_forwarded_for", "forwarded", "x_real_ip", "via"])
def test_behind_a_proxy_that_nobody_named_all_are_one_crowd_and_the_log_says_so_once(
    header: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert address_of(scope("10.1.2.3", **{header: "198.51.100.9"})) is None
    (record,) = caplog.records
    assert "TRUSTED_PROXIES" in record.getMessage()
    assert "10.1.2.3" in record.getMessage()


def test_what_uvicorn_has_put_in_place_of_its_proxy_counts() -> None:
    assert address_of(scope("192.168.1.20", 0, x_forwarded_for="192.168.1.20")) == "192.168.1.20"


def test_a_stranger_who_sends_the_headers_of_a_proxy_is_counted_by_the_own_address() -> None:
    assert address_of(scope("203.0.113.7", x_forwarded_for="198.51.100.9")) == "203.0.113.7"


def test_a_request_under_wsgi_has_an_address_too(proxies: None) -> None:
    request = RequestFactory().get("/", REMOTE_ADDR="203.0.113.7")
    assert address_of_request(request) == "203.0.113.7"
    request = RequestFactory().get("/", REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR="1.1.1.1, 198.51.100.9")
    assert address_of_request(request) == "198.51.100.9"


def test_endless_addresses_are_none_and_are_not_remembered(proxies: None) -> None:
    before = who._parse.cache_info().currsize
    for number in range(10):
        endless = f"{number}" + 60_000 * "x"
        assert address_of(scope(endless, port=0)) is None  # uvicorn takes what a proxy of this machine passes on
        assert address_of(scope("10.1.2.3", x_forwarded_for=endless)) is None
    assert who._parse.cache_info().currsize <= before + 1
