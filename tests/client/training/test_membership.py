"""Membership inference: its figures on known distributions, and on a trained recommender."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from client.data.dataset import CustomerItemMatrix
from client.training.audit_gates.membership import (
    MembershipRisk,
    calibrated,
    highest_auc,
    highest_true_positive_rate,
    likelihood_ratios,
    membership_risk,
)
from client.training.local_steps import LocalSettings, train_locally
from client.training.models.protocol import CHUNK_CUSTOMERS
from client.training.models.tied_autoencoder import TiedAutoencoder
from client.training.noise import SystemNoise
from common.errors import InputError
from common.privacy import GaussianEvent, epsilon, epsilon_gaussian

GENERATOR = np.random.default_rng(11)


def test_figures_on_shifted_normal_scores() -> None:
    members = GENERATOR.normal(1.0, 1, 20_000)
    others = GENERATOR.normal(0.0, 1, 200_000)
    risk = membership_risk(members, others)
    assert risk.auc == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=0.01)
    assert risk.auc_low < stats.norm.cdf(1 / np.sqrt(2)) < risk.auc_high
    for point in risk.points:
        exact = stats.norm.sf(stats.norm.isf(point.false_positive_rate) - 1)
        assert point.true_positive_rate == pytest.approx(exact, rel=0.15)
        assert point.low < point.true_positive_rate < point.high


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for _ in range(300):
        risk = membership_risk(GENERATOR.normal(0.5, 1, 80), GENERATOR.normal(0.0, 1, 60))
        held += risk.auc_low <= stats.norm.cdf(0.5 / np.sqrt(2)) <= risk.auc_high
    assert stats.binom.ppf(1e-7, 300, 0.93) <= held <= 300


def test_scores_that_tell_nothing_or_everything() -> None:
    same = membership_risk(np.zeros(100), np.zeros(100))
    assert same.auc == 0.5
    assert [point.true_positive_rate for point in same.points] == [0, 0]
    perfect = membership_risk(np.ones(100), np.zeros(100))
    assert perfect.auc == 1.0
    assert [point.true_positive_rate for point in perfect.points] == [1, 1]
    assert perfect.breaks(3.0, 1e-6)
    assert not same.breaks(0.1, 1e-6)


@pytest.mark.parametrize(
    ("members", "others"), [([1.0], [0.0, 1.0]), ([1.0, 2.0], [0.0, float("nan")])]
)
def test_too_few_or_broken_scores_are_refused(members: list[float], others: list[float]) -> None:
    with pytest.raises(InputError):
        membership_risk(np.array(members), np.array(others))


@given(eps=st.floats(0, 20), delta=st.floats(0, 0.1), rate=st.floats(0, 1))
def test_bounds_by_epsilon_are_the_region_of_the_theorem(
    eps: float, delta: float, rate: float
) -> None:
    true = highest_true_positive_rate(eps, delta, rate)
    assert rate <= true + 1e-12 <= 1 + 1e-12
    assert true <= np.exp(eps) * rate + delta + 1e-9
    assert (1 - rate - delta) * np.exp(-eps) <= 1 - true + 1e-9
    grid = np.linspace(0, 1, 4001)
    area = np.trapezoid([highest_true_positive_rate(eps, delta, x) for x in grid[::40]], grid[::40])
    assert highest_auc(eps, delta) == pytest.approx(area, abs=0.02)


def test_no_epsilon_means_guessing() -> None:
    assert highest_auc(0, 0) == pytest.approx(0.5)
    assert highest_true_positive_rate(0, 0, 0.3) == pytest.approx(0.3)
    assert highest_auc(1000, 0) == pytest.approx(1.0)


def test_the_best_attack_on_a_gaussian_mechanism_is_within_its_bound() -> None:
    """The likelihood ratio of one noisy value: no attack is better."""
    sigma, delta = 1.0, 1e-6
    risk = membership_risk(GENERATOR.normal(1, sigma, 200_000), GENERATOR.normal(0, sigma, 200_000))
    claimed = epsilon_gaussian(sigma, delta)
    assert not risk.breaks(claimed, delta)
    assert risk.breaks(0.2 * claimed, delta)


def test_likelihood_ratios_see_what_plain_scores_do_not() -> None:
    """Customers differ more in how well they are fitted than membership moves their scores."""
    n, shadows = 2000, 16
    difficulty = GENERATOR.normal(0, 5, n)
    inside = np.tile(np.arange(shadows) % 2 == 0, (n, 1)).T ^ (GENERATOR.random(n) < 0.5)
    shadow_scores = difficulty + inside + GENERATOR.normal(0, 0.5, (shadows, n))
    member = GENERATOR.random(n) < 0.5
    scores = difficulty + member + GENERATOR.normal(0, 0.5, n)

    def auc(found: np.ndarray) -> float:
        return membership_risk(found[member], found[~member]).auc

    reference = difficulty + GENERATOR.normal(0, 0.5, n)
    assert auc(scores) < 0.6
    assert auc(calibrated(scores, reference)) > 0.8
    assert auc(likelihood_ratios(scores, shadow_scores, inside)) > 0.9
    with pytest.raises(InputError, match="or in that of all"):
        likelihood_ratios(scores, shadow_scores, np.ones_like(inside))


N_ITEMS, RANK, CUSTOMERS = 200, 16, 400


def population(seed: int, n: int = CUSTOMERS) -> CustomerItemMatrix:
    """Unit rows of customers with a taste each, and with habits of their own."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(5, 15, n)
    rows = []
    for size in sizes:
        taste = generator.integers(0, 8)
        near = taste * 25 + np.minimum(generator.geometric(0.1, 40), 25) - 1
        far = generator.integers(0, N_ITEMS, 40)
        mixed = np.where(generator.random(40) < 0.6, near, far)
        rows.append(np.sort(generator.permutation(np.unique(mixed))[:size]))
    lengths = np.array([len(row) for row in rows])
    return CustomerItemMatrix(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate(rows).astype(np.int32),
        np.repeat(1 / np.sqrt(lengths), lengths).astype(np.float32),
        N_ITEMS,
    )


def trained(customers: CustomerItemMatrix, settings: LocalSettings) -> TiedAutoencoder:
    generator = np.random.default_rng(3)
    model = TiedAutoencoder(
        {
            "item_factors": generator.normal(0, 0.1, (N_ITEMS, RANK)).astype(np.float32),
            "hidden_bias": np.zeros(RANK, dtype=np.float32),
            "item_bias": np.zeros(N_ITEMS, dtype=np.float32),
        }
    )
    train_locally(model, customers, settings, SystemNoise())
    return model


def likelihoods(model: TiedAutoencoder, customers: CustomerItemMatrix) -> np.ndarray:
    """The mean log-likelihood of each customer's own items: what an attacker can compute."""
    found = []
    for start in range(0, customers.n_rows, CHUNK_CUSTOMERS):
        rows = customers.rows(start, start + CHUNK_CUSTOMERS)
        logits = model.scores(rows).astype(np.float64)
        log = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        owners = np.repeat(np.arange(rows.n_rows), np.diff(rows.indptr))
        sums = np.bincount(owners, log[owners, rows.indices], minlength=rows.n_rows)
        found.append(sums / np.diff(rows.indptr))
    return np.concatenate(found)


def attacked(settings: LocalSettings) -> MembershipRisk:
    inside, outside, apart = population(1), population(2), population(4)
    model, reference = trained(inside, settings), trained(apart, settings)
    members, others = (
        calibrated(likelihoods(model, part), likelihoods(reference, part))
        for part in (inside, outside)
    )
    return membership_risk(members, others)


@pytest.mark.slow
def test_membership_shows_in_an_overfitted_recommender_and_not_in_a_private_one() -> None:
    private = LocalSettings(
        noise_multiplier=6.0,
        clipping_norm=0.3,
        sampling_probability=0.2,
        steps=200,
        expected_batch_size=80.0,
        learning_rate=3.0,
    )
    delta = 1e-5
    claimed = epsilon([GaussianEvent(6.0, 0.2, 200)], delta)
    overfitted = LocalSettings(
        noise_multiplier=1e-3,
        clipping_norm=10.0,
        sampling_probability=1.0,
        steps=3000,
        expected_batch_size=400.0,
        learning_rate=0.003,
        optimizer="adam",
    )
    exposed, protected = attacked(overfitted), attacked(private)
    print(f"\noverfitted: {exposed}\nprivate, ε = {claimed:.2f}: {protected}")  # noqa: T201
    # The attack works where it can, so that its failure under privacy says something.
    assert exposed.auc_low > 0.7
    assert exposed.points[1].low > 0.05
    assert exposed.breaks(0.5, delta)
    assert not protected.breaks(claimed, delta)
    assert protected.auc_high < 0.65
