"""Three made-up shops: what a federation has before its first command, whole or not at all."""

from __future__ import annotations

import csv
import tomllib
from pathlib import Path

import pytest

from client.consent_service.notices import read_notice_file
from client.installation.composed_settings import ANSWERED, read_answers
from common.errors import InputError
from common.timestamps import parse_time
from server.provisioning.federation_config import read_federation
from simulations import shops
from simulations.shops import make_shops


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shops") / "shops"
    assert [path.name for path in make_shops(out, port=9543, admin_port=9544)] == [
        "region-1",
        "region-2",
        "region-3",
    ]
    return out


def test_the_declaration_is_one_and_asks_for_a_secure_sum_in_three_rounds(made: Path) -> None:
    config = read_federation(made / "federation.toml")
    assert (config.server.port, config.server.admin_port) == (9543, 9544)
    assert set(config.run) == {"first", "second"}
    for run in config.run.values():
        assert (run.aggregation, run.rounds) == ("secure-sum", 3)
    assert config.federation.quorum == 3
    assert (made / config.federation.catalogue).is_file()


def test_each_shop_answers_what_an_operator_is_asked(made: Path) -> None:
    for region in ("region-1", "region-2", "region-3"):
        answers = read_answers(made, region)
        assert answers is not None
        assert set(answers.tables) <= ANSWERED
        store = answers.folder / str(answers.tables["source"]["path"])
        assert store.is_file()
        assert answers.tables["policy"]["aggregations"] == ["confidential"]


def test_consents_were_given_to_a_notice_that_was_in_force(made: Path) -> None:
    for region in ("region-1", "region-2", "region-3"):
        notice = read_notice_file(made / region / "notice.toml")
        with (made / region / "consents.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows
        assert all(parse_time(row["event_time"]) > notice.in_force_from_ms > 0 for row in rows)
        states = [row["state"] for row in rows]
        assert 0 < states.count("refused") < len(states) / 4


def test_the_same_seed_makes_the_same_shops(made: Path, tmp_path: Path) -> None:
    make_shops(tmp_path / "again", port=9543, admin_port=9544)
    for name in ("federation.toml", "catalogue.parquet", "region-1/data/transactions.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (made / name).read_bytes()
    assert tomllib.loads((made / "region-1" / "region.toml").read_text())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        make_shops(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_fails_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shops, "_fill", killed)
    with pytest.raises(KeyboardInterrupt):
        make_shops(tmp_path / "shops")
    assert list(tmp_path.iterdir()) == []
