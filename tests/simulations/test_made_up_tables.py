"""Made-up tables: whole, right, and drawn by the truths that they say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from client.data.standards import load_standards
from client.data.tables.declaration import load_tables
from client.data.tables.finishing import TableRead
from client.data.tables.reading import RegionTables
from client.governance.quality_home import Governance
from client.governance.quality_rows import Surroundings
from common.analytics.key_arrays import normalised_key
from common.catalogue import Catalogue
from simulations.made_up_regions import MadeUp
from simulations.made_up_tables import EXPERIMENT, FEATURES, TRUTHS, write_tables
from simulations.synthetic import prepare_synthetic


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, pd.DataFrame]:
    out = tmp_path_factory.mktemp("made-up")
    prepared = prepare_synthetic(out, seed=5, made_up=MadeUp(600, (1.0,), 3))
    catalogue, source = Catalogue.load(prepared.catalogue), prepared.regions[0].source
    tables = RegionTables(load_tables(write_tables(source, catalogue, seed=5)))
    found = {name: tables.read(name) for name in tables.names}
    assert all(each.counts.score == 1.0 for each in found.values())
    keep_the_standards(tables, catalogue, found)
    first = {path.name: path.read_bytes() for path in source.parent.glob("*.csv")}
    write_tables(source, catalogue, seed=5)
    assert first == {path.name: path.read_bytes() for path in source.parent.glob("*.csv")}
    return {name: each.rows.to_pandas() for name, each in found.items()}


def keep_the_standards(
    tables: RegionTables, catalogue: Catalogue, found: Mapping[str, TableRead]
) -> None:
    """Under the standards that come with the program every row is right, as it is."""
    standards = load_standards()
    known = {"catalogue.item": frozenset(catalogue.items)}
    around = Surroundings(missing=standards.missing, known=known)
    governed = RegionTables(tables.declared, governance=Governance("region-1", standards, around))
    for name, read in found.items():
        again = governed.read(name)
        assert (again.counts, again.problems) == (read.counts, ()), name


def test_every_table_has_rows_of_the_same_customers(frames: Mapping[str, pd.DataFrame]) -> None:
    assert set(frames) == {
        "purchases",
        "events",
        "members",
        "feedback",
        "exposures",
        "promotions",
    }
    known = set(frames["members"]["customer"])
    for name in ("purchases", "events", "feedback", "exposures"):
        assert set(frames[name]["customer"]) <= known
        assert len(frames[name]) > 100


def test_they_are_drawn_by_their_truths(frames: Mapping[str, pd.DataFrame]) -> None:
    feedback, exposures = frames["feedback"], frames["exposures"]
    nps = feedback.loc[feedback["kind"] == "nps", "score"]
    assert (nps >= 9).mean() == pytest.approx(TRUTHS.promoters, abs=0.1)
    assert (nps <= 6).mean() == pytest.approx(TRUTHS.detractors, abs=0.1)
    paid = frames["purchases"]["payment"].value_counts(normalize=True)
    assert paid["card"] == pytest.approx(TRUTHS.payments[0], abs=0.05)
    assert set(feedback["topic"].dropna()) == set(FEATURES)
    assert set(exposures["experiment"]) == {EXPERIMENT}
    events = frames["events"]
    clicks = events[events["kind"] == "click"].merge(exposures, on=["customer", "item"])
    days = (clicks["time_x"] - clicks["time_y"]) / pd.Timedelta(days=1)
    clicked = set(clicks.loc[(days >= 0) & (days <= 1), "customer"])
    did = exposures["customer"].isin(clicked).to_numpy()
    for arm, rate in zip(("control", "treated"), TRUTHS.click_rates, strict=True):
        share = did[np.asarray(exposures["arm"] == arm)].mean()
        assert share == pytest.approx(rate, abs=0.08)


def test_what_is_searched_for_is_common_words_in_many_spellings_and_some_of_ones_own(
    frames: Mapping[str, pd.DataFrame],
) -> None:
    events = frames["events"]
    searches = events.loc[events["kind"] == "search", "query"]
    views = int((events["kind"] == "view").sum())
    assert len(searches) / views == pytest.approx(TRUTHS.searching_share, abs=0.05)
    assert events.loc[events["kind"] != "search", "query"].isna().all()
    keys = pd.Series([normalised_key(each, 64) for each in searches])
    own = keys.str.contains(" of ")
    assert own.mean() == pytest.approx(0.1, abs=0.03)
    # As written they are more than they are.
    assert searches[~own.to_numpy()].nunique() > keys[~own].nunique()
