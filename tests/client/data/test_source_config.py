from __future__ import annotations

from pathlib import Path

import pytest

from client.data.source_config import FileSourceConfig, SqlSourceConfig, load_source_config
from common.errors import InputError

COLUMNS = '[columns]\ncustomer = "c"\nitem = "i"\ntime = "t"\n'
FILES = 'kind = "files"\npath = "sales.csv"\n'
SQL = 'kind = "sql"\nurl = "sqlite:///shop.db"\ntable = "sales"\n'


def load(folder: Path, text: str) -> FileSourceConfig | SqlSourceConfig:
    path = folder / "source.toml"
    path.write_text(text, "utf-8")
    return load_source_config(path)


def test_files_are_declared_with_their_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, FILES + COLUMNS)
    assert isinstance(config, FileSourceConfig)
    assert config.base == tmp_path
    assert (config.time_zone, config.time_format, config.format) == ("UTC", "iso", None)
    assert config.columns.by_canonical_name == {"customer_ref": "c", "item_ref": "i", "time": "t"}
    assert config.scope.from_ms is None
    assert config.scope.home_stores == frozenset()


def test_the_scope_is_read(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        FILES
        + "period_from = 2024-01-01T00:00:00+01:00\nperiod_until = 2024-02-01T00:00:00Z\n"
        + 'home_stores = ["12", "7"]\n'
        + COLUMNS
        + 'home_store = "h"\n',
    )
    assert config.scope.from_ms == 1704063600000
    assert config.scope.until_ms == 1706745600000
    assert config.scope.home_stores == {"7", "12"}


def test_a_database_url_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(tmp_path, 'kind = "sql"\nurl_env = "SHOP_URL"\ntable = "sales"\n' + COLUMNS)
    assert isinstance(config, SqlSourceConfig)
    monkeypatch.delenv("SHOP_URL", raising=False)
    with pytest.raises(InputError, match="SHOP_URL, which is not set"):
        config.resolve_url()
    monkeypatch.setenv("SHOP_URL", "postgresql://reader:hush@db.example/shop?sslmode=require")
    assert config.resolve_url().startswith("postgresql://reader:hush@")
    assert config.server == "postgresql://db.example/shop"


def test_a_password_is_in_no_representation(tmp_path: Path) -> None:
    config = load(
        tmp_path, 'kind = "sql"\nurl = "postgresql://u:hush@h/d"\ntable = "s"\n' + COLUMNS
    )
    assert isinstance(config, SqlSourceConfig)
    assert "hush" not in repr(config) + str(config) + config.model_dump_json() + config.server


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind = files\n", r"source\.toml cannot be read: not valid TOML: .*line 1"),
        (FILES, r"columns: Field required"),
        (COLUMNS, r"Unable to extract tag using discriminator 'kind'"),
        ('kind = "mongo"\n' + COLUMNS, r"'mongo'.*'files', 'sql'"),
        (FILES + 'colour = "red"\n' + COLUMNS, r"colour: Extra inputs are not permitted"),
        (FILES + 'base = "/"\n' + COLUMNS, r"base: Extra inputs are not permitted"),
        (FILES + COLUMNS + 'shop = "s"\n', r"columns\.shop: Extra inputs are not permitted"),
        (FILES + '[columns]\ncustomer = "c"\nitem = "i"\n', r"columns\.time: Field required"),
        (FILES + COLUMNS + "quantity = 3\n", r"columns\.quantity: Input should be a valid string"),
        (FILES + COLUMNS + 'store = "c"\n', r"columns: .*'c' is mapped twice"),
        (FILES + COLUMNS + 'store = ""\n', r"columns\.store: String should have at least 1"),
        (FILES + 'time_zone = "Mars/Olympus"\n' + COLUMNS, r"time_zone: .*'Mars/Olympus'"),
        (FILES + 'time_zone = "../passwd"\n' + COLUMNS, r"time_zone: "),
        (FILES + "period_from = 2024-01-01T00:00:00\n" + COLUMNS, r"period_from: .*timezone"),
        (
            FILES
            + "period_from = 2024-01-01T00:00:00Z\nperiod_until = 2024-01-01T00:00:00Z\n"
            + COLUMNS,
            r"period_from must be before period_until",
        ),
        (FILES + 'home_stores = ["1"]\n' + COLUMNS, r"home_stores needs columns\.home_store"),
        (SQL + 'url_env = "X"\n' + COLUMNS, r"exactly one of url and url_env"),
        ('kind = "sql"\ntable = "s"\n' + COLUMNS, r"exactly one of url and url_env"),
    ],
)
def test_a_wrong_declaration_names_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, text)
    assert str(tmp_path / "source.toml") in caught.value.message
    assert caught.value.remedy


def test_a_declaration_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml cannot be read: No such file"):
        load_source_config(tmp_path / "nowhere.toml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load_source_config(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.toml cannot be read: not valid TOML"):
        load_source_config(tmp_path / "binary.toml")
    (tmp_path / "big.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(InputError, match=r"big\.toml cannot be read: longer than 1,048,576 bytes"):
        load_source_config(tmp_path / "big.toml")
