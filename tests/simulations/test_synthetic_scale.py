from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from common.privacy import UNIT_AND_RELATION
from simulations.synthetic_scale import RegionPurchases, synthetic_regions
from simulations.training_study import main, outcome_of, popularity_outcome, study_plan


@pytest.fixture(scope="module")
def regions() -> list[RegionPurchases]:
    return synthetic_regions(900, n_items=400, n_regions=3, seed=4)


def test_data_sets_are_what_their_type_says(regions: list[RegionPurchases]) -> None:
    assert [region.train.n_customers for region in regions] == [300, 300, 300]
    for region in regions:
        assert region.train.sids == region.test.sids
        for data in (region.train, region.test):
            assert int(data.counts.values.sum()) == len(data.ages_weeks)
            assert len(data.last_ms) == len(data.indices) == data.indptr[-1]
            assert (np.diff(data.indptr) >= 0).all()
            assert (data.last_ms >= data.start_ms).all()
            assert (data.last_ms <= data.end_ms).all()
            assert (data.ages_weeks >= 0).all()
            for row in range(20):
                items = data.indices[data.indptr[row] : data.indptr[row + 1]]
                assert (np.diff(items) > 0).all()
        assert region.train.end_ms == region.test.start_ms


def test_the_seed_decides(regions: list[RegionPurchases]) -> None:
    again = synthetic_regions(900, n_items=400, n_regions=3, seed=4)
    other = synthetic_regions(900, n_items=400, n_regions=3, seed=5)
    assert np.array_equal(regions[1].train.indices, again[1].train.indices)
    assert not np.array_equal(regions[1].train.indices[:50], other[1].train.indices[:50])


def test_few_items_are_most_of_what_is_bought(regions: list[RegionPurchases]) -> None:
    bought = np.sort(sum(np.bincount(r.train.indices, minlength=400) for r in regions))[::-1]
    assert bought[:40].sum() > 0.2 * bought.sum()


def test_what_is_too_small_is_refused() -> None:
    for n_customers, n_items, n_regions in ((10, 99, 2), (1, 400, 2), (10, 400, 0)):
        with pytest.raises(InputError):
            synthetic_regions(n_customers, n_items=n_items, n_regions=n_regions, seed=1)


def test_factors_learn_what_popularity_does_not_know(regions: list[RegionPurchases]) -> None:
    plan = study_plan("factors", n_customers=10**6, n_items=400, n_regions=3, epsilon="100")
    assert outcome_of(plan, regions, seed=1).ndcg > 1.5 * popularity_outcome(regions).ndcg


def test_the_study_prints_a_row_for_each_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--customers", "300", "--items", "200", "--regions", "3"]
    assert main([*options, "--strategies", "factors"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.endswith(f"δ = 0.000001; {UNIT_AND_RELATION}")
    named = [line.split("NDCG@10")[0].split()[-1] for line in lines]
    assert named == ["popularity", "factors"]
    assert all(0 <= float(line.split("NDCG@10")[1].split()[0]) <= 1 for line in lines)
