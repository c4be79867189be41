"""Shares of a query's answer: rows in whole units, what one customer moves, the noise of all."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.sparse import csr_matrix

from client.training import bounded_units
from client.training.bounded_sums import bounded_sum, clip_rows
from client.training.bounded_units import row_units, shared_sum, unit_sum
from client.training.noise import SystemNoise
from common.discrete_gaussian import SharedNoise, calibrate_share, epsilon, sensitivity_of
from common.errors import InputError
from common.privacy import epsilon_gaussian
from common.secure_aggregation import Quantiser
from tests.client.training.test_bounded_sums import SIZE, WINDOW, Counts, customers, purchases_of

GRID, REGIONS = -10, 5
QUANTISER = Quantiser(GRID, REGIONS)
FALSE_ALARM = 1e-6
# So many sums that nine tenths of the noise are seen with a certainty of the same kind.
SUMS = 5
ROWS = arrays(np.float64, (6, 9), elements=st.floats(-1e6, 1e6))


def share_for(sigma: float = 4.0, *, clipping_norm: float = 1.0, size: int = SIZE) -> SharedNoise:
    return calibrate_share(
        sigma,
        shares=REGIONS,
        sensitivity=sensitivity_of(clipping_norm, GRID),
        coordinates=size,
    )


@given(ROWS, st.floats(2.0**-8, 64.0))
def test_no_row_in_units_is_longer_than_the_sensitivity(
    rows: npt.NDArray[np.float64], clipping_norm: float
) -> None:
    clipped = clip_rows(csr_matrix(rows), clipping_norm)
    units = row_units(clipped, clipping_norm, GRID)
    owner = np.repeat(np.arange(6), np.diff(clipped.indptr))
    for row in range(6):
        # In whole numbers of Python: nothing is rounded.
        squares = sum(int(each) ** 2 for each in units[owner == row])
        assert squares <= sensitivity_of(clipping_norm, GRID) ** 2


def test_rounded_to_the_nearest_alone_rows_would_be_too_long() -> None:
    rows = csr_matrix(np.full((1, 9), 1 / 3))
    nearest = np.rint(np.ldexp(rows.data, 3)).astype(np.int64)
    assert int((nearest**2).sum()) > sensitivity_of(1.0, -3) ** 2
    units = row_units(clip_rows(rows, 1.0), 1.0, -3)
    assert int((units**2).sum()) <= sensitivity_of(1.0, -3) ** 2


@pytest.mark.parametrize("most", [1, 4, 16, 64])
def test_counts_stay_exactly_what_they_are(most: int) -> None:
    rows = csr_matrix(np.full((50, most), 1 / math.sqrt(most)))
    total = np.bincount(rows.indices, weights=row_units(clip_rows(rows, 1.0), 1.0, GRID))
    np.testing.assert_array_equal(np.ldexp(total, GRID) * math.sqrt(most), 50.0)


def test_the_sum_is_that_of_floats_but_for_the_grid() -> None:
    parts = [purchases_of(customers(60))]
    in_floats = bounded_sum(parts, Counts(), **WINDOW, clipping_norm=1.0)
    units = unit_sum(parts, Counts(), **WINDOW, clipping_norm=1.0, grid_exponent=GRID)
    assert np.abs(np.ldexp(units.astype(float), GRID) - in_floats).max() <= 60 * 2.0**GRID


def test_leaving_one_customer_out_moves_it_by_no_more_than_the_sensitivity() -> None:
    baskets = customers(20)
    window = {**WINDOW, "clipping_norm": 1.0, "grid_exponent": GRID}
    whole = unit_sum([purchases_of(baskets)], Counts(), **window)
    for name in baskets:
        others = {other: items for other, items in baskets.items() if other != name}
        moved = whole - unit_sum([purchases_of(others)], Counts(), **window)
        assert int((moved**2).sum()) <= sensitivity_of(1.0, GRID) ** 2


def summed(noise: SystemNoise, *, sigma: float = 4.0) -> npt.NDArray[np.float64]:
    """Many sums of five regions without customers, as the ring gives them."""
    return np.concatenate([_sum_of_regions(noise, sigma) for _ in range(SUMS)])


def _sum_of_regions(noise: SystemNoise, sigma: float) -> npt.NDArray[np.float64]:
    total = np.zeros(SIZE, dtype=np.uint32)
    for _ in range(REGIONS):
        part = shared_sum(
            [],
            Counts(),
            **WINDOW,
            clipping_norm=1.0,
            share=share_for(sigma),
            quantiser=QUANTISER,
            noise=noise,
        )
        total = total + part.view(np.uint32)
    return np.ldexp(total.view(np.int32).astype(np.float64), GRID)


def noise_ratio(drawn: npt.NDArray[np.float64]) -> float:
    """χ² of the noise, as a share of what is allowed."""
    stddev = math.ldexp(math.sqrt(share_for().variance), GRID)
    ratio = float(((drawn / stddev) ** 2).mean())
    low = float(stats.chi2.ppf(FALSE_ALARM / 2, len(drawn))) / len(drawn)
    high = float(stats.chi2.isf(FALSE_ALARM / 2, len(drawn))) / len(drawn)
    return (1 - ratio) / (1 - low) if ratio < 1 else (ratio - 1) / (high - 1)


def test_the_noise_of_all_shares_is_what_is_claimed_and_a_missing_share_shows() -> None:
    assert noise_ratio(summed(SystemNoise())) <= 1.0
    # Four of five shares, or nine tenths of the noise.
    assert noise_ratio(summed(SystemNoise(), sigma=4.0 * math.sqrt(0.8))) > 1.0
    assert noise_ratio(summed(SystemNoise(), sigma=3.6)) > 1.0


def test_the_shares_together_are_worth_the_noise_that_a_region_alone_would_add() -> None:
    # But for the last digits of a bisection.
    assert epsilon([(share_for(4.3), 1)], 1e-6) <= epsilon_gaussian(4.3, 1e-6) * (1 + 1e-7)


def test_regions_add_up_to_all_customers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_units, "ring_release", lambda units, *_: units.astype(np.int32))
    baskets = customers(40)
    names = list(baskets)
    total = np.zeros(SIZE, dtype=np.int64)
    for region in range(REGIONS):
        own = {name: baskets[name] for name in names[region::REGIONS]}
        total += shared_sum(
            [purchases_of(own)],
            Counts(),
            **WINDOW,
            clipping_norm=1.0,
            share=share_for(),
            quantiser=QUANTISER,
            noise=SystemNoise(),
        )
    everyone = unit_sum(
        [purchases_of(baskets)], Counts(), **WINDOW, clipping_norm=1.0, grid_exponent=GRID
    )
    np.testing.assert_array_equal(total, everyone)


@pytest.mark.parametrize(
    "share", [share_for(clipping_norm=0.5), share_for(size=SIZE - 1)], ids=["norm", "size"]
)
def test_a_share_for_other_rows_is_refused(share: SharedNoise) -> None:
    with pytest.raises(InputError, match="made for other rows"):
        shared_sum(
            [],
            Counts(),
            **WINDOW,
            clipping_norm=1.0,
            share=share,
            quantiser=QUANTISER,
            noise=SystemNoise(),
        )


@pytest.mark.parametrize(("clipping_norm", "grid"), [(2.0**-12, -10), (2.0**10, -24)])
def test_a_grid_that_does_not_suit_the_norm_is_refused(clipping_norm: float, grid: int) -> None:
    with pytest.raises(InputError, match="units of this grid"):
        row_units(csr_matrix(np.eye(2)), clipping_norm, grid)
