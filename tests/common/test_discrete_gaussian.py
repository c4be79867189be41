from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given
from hypothesis import strategies as st

from common import privacy
from common.discrete_gaussian import (
    LEAST_SHARE,
    SharedNoise,
    calibrate_share,
    epsilon,
    epsilon_by_survivors,
    epsilon_renyi,
    sensitivity_of,
)
from common.errors import InputError
from common.grid_stddev import GridStddev

DELTA = 1e-6


def _noise(
    share: float, shares: int, *, sensitivity: float = 1.0, coordinates: int = 1
) -> SharedNoise:
    return SharedNoise(GridStddev.at_least(share), shares, sensitivity, coordinates)


def _pmf(stddev: float, reach: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * stddev**2))
    return weights / weights.sum()


def _sum_pmf(stddev: float, shares: int) -> np.ndarray:
    """The probabilities of a sum of so many discrete Gaussians, by convolution."""
    one = _pmf(stddev, math.ceil(12 * stddev) + 2)
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    return total


def _as_mapping(pmf: np.ndarray, shift: int) -> dict[int, float]:
    """Logarithms of probabilities by outcome, as dp-accounting reads them."""
    return {i - len(pmf) // 2 + shift: math.log(p) for i, p in enumerate(pmf) if p > 0}


def _delta_by_enumeration(pmf: np.ndarray, shift: tuple[int, ...], eps: float) -> float:
    """The hockey-stick divergence in several dimensions, outcome by outcome."""
    reach, margin = len(pmf) // 2, max(map(abs, shift))
    padded = np.pad(pmf, margin)
    moved = [np.roll(padded, step) for step in shift]
    joint = [np.ones(()), np.ones(())]
    for moved_axis in moved:
        joint = [
            np.multiply.outer(joint[0], padded),
            np.multiply.outer(joint[1], moved_axis),
        ]
    assert reach > 0
    return float(np.maximum(joint[1] - math.exp(eps) * joint[0], 0).sum())


@pytest.mark.parametrize("shares", [2, 3, 10])
@pytest.mark.parametrize("share", [0.5, 0.625, 0.75, 1.0])
def test_a_sum_of_shares_is_as_near_to_one_discrete_gaussian_as_tau_says(
    share: float, shares: int
) -> None:
    # By long floats: the distance is below what doubles resolve.
    with mpmath.workdps(40):

        def weights(variance: float) -> list[mpmath.mpf]:
            raw = [mpmath.exp(-mpmath.mpf(x * x) / (2 * variance)) for x in range(-40, 41)]
            return [each / sum(raw) for each in raw]

        one = total = weights(share**2)
        for _ in range(shares - 1):
            total = [
                mpmath.fsum(
                    total[i] * one[j - i + 40] for i in range(max(0, j - 40), min(81, j + 41))
                )
                for j in range(81)
            ]
        ideal = weights(shares * share**2)
        distance = max(abs(mpmath.log(total[x] / ideal[x])) for x in range(34, 47))
    exponent = -2 * math.pi**2 * share**2
    tau = 10 * sum(math.exp(exponent * k / (k + 1)) for k in range(1, shares))
    assert 0 < distance <= tau
    # It is no idle bound.
    assert distance > tau / (100 if shares == 2 else 10_000)


def test_rounding_a_gaussian_makes_the_discrete_gaussian() -> None:
    # The second theorem, by numerical integration: N_Z(g, η²) around g from N(0, v − η²).
    variance, eta_squared = mpmath.mpf(30), mpmath.mpf(1)
    with mpmath.workdps(30):

        def rounded(x: int) -> mpmath.mpf:
            def weight(g: mpmath.mpf) -> mpmath.mpf:
                near = mpmath.exp(-((x - g) ** 2) / (2 * eta_squared))
                return (
                    mpmath.npdf(g, 0, mpmath.sqrt(variance - eta_squared))
                    * near
                    / mpmath.nsum(
                        lambda z: mpmath.exp(-((z - g) ** 2) / (2 * eta_squared)),
                        [x - 25, x + 25],
                        method="d",
                    )
                )

            return mpmath.quad(weight, [x - 12, x - 4, x, x + 4, x + 12])

        whole = mpmath.fsum(mpmath.exp(-mpmath.mpf(z * z) / (2 * variance)) for z in range(-99, 99))
        e = 2 * mpmath.exp(-2 * mpmath.pi**2 * eta_squared)
        for x in (0, 3, 11):
            exact = mpmath.exp(-mpmath.mpf(x * x) / (2 * variance)) / whole
            assert abs(mpmath.log(rounded(x) / exact)) <= mpmath.log((1 + e) / (1 - e)) * 1.01


def test_the_known_figures_of_ten_regions() -> None:
    noise = calibrate_share(
        privacy.calibrate_sigma(2.0, DELTA), shares=10, sensitivity=2.0**20, coordinates=8_000
    )
    found = epsilon_by_survivors([(noise, 1)], DELTA, [10, 9, 5, 1])
    assert [round(found[n], 2) for n in (10, 9, 5, 1)] == [2.0, 2.12, 2.93, 7.31]
    assert found[10] <= 2.0


@pytest.mark.parametrize("sensitivity", [14, 40, 200])
@pytest.mark.parametrize("target", [0.5, 2.0, 8.0])
def test_it_is_never_below_dp_accounting_and_hardly_above(target: float, sensitivity: int) -> None:
    noise = calibrate_share(
        privacy.calibrate_sigma(target, DELTA), shares=5, sensitivity=sensitivity, coordinates=10
    )
    # One coordinate that takes the whole shift is one of the cases that the bound must cover.
    accounted = privacy_loss_distribution.from_discrete_gaussian_mechanism(
        math.sqrt(noise.variance),
        sensitivity=sensitivity,
        value_discretization_interval=1e-4,
        use_connect_dots=True,
    ).get_epsilon_for_delta(DELTA)
    found = epsilon([(noise, 1)], DELTA)
    # Privacy loss distributions of the Gaussian err upwards in the ninth digit.
    assert accounted <= found <= target * (1 + 1e-8)
    assert found <= accounted * (1 + 0.5 / sensitivity) + 1e-4
    # The published theorem alone says more, never less.
    assert found <= epsilon_renyi([(noise, 1)], DELTA) <= found * 1.25


def test_it_is_never_below_dp_accounting_s_reading_of_the_very_sum() -> None:
    noise = _noise(4.0, 3, sensitivity=9.0, coordinates=1)
    pmf = _sum_pmf(noise.share.value, 3)
    very_sum = privacy_loss_distribution.from_two_probability_mass_functions(
        _as_mapping(pmf, 0), _as_mapping(pmf, 9), value_discretization_interval=1e-4
    )
    for rounds in (1, 4):
        accounted = very_sum.self_compose(rounds).get_epsilon_for_delta(DELTA)
        found = epsilon([(noise, rounds)], DELTA)
        assert accounted <= found <= accounted * 1.06


@pytest.mark.parametrize("shift", [(3, 0), (2, 2), (3, 1), (1, 1, 1), (2, 1, 2)])
@pytest.mark.parametrize("eps", [0.2, 1.0, 2.0])
def test_in_several_dimensions_no_shift_reveals_more(shift: tuple[int, ...], eps: float) -> None:
    noise = _noise(2.0, 4, sensitivity=math.hypot(*shift), coordinates=len(shift))
    exact = _delta_by_enumeration(_sum_pmf(2.0, 4)[46:-46], shift, eps)
    assert exact > 0
    # ε at that δ must not be below the ε at which enumeration found it.
    assert epsilon([(noise, 1)], min(exact, 0.1)) >= eps * (1 - 1e-6) or exact > 0.1


def test_noise_a_tenth_too_small_is_more_than_the_statement_allows() -> None:
    noise = _noise(2.0, 4, sensitivity=3.0)
    allowed = epsilon([(noise, 1)], 1e-3)
    assert _delta_by_enumeration(_sum_pmf(2.0, 4), (3,), allowed) <= 1e-3
    assert _delta_by_enumeration(_sum_pmf(1.5, 4), (3,), allowed) > 1e-3


@given(
    st.floats(0.05, 50.0),
    st.integers(1, 60),
    st.floats(50.0, 1e6),
    st.integers(1, 10**7),
)
def test_calibration_gives_at_least_what_was_asked(
    noise_multiplier: float, shares: int, sensitivity: float, coordinates: int
) -> None:
    wanted = math.hypot(noise_multiplier * sensitivity, 2) / math.sqrt(shares)
    if not LEAST_SHARE < wanted < 2**24 - 2:
        with pytest.raises(InputError):
            calibrate_share(
                noise_multiplier, shares=shares, sensitivity=sensitivity, coordinates=coordinates
            )
        return
    noise = calibrate_share(
        noise_multiplier, shares=shares, sensitivity=sensitivity, coordinates=coordinates
    )
    assert noise_multiplier <= noise.noise_multiplier <= noise_multiplier * (1 + 1e-6)
    assert noise.log_ratio < 1e-20


def test_epsilon_falls_with_noise_and_regions_and_grows_with_rounds_and_sensitivity() -> None:
    def of(
        share: float = 400.0, shares: int = 5, sensitivity: float = 500.0, rounds: int = 2
    ) -> float:
        return epsilon([(_noise(share, shares, sensitivity=sensitivity), rounds)], DELTA)

    assert of(share=440) < of() < of(share=360)
    assert of(shares=6) < of() < of(shares=4)
    assert of(rounds=1) < of() < of(rounds=3)
    assert of(sensitivity=450) < of() < of(sensitivity=550)


def test_releases_compose_like_gaussian_mechanisms() -> None:
    popularity = calibrate_share(6.0, shares=4, sensitivity=2.0**18, coordinates=5_000)
    factors = calibrate_share(9.0, shares=4, sensitivity=2.0**16, coordinates=1_200)
    both = epsilon([(popularity, 1), (factors, 4)], DELTA)
    events = [privacy.GaussianEvent(6.0), privacy.GaussianEvent(9.0, count=4)]
    assert both == pytest.approx(privacy.epsilon(events, DELTA), rel=1e-5)
    assert both <= privacy.epsilon(events, DELTA)
    assert both <= epsilon_renyi([(popularity, 1), (factors, 4)], DELTA)


def test_with_too_few_regions_there_is_no_statement_but_infinity() -> None:
    noise = _noise(4.0, 3, sensitivity=1.0, coordinates=10)
    assert epsilon_by_survivors([(noise, 1)], DELTA, [0])[0] == math.inf
    assert 1e-4 < _noise(1.0, 40).tau < 1e-3
    with pytest.raises(InputError, match="too little noise"):
        _noise(0.875, 40)
    with pytest.raises(InputError, match="too little noise"):
        _noise(2.0, 2)


@pytest.mark.parametrize("sensitivity", [0.0, math.nan, math.inf, -1.0])
def test_malformed_releases_are_refused(sensitivity: float) -> None:
    with pytest.raises(InputError):
        _noise(10.0, 2, sensitivity=sensitivity)


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_delta_out_of_range_is_refused(delta: float) -> None:
    releases = [(_noise(10.0, 2), 1)]
    for account in (epsilon, epsilon_renyi):
        with pytest.raises(InputError, match="delta"):
            account(releases, delta)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50),
    st.integers(-20, 0),
)
def test_truncation_never_makes_a_contribution_longer(values: list[float], exponent: int) -> None:
    row = np.array(values)
    units = np.trunc(np.ldexp(row, -exponent))
    assert np.linalg.norm(units) <= sensitivity_of(float(np.linalg.norm(row)), exponent) * (
        1 + 1e-12
    )


def test_rounding_a_sum_would_move_it_further_than_one_customer_s_norm() -> None:
    # Why contributions are truncated one by one: √d · γ more, which at large d is most of it.
    d, gamma = 10_000, 2.0**-12
    others = np.full(d, 0.4999 * gamma)
    customer = np.full(d, 0.0002 * gamma)
    moved = np.rint((others + customer) / gamma) - np.rint(others / gamma)
    assert np.linalg.norm(moved) == pytest.approx(math.sqrt(d))
    assert np.linalg.norm(moved) > 1000 * np.linalg.norm(customer) / gamma
    assert not np.trunc(customer / gamma).any()


def test_limiting_the_sum_s_range_is_a_contraction() -> None:
    generator = np.random.default_rng(0)
    for _ in range(100):
        first, second = generator.integers(-200, 200, (2, 30))
        limited = np.clip(first, -50, 50) - np.clip(second, -50, 50)
        assert np.linalg.norm(limited) <= np.linalg.norm(first - second)


def test_every_pair_of_small_shifts_is_covered_by_the_norm() -> None:
    pmf = _sum_pmf(2.0, 4)
    noise = _noise(2.0, 4, sensitivity=3.0, coordinates=2)
    for shift in itertools.product(range(4), repeat=2):
        if 0 < math.hypot(*shift) <= 3:
            assert _delta_by_enumeration(pmf, shift, epsilon([(noise, 1)], 1e-4)) <= 1e-4
