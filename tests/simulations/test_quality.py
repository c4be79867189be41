from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from client.training.evaluation import METRICS
from common.catalogue import Catalogue
from common.errors import InputError
from simulations.quality import run_quality_study
from simulations.quality_methods import METHODS, RegionSplit
from tests.support.preference_data import (
    END_MS,
    dataset_of,
    plan_of,
    random_customers,
)

WEEK = 7 * 24 * 3600 * 1000
N_ITEMS = 60
REGIONS = ("region-1", "region-2", "region-3")
CATALOGUE = Catalogue.of(
    [f"i{number}" for number in range(N_ITEMS)],
    category=[f"c{number % 3}" for number in range(N_ITEMS)],
    product_type=[f"t{number % 6}" for number in range(N_ITEMS)],
)
PLAN = plan_of(regions=REGIONS, n_items=N_ITEMS, catalogue=CATALOGUE.digest)


def split(region: str, seed: int) -> RegionSplit:
    before = random_customers(60, N_ITEMS, seed=seed, prefix=f"{region}-")
    after = random_customers(50, N_ITEMS, seed=seed + 100, prefix=f"{region}-")
    shortened = {
        sid: {item: [min(ages) / 10] for item, ages in bought.items()}
        for sid, bought in after.items()
    }
    test = dataset_of(shortened, N_ITEMS, start_ms=END_MS, end_ms=END_MS + 5 * WEEK)
    return RegionSplit(region, dataset_of(before, N_ITEMS), test)


SPLITS = [split(region, number) for number, region in enumerate(REGIONS)]
EXCLUDED = {
    region_split.region: {
        server_round: frozenset(region_split.train.sids[: 5 + server_round])
        for server_round in range(1, PLAN.total_rounds + 1)
    }
    for region_split in SPLITS
}


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    return run_quality_study(
        SPLITS, CATALOGUE, PLAN, seeds=(1, 2), excluded=EXCLUDED, replicates=100
    )


def rows_of(study: dict[str, Any], **wanted: str) -> list[dict[str, Any]]:
    return [row for row in study["rows"] if all(row[key] == wanted[key] for key in wanted)]


def test_the_study_is_plain_json(study: dict[str, Any]) -> None:
    assert json.loads(json.dumps(study, allow_nan=False)) == study


def test_every_method_is_shown_wherever_it_applies(study: dict[str, Any]) -> None:
    missing = {(each["method"], each["protocol"]) for each in study["not_applicable"]}
    for setting in ("no_refusals", "with_refusals"):
        for universe in ("catalogue", "top-5000"):
            for protocol in ("new", "all"):
                for metric in (*METRICS, "coverage@10"):
                    found = rows_of(
                        study,
                        setting=setting,
                        universe=universe,
                        protocol=protocol,
                        metric=metric,
                    )
                    expected = {key for key in METHODS if (key, protocol) not in missing}
                    if setting == "with_refusals":
                        expected.discard("ease")
                    assert {row["method"] for row in found} == expected
                    assert len(found) == len(expected)


def test_seeds_are_the_private_methods_alone(study: dict[str, Any]) -> None:
    private = {"fedpref", "fedpref_tilt", "fedpref_fused", "local_only"}
    for row in study["rows"]:
        assert len(row["per_seed"]) == (2 if row["method"] in private else 1)
        assert row["mean"] == pytest.approx(np.mean(row["per_seed"]))
        if row["ci_low"] is not None:
            assert row["ci_low"] - 1e-9 <= row["mean"] <= row["ci_high"] + 1e-9


def test_popularity_is_its_own_reference(study: dict[str, Any]) -> None:
    for row in rows_of(study, method="popularity", metric="ndcg@10"):
        assert row["ratio_to_popularity"] == {"mean": 1.0, "ci_low": 1.0, "ci_high": 1.0}
    for row in rows_of(study, method="personal_recency", metric="ndcg@10"):
        assert row["ratio_to_personal_recency"]["mean"] == 1.0


def test_models_without_privacy_learn_the_planted_tastes(study: dict[str, Any]) -> None:
    """Customers have one of three tastes, which the catalogue's order hides from popularity."""
    where = {"setting": "no_refusals", "universe": "catalogue", "metric": "ndcg@10"}
    values = {row["method"]: row["mean"] for row in rows_of(study, protocol="new", **where)}
    assert values["federated_no_dp"] == pytest.approx(values["centralised_no_dp"], abs=0.01)
    assert values["federated_no_dp"] > 1.2 * values["popularity"]


def test_refusals_leave_training_but_not_the_evaluation(study: dict[str, Any]) -> None:
    settings = study["settings"]
    assert settings["no_refusals"]["customers"] == [180] * PLAN.total_rounds
    expected = [180 - 3 * (5 + number) for number in range(1, PLAN.total_rounds + 1)]
    assert settings["with_refusals"]["customers"] == expected
    for setting in settings:
        (row,) = rows_of(
            study,
            setting=setting,
            method="popularity",
            protocol="all",
            universe="catalogue",
            metric="ndcg@10",
        )
        assert row["customers"] == 150


def test_a_study_repeats_and_tells_how_far_it_is(study: dict[str, Any]) -> None:
    seen: list[tuple[int, int]] = []
    again = run_quality_study(
        SPLITS,
        CATALOGUE,
        PLAN,
        seeds=(1, 2),
        replicates=100,
        progress=lambda _what, done, total: seen.append((done, total)),
    )
    assert again["rows"] == [row for row in study["rows"] if row["setting"] == "no_refusals"]
    assert seen == [(number, 4) for number in range(1, 5)]


def test_other_regions_or_catalogues_are_refused() -> None:
    with pytest.raises(InputError, match="regions"):
        run_quality_study(SPLITS[:2], CATALOGUE, PLAN)
    with pytest.raises(InputError, match="catalogue"):
        run_quality_study(SPLITS, Catalogue.of(["a", "b"]), PLAN)
