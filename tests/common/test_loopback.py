"""Addresses that no other machine can reach."""

from __future__ import annotations

import pytest

from common.errors import InputError
from common.loopback import LoopbackAddress


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9464", "127.0.0.1", 9464),
        ("127.8.0.9:0", "127.8.0.9", 0),
        ("[::1]:65535", "::1", 65535),
        ("::1:80", "::1", 80),
    ],
)
def test_an_address_is_read_and_written(text: str, host: str, port: int) -> None:
    address = LoopbackAddress.parse(text)
    assert (address.host, address.port) == (host, port)
    assert LoopbackAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1",
        "127.0.0.1:",
        ":9464",
        "localhost:9464",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:９",
        "127.0.0.1:99999999999999999999",
        "[127.0.0.1:80",
        "127.0.0.1:80 ",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not an IP address and a port") as refused:
        LoopbackAddress.parse(text)
    assert "127.0.0.1:9464" in refused.value.remedy


@pytest.mark.parametrize("text", ["0.0.0.0:9464", "[::]:9464", "192.168.1.1:9464", "8.8.8.8:80"])
def test_what_others_can_reach_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a loopback address") as refused:
        LoopbackAddress.parse(text)
    assert "127.0.0.1" in refused.value.remedy
