from __future__ import annotations

from pathlib import Path

import pytest

from client.data.dataset import PreferenceDataset
from common.errors import InputError, QualityGateError
from simulations.evaluation.data import EvaluationData, mapped_data, pseudonym
from tests.support.evaluation_store import (
    CATALOGUE,
    DAY_S,
    START_S,
    made_up_rows,
    write_catalogue,
    write_store,
)


def everything(data: EvaluationData) -> list[PreferenceDataset]:
    return [
        PreferenceDataset.from_consented(
            region.consented, data.catalogue, start_ms=0, end_ms=4_000_000_000_000
        )
        for region in data.regions
    ]


def test_one_store_is_divided_into_regions_by_customer(tmp_path: Path) -> None:
    rows = made_up_rows(60)
    data = mapped_data([write_store(tmp_path, rows)])
    datasets = everything(data)
    assert [region.name for region in data.regions] == [f"region-{n}" for n in range(1, 6)]
    assert sum(region.n_customers for region in data.regions) == 60
    sids = [sid for dataset in datasets for sid in dataset.sids]
    assert sorted(sids) == sorted({pseudonym(row[0]) for row in rows})
    assert sum(int(dataset.counts.values.sum()) for dataset in datasets) == len(rows)
    # Without a statement: the items that occur, a tenth of the time, one digit of the number.
    assert data.catalogue.items == tuple(sorted({row[1] for row in rows}))
    assert data.planned_customers == 60
    assert len(data.notes) == 2
    assert (data.protocol, data.is_public) == ("temporal", False)
    windows = data.windows
    length = windows.test_until_ms - windows.train_from_ms
    assert windows.test_until_ms - windows.train_until_ms == pytest.approx(length / 10, abs=1)


def test_what_is_stated_is_taken(tmp_path: Path) -> None:
    write_catalogue(tmp_path)
    more = (
        "[evaluation]\nregions = 2\nplanned_customers = 5000\npublic = true\n"
        'protocol = "strong"\nleast_amount = 4\n'
        "test_from = 2024-02-01T00:00:00Z\ntest_until = 2024-02-10T00:00:00Z\n"
    )
    rows = made_up_rows(60)
    data = mapped_data([write_store(tmp_path, rows, more=more + CATALOGUE)])
    assert (data.planned_customers, data.is_public, data.protocol) == (5000, True, "strong")
    assert (len(data.regions), data.catalogue.n_items, data.notes) == (2, 40, ())
    bought = sum(int(dataset.counts.values.sum()) for dataset in everything(data))
    assert bought == sum(1 for row in rows if row[3] >= 4)
    assert data.windows.test_until_ms - data.windows.train_until_ms == 9 * DAY_S * 1000


def test_a_mapping_file_a_region(tmp_path: Path) -> None:
    paths = [
        write_store(tmp_path / name, made_up_rows(20, seed=seed, prefix=name), name=name)
        for seed, name in enumerate(("north", "south"))
    ]
    data = mapped_data(paths)
    assert [(region.name, region.n_customers) for region in data.regions] == [
        ("north", 20),
        ("south", 20),
    ]
    assert data.name == "north-south"
    assert "and 1 more" in data.title


def test_a_region_without_customers_is_named(tmp_path: Path) -> None:
    path = write_store(tmp_path, made_up_rows(2), more="[evaluation]\nregions = 50\n")
    with pytest.raises(InputError, match=r"region-\d+ has no customers"):
        mapped_data([path])


def test_a_window_without_purchases_before_it_is_refused(tmp_path: Path) -> None:
    path = write_store(
        tmp_path, made_up_rows(20), more="[evaluation]\ntest_from = 2001-01-01T00:00:00Z\n"
    )
    with pytest.raises(InputError, match="nothing is left before it"):
        mapped_data([path])


def test_bad_data_stop_at_the_quality_gate(tmp_path: Path) -> None:
    rows = [("", "i01", START_S + number, 3) for number in range(10)]
    with pytest.raises(QualityGateError, match="below the threshold"):
        mapped_data([write_store(tmp_path, [*rows, *made_up_rows(5)])])
