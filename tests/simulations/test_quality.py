from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from client.training.evaluation import METRICS, EvaluationSet
from common.catalogue import Catalogue
from common.errors import InputError
from common.model_state import ModelState
from simulations import quality_ranker
from simulations.quality import run_quality_study
from simulations.quality_earlier import EarlierWeeks
from simulations.quality_methods import (
    METHODS,
    PRIVATE_METHODS,
    SERVED_VARIANTS,
    Population,
    RegionSplit,
    train_private,
)
from tests.support.preference_data import (
    END_MS,
    START_MS,
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


def split(region: str, seed: int, *, until_ms: int = END_MS) -> RegionSplit:
    before = random_customers(60, N_ITEMS, seed=seed, prefix=f"{region}-")
    after = random_customers(50, N_ITEMS, seed=seed + 100, prefix=f"{region}-")
    shortened = {
        sid: {item: [min(ages) / 10] for item, ages in bought.items()}
        for sid, bought in after.items()
    }
    test = dataset_of(shortened, N_ITEMS, start_ms=until_ms, end_ms=until_ms + 5 * WEEK)
    train = dataset_of(before, N_ITEMS, start_ms=START_MS, end_ms=until_ms)
    return RegionSplit(region, train, test)


SPLITS = [split(region, number) for number, region in enumerate(REGIONS)]
EARLIER = EarlierWeeks(
    weeks="44–48",
    judged="49–53",
    note="Both were seen.",
    splits=[
        split(region, 50 + number, until_ms=END_MS - 5 * WEEK)
        for number, region in enumerate(REGIONS)
    ],
)
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
        SPLITS,
        CATALOGUE,
        PLAN,
        seeds=(1, 2),
        excluded=EXCLUDED,
        earlier=EARLIER,
        replicates=100,
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
    for row in (*study["rows"], *study["earlier"]["rows"]):
        assert len(row["per_seed"]) == (2 if row["method"] in PRIVATE_METHODS else 1)
        assert row["mean"] == pytest.approx(np.mean(row["per_seed"]))
        if row["ci_low"] is not None:
            assert row["ci_low"] - 1e-9 <= row["mean"] <= row["ci_high"] + 1e-9


def test_popularity_is_its_own_reference(study: dict[str, Any]) -> None:
    for row in rows_of(study, method="popularity", metric="ndcg@10"):
        assert row["ratio_to_popularity"] == {"mean": 1.0, "ci_low": 1.0, "ci_high": 1.0}
    for row in rows_of(study, method="personal_recency", metric="ndcg@10"):
        assert row["ratio_to_personal_recency"]["mean"] == 1.0


def test_what_is_served_is_its_own_reference(study: dict[str, Any]) -> None:
    for method, protocol in (("fedpref_tilt", "new"), ("fedpref_fused", "all")):
        for row in rows_of(study, method=method, protocol=protocol, metric="ndcg@10"):
            assert row["ratio_to_served"] == {"mean": 1.0, "ci_low": 1.0, "ci_high": 1.0}
    for row in rows_of(study, method="no_factors", metric="ndcg@10"):
        (served,) = rows_of(
            study,
            **{key: row[key] for key in ("setting", "protocol", "universe", "metric")},
            method="fedpref_tilt" if row["protocol"] == "new" else "fedpref_fused",
        )
        assert row["ratio_to_served"]["mean"] == pytest.approx(row["mean"] / served["mean"])


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


def test_the_earlier_weeks_have_what_is_served_its_references_and_ablations(
    study: dict[str, Any],
) -> None:
    earlier = study["earlier"]
    assert (earlier["weeks"], earlier["judged"]) == ("44–48", "49–53")
    assert earlier["note"] == "Both were seen."
    assert earlier["customers"] == 180
    methods = {
        protocol: {row["method"] for row in earlier["rows"] if row["protocol"] == protocol}
        for protocol in ("new", "all")
    }
    both = {"no_factors", "popularity"}
    assert methods["new"] == both | {"fedpref_tilt", "popularity_tilt"}
    assert methods["all"] == both | {"fedpref_fused", "personal_recency", "personal_popularity"}
    assert {row["universe"] for row in earlier["rows"]} == {"catalogue"}
    assert {row["setting"] for row in earlier["rows"]} == {"earlier_weeks"}
    # Other customers' histories and purchases than the study's own.
    popular = {
        each["mean"]
        for rows in (earlier["rows"], rows_of(study, setting="no_refusals", universe="catalogue"))
        for each in rows
        if (each["method"], each["protocol"], each["metric"]) == ("popularity", "new", "ndcg@10")
    }
    assert len(popular) == 2


def test_the_ablation_has_no_factors_and_nothing_else_is_missing() -> None:
    """Other factors change what is served and not the ablation; popularity changes both."""
    evaluated = {each.region: EvaluationSet.of(each.train, each.test) for each in SPLITS}
    population = Population.of(SPLITS, evaluated, PLAN.total_rounds, {})
    ranker = quality_ranker.Ranker(population, CATALOGUE, PLAN, {"catalogue": None})
    trained = train_private(population, REGIONS, PLAN, "ablation")
    reversed_factors = ModelState(
        trained.popularity, trained.vocabulary, trained.item_weights, trained.item_factors[::-1]
    )
    reversed_popularity = ModelState(
        trained.popularity[::-1], trained.vocabulary, trained.item_weights, trained.item_factors
    )

    def rankings(state: ModelState, *, factors: bool) -> list[np.ndarray]:
        models = dict.fromkeys(REGIONS, state)
        rank = ranker.by_model if factors else ranker.without_factors
        return [each[-1] for each in rank(models, n_summed=3, variants=SERVED_VARIANTS)]

    for number in range(len(SERVED_VARIANTS)):
        served, ablated = (rankings(trained, factors=each)[number] for each in (True, False))
        assert not np.array_equal(served, ablated)
        others = rankings(reversed_factors, factors=True)[number]
        assert not np.array_equal(served, others)
        assert np.array_equal(ablated, rankings(reversed_factors, factors=False)[number])
        assert not np.array_equal(ablated, rankings(reversed_popularity, factors=False)[number])


def test_the_ablation_is_the_fusion_with_no_weight_for_the_shared_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For whoever bought enough, `rank_fused` with a weight of 0 gives the same first places."""
    evaluated = {each.region: EvaluationSet.of(each.train, each.test) for each in SPLITS}
    population = Population.of(SPLITS, evaluated, PLAN.total_rounds, {})
    ranker = quality_ranker.Ranker(population, CATALOGUE, PLAN, {"catalogue": None})
    models = dict.fromkeys(REGIONS, train_private(population, REGIONS, PLAN, "ablation"))
    fused = (SERVED_VARIANTS[1],)
    ((*_, ablated),) = ranker.without_factors(models, n_summed=3, variants=fused)
    for module in ("client.training.personalisation", "simulations.served_rows"):
        monkeypatch.setattr(f"{module}.SHARED_WEIGHT", 0.0)
    ((*_, weightless),) = ranker.by_model(models, n_summed=3, variants=fused)
    sizes = np.concatenate([each.seen.sizes for each in evaluated.values()])
    enough = sizes >= 8
    assert enough.sum() > 50
    assert np.array_equal(ablated[enough, :8], weightless[enough, :8])


def test_other_regions_or_catalogues_are_refused() -> None:
    with pytest.raises(InputError, match="regions"):
        run_quality_study(SPLITS[:2], CATALOGUE, PLAN)
    fewer = EarlierWeeks("44–48", "49–53", "", SPLITS[:2])
    with pytest.raises(InputError, match="regions"):
        run_quality_study(SPLITS, CATALOGUE, PLAN, earlier=fewer)
    with pytest.raises(InputError, match="catalogue"):
        run_quality_study(SPLITS, Catalogue.of(["a", "b"]), PLAN)
