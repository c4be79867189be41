"""The service's settings and the token of its callers."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from client.engine.home import RegionHome
from client.recommend.config import (
    MAX_SETTINGS_BYTES,
    ServiceSettings,
    access_token,
    read_service_settings,
    token_file,
)
from common.errors import InputError, StorageError


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    return RegionHome(tmp_path, "region-1", "small.example")


def write(home: RegionHome, text: str | bytes) -> None:
    folder = home.root / "recommend"
    folder.mkdir(exist_ok=True)
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "service.toml").write_bytes(data)


def test_without_a_file_the_defaults_hold(home: RegionHome) -> None:
    assert read_service_settings(home) == ServiceSettings()


def test_settings_are_read(home: RegionHome) -> None:
    write(home, 'hosts = ["recommend.shop.example:8443"]\nmax_connections = 8\n')
    read = read_service_settings(home)
    assert (read.hosts, read.max_connections) == (["recommend.shop.example:8443"], 8)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("unknown = 1", "unknown"),
        ("max_connections = 1", "max_connections"),
        ("max_connections = true", "max_connections"),
        ("max_body_bytes = 100", "max_body_bytes"),
        ("session_s = 0", "session_s"),
        ("session_s = nan", "session_s"),
        ('hosts = ["two words"]', "hosts"),
        ("hosts = 1", "hosts"),
        ("=", "not valid TOML"),
        (b"\xff", "not valid TOML"),
        ("a=" + "[" * 20_000, "not valid TOML"),
        ("#" * (MAX_SETTINGS_BYTES + 1), "longer than"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_wrong_settings_are_named(home: RegionHome, text: str, named: str) -> None:
    write(home, text)
    with pytest.raises(InputError, match=named):
        read_service_settings(home)


def test_settings_that_cannot_be_read_are_named(home: RegionHome) -> None:
    (home.root / "recommend" / "service.toml").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be read"):
        read_service_settings(home)


def test_the_token_is_made_once_for_its_owner_alone(home: RegionHome) -> None:
    token = access_token(home)
    assert len(token) >= 43
    assert access_token(home) == token
    assert stat.S_IMODE(token_file(home).stat().st_mode) == 0o600
    token_file(home).unlink()
    assert access_token(home) != token


def test_a_token_that_others_can_read_is_refused(home: RegionHome) -> None:
    access_token(home)
    token_file(home).chmod(0o644)
    with pytest.raises(InputError, match="others than its owner"):
        access_token(home)


@pytest.mark.parametrize("text", ["", "short\n", "two words and more\n", "x\x00" * 20])
def test_a_token_that_is_none_is_refused(home: RegionHome, text: str) -> None:
    access_token(home)
    token_file(home).write_text(text)
    with pytest.raises(InputError, match="is no token"):
        access_token(home)


def test_a_folder_that_cannot_be_written_is_a_storage_failure(home: RegionHome) -> None:
    (home.root / "recommend").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        access_token(home)
