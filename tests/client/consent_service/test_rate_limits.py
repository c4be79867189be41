"""Counting by customer and by network."""

from __future__ import annotations

import pytest

from client.consent_service.config import LimitSettings
from client.consent_service.problems import ProblemError
from client.consent_service.rate_limits import RateLimits


def test_an_ipv6_network_counts_as_one() -> None:
    limits = RateLimits(LimitSettings(requests_per_minute=2))
    limits.count_request("2001:db8::1")
    limits.count_request("2001:db8::2")
    with pytest.raises(ProblemError) as refusal:
        limits.count_request("2001:db8::ffff:3")
    assert 1 <= int((refusal.value.headers or {})["Retry-After"]) <= 60
    limits.count_request("2001:db8:0:1::1")
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        limits.count_request(address)
        limits.count_request(address)


def test_an_ipv4_address_is_the_same_in_its_ipv6_form() -> None:
    limits = RateLimits(LimitSettings(requests_per_minute=1))
    limits.count_request("::ffff:192.0.2.1")
    limits.count_request("::ffff:198.51.100.2")
    with pytest.raises(ProblemError):
        limits.count_request("192.0.2.1")


def test_kinds_of_requests_are_counted_apart_and_names_are_not_kept() -> None:
    limits = RateLimits(LimitSettings(reads_per_minute=1, changes_per_hour=1, logins_per_minute=1))
    limits.count_read("somebody")
    limits.count_change("somebody")
    limits.count_login("somebody")
    for count in (limits.count_read, limits.count_change, limits.count_login):
        with pytest.raises(ProblemError):
            count("somebody")
        count("another")
    storage = limits._limiter.storage
    assert storage.events  # type: ignore[attr-defined]
    assert "somebody" not in repr(storage.__dict__)
