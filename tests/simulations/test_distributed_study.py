from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from client.training.dp_sgd import popularity_sum
from client.training.noise import SystemNoise
from client.training.shared_sums import popularity_units, shared_round
from common.errors import UsageError
from server.double_masked_sum import sum_of_shares
from simulations.distributed_study import CENTRAL, LOCAL, StudyRow, modes_of, run_study
from simulations.distributed_table import as_table, conclusion
from tests.simulations.test_quality import CATALOGUE, PLAN, SPLITS
from tests.support.privacy_gates import noise_has_stddev


@pytest.fixture(scope="module")
def rows() -> list[StudyRow]:
    return run_study(SPLITS, CATALOGUE, PLAN, epsilons=["8"], seeds=(1, 2, 3), replicates=200)


def test_every_mode_is_beside_central_training(rows: list[StudyRow]) -> None:
    assert [(row.protocol, row.mode, row.survivors) for row in rows] == [
        (protocol, mode, survivors)
        for protocol in ("new", "all")
        for mode, survivors in ((CENTRAL, 0), ("K", 3), ("K-1", 2), (LOCAL, 0))
    ]
    for row in rows:
        assert row.interval[0] <= row.mean <= row.interval[1]
        low, high = row.difference_interval
        assert low <= row.difference <= high
        if row.mode == CENTRAL:
            assert row.difference == low == high == 0
    assert all(row.is_within for row in rows if row.mode == "K")


def test_epsilon_is_told_for_one_and_two_honest_regions_fewer(rows: list[StudyRow]) -> None:
    told = dict(next(row for row in rows if row.mode == "K").epsilon_by_survivors)
    assert sorted(told) == [1, 2, 3]
    assert told[3] <= 8 < told[2] < told[1]


def test_the_table_and_the_conclusion_name_what_was_found(rows: list[StudyRow]) -> None:
    assert as_table(rows).row_count == len(rows)
    assert "in 2 of 2 comparisons" in conclusion(rows)


def test_a_row_says_whether_its_difference_may_be_chance() -> None:
    def row(low: float, high: float) -> StudyRow:
        return StudyRow("8", "K", 3, "new", 0.1, (0.0, 0.2), 0.0, (low, high), ())

    assert row(-0.1, 0.1).is_within
    assert not row(0.01, 0.1).is_within
    assert not row(-0.1, -0.01).is_within


def test_modes_share_mechanisms_but_for_local_noise() -> None:
    central, shared, fewer, local = modes_of(PLAN, "8")
    assert central.plan == shared.plan
    assert fewer.plan.mechanisms == shared.plan.mechanisms
    assert fewer.plan.aggregation.honest_survivors_min == 2
    assert local.plan.mode == "local"


def test_two_regions_are_too_few() -> None:
    with pytest.raises(UsageError, match="needs 3 regions"):
        run_study(SPLITS[:2], CATALOGUE, PLAN, epsilons=["8"], seeds=(1,))


def test_the_sum_of_all_shares_has_the_distribution_of_central_noise() -> None:
    # Noise by noise: what the coordinator learns, less what nobody may, is central DP's Gaussian.
    _, shared, *_ = modes_of(PLAN, "8")
    plan, mechanism = shared.plan, shared.plan.mechanism_of(1)
    exact = np.sum([popularity_units(split.train, mechanism) for split in SPLITS], axis=0)
    drawn = []
    for _ in range(60):
        releases = [
            shared_round(split.train, {}, plan=plan, server_round=1, noise=SystemNoise())
            for split in SPLITS
        ]
        total = sum_of_shares(releases, plan, 1).values("popularity")
        drawn.append(total - np.ldexp(exact.astype(np.float64), mechanism.grid_exponent))
    noise = np.concatenate(drawn)
    assert noise_has_stddev(noise, mechanism.noise_stddev)
    spread = np.random.default_rng(0).uniform(-0.5, 0.5, noise.size)
    smoothed = noise + np.ldexp(spread, mechanism.grid_exponent)
    assert stats.kstest(smoothed / mechanism.noise_stddev, "norm").pvalue >= 1e-7
    # One share alone is √K times smaller, and one is missing: the gate tells them apart.
    assert not noise_has_stddev(noise * math.sqrt(2 / 3), mechanism.noise_stddev)
    # The quantised sum is the sum but for truncation.
    whole = sum(popularity_sum(split.train, clipping_norm=1.0) for split in SPLITS)
    truncated = np.ldexp(exact.astype(np.float64), mechanism.grid_exponent)
    assert np.abs(whole - truncated).max() < 1e-3 * np.abs(whole).max()
