"""Settings: what is wrong is refused when the service starts, not when a customer comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.consent_service.config import ConsentServiceSettings, read_settings
from client.consent_service.demo_issuer import (
    DemoIssuer,
    make_demo_issuer,
    open_demo_issuer,
    trust_demo_issuer,
)
from client.consent_service.login_keys import LoginKeys
from common.errors import InputError

LOGIN = {"issuer": "i", "audience": "a", "algorithms": ["EdDSA"], "jwks": "j.json"}


def settings(**service: object) -> ConsentServiceSettings:
    service = {"public_url": "https://consent.shop.example", **service}
    return ConsentServiceSettings.model_validate({"login": LOGIN, "service": service})


@pytest.mark.parametrize(
    ("url", "host", "origin", "secure"),
    [
        ("https://shop.example", "shop.example", "https://shop.example", True),
        ("https://shop.example:443/", "shop.example", "https://shop.example", True),
        ("https://Shop.Example:8443", "shop.example:8443", "https://shop.example:8443", True),
        ("http://127.0.0.1:8420", "127.0.0.1:8420", "http://127.0.0.1:8420", False),
        ("http://localhost", "localhost", "http://localhost", False),
        ("http://[::1]:8420", "[::1]:8420", "http://[::1]:8420", False),
    ],
)
def test_the_address_is_what_browsers_state(url: str, host: str, origin: str, secure: bool) -> None:
    service = settings(public_url=url).service
    assert (service.host, service.origin, service.secure) == (host, origin, secure)


@pytest.mark.parametrize(
    "service",
    [
        {"public_url": "http://consent.shop.example"},
        {"public_url": "http://127.0.0.1.shop.example"},
        {"public_url": "ftp://shop.example"},
        {"public_url": "shop.example"},
        {"public_url": "https://shop.example/consent"},
        {"public_url": "https://user@shop.example"},
        {"session_s": 0},
        {"session_s": 100_000},
        {"session_s": "900"},
        {"proxies": ["everywhere"]},
        {"unknown": 1},
    ],
)
def test_wrong_settings_are_refused(service: dict[str, object]) -> None:
    settings()
    with pytest.raises(ValueError, match="validation error"):
        settings(**service)


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS512", "ES256"])
def test_no_other_algorithm_can_be_configured(algorithm: str) -> None:
    record = {"login": {**LOGIN, "algorithms": [algorithm]}, "service": {"public_url": "https://a"}}
    with pytest.raises(ValueError, match="algorithms"):
        ConsentServiceSettings.model_validate(record)


@pytest.mark.parametrize("text", ["[login", "\x00", "login = 1", "", "[service]\npublic_url='x'"])
def test_a_malformed_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "consent.toml").write_text(text)
    with pytest.raises(InputError, match=r"consent\.toml"):
        read_settings(tmp_path)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read") as error:
        read_settings(tmp_path)
    assert "consent issuer new" in error.value.remedy


def test_the_demo_login_is_trusted_by_what_it_writes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    issuer = make_demo_issuer(tmp_path / "issuer.pem")
    trust_demo_issuer(home, issuer, public_url="http://127.0.0.1:8420")
    read = read_settings(home)
    assert set(LoginKeys(home / read.login.jwks, read.login.algorithms)._keys) == {issuer.kid}
    text = (home / "consent.toml").read_text()
    assert text.startswith("# Settings of the consent service for a trial: DEMO LOGIN, NOT FOR")
    assert (tmp_path / "issuer.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "issuer.pem").read_text().startswith("DEMO LOGIN, NOT FOR PRODUCTION")
    assert open_demo_issuer(tmp_path / "issuer.pem").kid == issuer.kid
    with pytest.raises(InputError, match="there already"):
        trust_demo_issuer(home, issuer, public_url="http://127.0.0.1:1")
    with pytest.raises(InputError, match="cannot be written"):
        make_demo_issuer(tmp_path / "issuer.pem")


def test_what_is_no_demo_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        open_demo_issuer(tmp_path / "nothing.pem")
    (tmp_path / "wrong.pem").write_text("no key")
    with pytest.raises(InputError, match="not the key"):
        open_demo_issuer(tmp_path / "wrong.pem")
    assert DemoIssuer.__doc__
