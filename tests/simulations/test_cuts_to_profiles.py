"""Cuts from regions to regions: asked under differential privacy, released, and scored by.

The whole way, by the commands that the documentation names: a run of questions over three regions,
the coordinator's file of cuts, and one region's profiles built with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import client.cli
import server.cli
from client.profiles.rfm import Cuts, read_cuts
from common.analytics.answers import GLOBAL, ReleasedAnswers
from common.analytics.purchase_questions import FREQUENCY, RECENCY
from simulations.federate import federate
from simulations.provision import open_regions
from simulations.run_folder import RunFolder
from tests.support.asked_federation import asked_plan, make_asked
from tests.support.run_bundle import bundled
from tests.support.small_federation import DAY_MS, START_MS

pytestmark = pytest.mark.slow
CUSTOMERS = 100
#: A year that ends where the made-up purchases do.
UNTIL_MS = START_MS + 100 * DAY_MS
WINDOW_MS = (UNTIL_MS - 366 * DAY_MS, UNTIL_MS)
AS_OF = "2024-04-10"
CUSTOMER = "region-1-customer-000"
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, verified run that asked about a year."""
    plan = asked_plan(
        (RECENCY, FREQUENCY),
        scope="global",
        window_ms=WINDOW_MS,
        planned_customers=3 * CUSTOMERS,
    )
    folder, _, set_ups = make_asked(
        tmp_path_factory.mktemp("cuts") / "run", plan, customers=CUSTOMERS
    )
    with open_regions(folder, set_ups) as regions:
        channels = {name: each.channel for name, each in regions.items()}
        federate("inprocess", folder, plan, channels)
    verdict = bundled(folder, plan)
    assert verdict.verified, verdict.first_failure
    return folder.root


@pytest.fixture(scope="module")
def cuts(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The coordinator's file."""
    path = tmp_path_factory.mktemp("file") / "cuts.toml"
    done = CliRunner().invoke(server.cli.app, ["answers", str(run), "--cuts", str(path)])
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(scope="module")
def profile(run: Path, cuts: Path) -> Ask:
    """A region's `profile` commands, once profiles are built by that file."""
    home = RunFolder(run).region_home("region-1")

    def ask(what: str, *options: str) -> Any:
        words = ["profile", what, str(home), *options, "--json"]
        done = CliRunner().invoke(client.cli.app, words)
        assert done.exit_code == 0, done.output or done.exception
        return json.loads(done.output)

    built = ask("build", "--as-of", AS_OF, "--cuts", str(cuts))
    assert built["customers"] == CUSTOMERS
    return ask


def purchases(run: Path, region: str) -> pd.DataFrame:
    rows = pd.read_csv(RunFolder(run).data / region / "data" / "transactions.csv")
    days = pd.to_datetime(rows["when"]).dt.floor("D")
    by_customer = days.groupby(rows["who"])
    as_of = pd.Timestamp(AS_OF, tz="UTC")
    return pd.DataFrame(
        {"recency": (as_of - by_customer.max()).dt.days, "frequency": by_customer.nunique()}
    )


def test_the_file_has_what_was_released_and_is_near_what_is_true(run: Path, cuts: Path) -> None:
    read = read_cuts(cuts)
    found = ReleasedAnswers.load(run)
    everybody = pd.concat([purchases(run, f"region-{number}") for number in (1, 2, 3)])
    for name, values, column, more in (
        (RECENCY, read.recency, "recency", 0.5),
        (FREQUENCY, read.frequency, "frequency", 0.0),
    ):
        answer = found.of(name, GLOBAL)
        told: Any = answer.question
        expected = told.read(answer.released, answer.noise_stddev).value + more
        np.testing.assert_allclose(values, expected, atol=0.001)
        # As many whole days as a cut are on its better side: a day fewer is below the fifth that it
        # stands for, a day more above, but for the noise in it.
        for value, share in zip(values, (0.2, 0.4, 0.6, 0.8), strict=True):
            assert (everybody[column] <= value - 1).mean() < share + 0.05
            assert (everybody[column] <= value + 1).mean() > share - 0.05
    best = (everybody["recency"] <= read.recency[0]).mean()
    assert 0.1 < best < 0.4, "by the time elapsed, nobody would have bought within the first cut"
    assert read.released
    assert read.monetary == ()


def test_profiles_are_scored_by_the_released_cuts(run: Path, cuts: Path, profile: Ask) -> None:
    read = read_cuts(cuts)
    overview = profile("segments")
    assert overview["cuts"]["source"] == read.source
    assert overview["cuts"]["released"] is True
    assert [float(each) for each in overview["cuts"]["recency"]] == list(read.recency)
    known = purchases(run, "region-1")
    regional = Cuts.of_customers(
        known["recency"].to_numpy(float), known["frequency"].to_numpy(float), None
    )
    differing = 0
    for customer in known.index[2:12]:
        facts = {each["fact"]: each["value"] for each in profile("show", customer)["facts"]}
        for kind in ("recency", "frequency"):
            own = known.loc[[customer], kind].to_numpy(float)
            score = read.scores(own, kind)[0]
            assert float(facts[f"{kind}_score"]) == score, (customer, kind)
            differing += score != regional.scores(own, kind)[0]
    # By the region's own cuts some of these would have other scores.
    assert differing > 0


def test_released_scores_are_told_to_their_customer(profile: Ask) -> None:
    """An exact cut of the region's own would tell her something exact about others."""
    told = {each["fact"] for each in profile("explain", CUSTOMER)["facts"]}
    assert {"recency_score", "frequency_score"} <= told
    profile("build", "--as-of", AS_OF)
    own = {each["fact"] for each in profile("explain", CUSTOMER)["facts"]}
    assert not {"recency_score", "frequency_score"} & own
