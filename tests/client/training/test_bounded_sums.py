"""The mechanism behind queries: bounded rows, the noise that is claimed, and faults that it finds.

The gates are those of training (`client.training.audit_gates`), for one sum: how large noise is
where nobody contributes, whether it is ever the same twice, and how much one customer can move a
sum. Each is shown to fail on the planted fault it is for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.sparse import csr_matrix

from client.data.transactions import Purchases
from client.training import bounded_sums
from client.training.bounded_sums import Contributions, bounded_sum, clip_rows, noisy_sum
from client.training.noise import NoiseSource, SystemNoise
from common.calibration import calibrate_noise_multiplier
from common.canonical_json import JsonValue
from common.errors import InputError
from common.parameters import ArraySpec
from common.privacy import GaussianEvent, epsilon

SIZE = 2000
FALSE_ALARM = 1e-6
WINDOW = {"start_ms": 0, "end_ms": 1000}
# A sum of a few dozen rows of float64 is exact to far more digits than this.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Counts:
    """How often each item was bought, times a factor: larger than any bound."""

    size: int = SIZE
    factor: float = 1.0
    name: str = "counts"
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def spec(self) -> ArraySpec:
        return ArraySpec("counts", "<f4", (self.size,))

    def contributions(self, purchases: Purchases) -> Contributions:
        return Contributions(
            purchases.owner.astype(np.int64),
            purchases.item.astype(np.int64),
            np.full(len(purchases), self.factor),
        )


def purchases_of(baskets: Mapping[str, list[int]], time_ms: int = 500) -> Purchases:
    owners = tuple(baskets)
    items = [item for each in baskets.values() for item in each]
    owner = np.repeat(np.arange(len(owners)), [len(each) for each in baskets.values()])
    return Purchases(
        owners,
        owner.astype(np.int32),
        np.array(items, dtype=np.int32),
        np.full(len(items), time_ms, dtype=np.int64),
    )


def customers(n: int, seed: int = 5) -> dict[str, list[int]]:
    """Customers who bought much of a few items."""
    generator = np.random.default_rng(seed)
    return {
        f"customer-{number}": generator.integers(0, SIZE, int(generator.integers(1, 300))).tolist()
        for number in range(n)
    }


def released(
    parts: list[Purchases], noise: NoiseSource, *, clipping_norm: float = 1.0, sigma: float = 2.0
) -> npt.NDArray[np.float64]:
    values = noisy_sum(
        parts,
        Counts(),
        **WINDOW,
        clipping_norm=clipping_norm,
        noise_multiplier=sigma,
        grid_exponent=-10,
        noise=noise,
    )
    return values.astype(np.float64)


class NoNoise(SystemNoise):
    """For looking at what customers contribute."""

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> npt.NDArray[np.float64]:
        return np.zeros(shape)


# -- what one customer can add -------------------------------------------------------------------

VALUES = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 9),
        st.floats(-1e200, 1e200, allow_nan=False, allow_infinity=False),
    ),
    max_size=40,
)


@dataclass(frozen=True)
class Given:
    """Whatever a test says that customers add."""

    triples: list[tuple[int, int, float]]
    name: str = "given"
    spec: ArraySpec = field(default_factory=lambda: ArraySpec("given", "<f4", (10,)))
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)

    def contributions(self, purchases: Purchases) -> Contributions:
        owner, place, value = (np.array(each) for each in zip(*self.triples, strict=True))
        return Contributions(owner.astype(np.int64), place.astype(np.int64), value.astype(float))


FIVE = purchases_of({f"customer-{number}": [] for number in range(5)})


@given(VALUES.filter(bool), st.floats(1e-3, 1e3))
def test_nobody_adds_more_than_the_clipping_norm(
    triples: list[tuple[int, int, float]], clipping_norm: float
) -> None:
    for customer in range(5):
        own = [each for each in triples if each[0] == customer]
        if not own:
            continue
        total = bounded_sum([FIVE], Given(own), **WINDOW, clipping_norm=clipping_norm)
        assert float(np.linalg.norm(total)) <= clipping_norm


@given(VALUES.filter(bool))
def test_rows_add_up_and_nobody_depends_on_another(triples: list[tuple[int, int, float]]) -> None:
    def total(of: list[tuple[int, int, float]]) -> npt.NDArray[np.float64]:
        return bounded_sum([FIVE], Given(of), **WINDOW, clipping_norm=1.0) if of else np.zeros(10)

    alone = [total([each for each in triples if each[0] == number]) for number in range(5)]
    np.testing.assert_allclose(total(triples), np.sum(alone, axis=0), atol=TOLERANCE)


def test_repeats_are_one_contribution() -> None:
    many = bounded_sum([FIVE], Given([(0, 3, 1.0)] * 5), **WINDOW, clipping_norm=1.0)
    assert many[3] == pytest.approx(1.0, abs=1e-5)
    assert many[3] <= 1.0
    short = bounded_sum([FIVE], Given([(0, 3, 0.1)] * 5), **WINDOW, clipping_norm=1.0)
    assert short[3] == pytest.approx(0.5)


def test_purchases_outside_the_window_do_not_count() -> None:
    late, early = purchases_of({"a": [1]}, 1000), purchases_of({"b": [1]}, -1)
    first, last = purchases_of({"c": [1]}, 0), purchases_of({"d": [1]}, 999)
    total = bounded_sum([late, early, first, last], Counts(), **WINDOW, clipping_norm=1.0)
    assert total.sum() == pytest.approx(2.0, abs=1e-5)


def test_a_customer_in_two_parts_is_refused() -> None:
    parts = [purchases_of({"a": [1], "b": [2]}), purchases_of({"a": [3]})]
    with pytest.raises(InputError, match="two parts"):
        bounded_sum(parts, Counts(), **WINDOW, clipping_norm=1.0)


@pytest.mark.parametrize(
    "triples",
    [[(5, 0, 1.0)], [(-1, 0, 1.0)], [(0, 10, 1.0)], [(0, -1, 1.0)]],
)
def test_contributions_of_nobody_or_to_nothing_are_refused(
    triples: list[tuple[int, int, float]],
) -> None:
    with pytest.raises(InputError, match="that there is not"):
        bounded_sum([FIVE], Given(triples), **WINDOW, clipping_norm=1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="not finite"):
        bounded_sum([FIVE], Given([(0, 0, value)]), **WINDOW, clipping_norm=1.0)


@pytest.mark.parametrize("clipping_norm", [0.0, -1.0, math.nan, math.inf])
def test_a_clipping_norm_that_bounds_nothing_is_refused(clipping_norm: float) -> None:
    with pytest.raises(InputError, match="clipping norm"):
        clip_rows(csr_matrix(np.eye(2)), clipping_norm)


def test_no_customers_give_pure_noise_on_the_grid() -> None:
    values = released([], SystemNoise())
    assert values.shape == (SIZE,)
    assert np.array_equal(np.rint(values * 1024), values * 1024)
    assert np.count_nonzero(values) > 0.99 * SIZE


# -- gates, and the faults that they are for -------------------------------------------------------

Release = Callable[[list[Purchases], NoiseSource], npt.NDArray[np.float64]]


def noise_size(release: Release) -> float:
    """χ² of the noise where nobody contributes, as a share of what is allowed."""
    stddev, worst = 2.0, 0.0
    for parts in ([], [purchases_of({f"c{n}": [] for n in range(800)})]):
        standardised = release(parts, SystemNoise()) / stddev
        ratio = float((standardised**2).sum()) / SIZE
        low = float(stats.chi2.ppf(FALSE_ALARM / 2, SIZE)) / SIZE
        high = float(stats.chi2.isf(FALSE_ALARM / 2, SIZE)) / SIZE
        worst = max(worst, (1 - ratio) / (1 - low) if ratio < 1 else (ratio - 1) / (high - 1))
    return worst


def noise_reuse(release: Release) -> float:
    """Correlation of the noise of two answers, in units of what is allowed."""
    noise = SystemNoise()
    first, second = release([], noise), release([], noise)
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    score = abs(float(first @ second)) / norms * math.sqrt(SIZE) if norms else 0.0
    return score / float(stats.norm.isf(FALSE_ALARM / 2))


def contribution(release: Release) -> float:
    """The most that leaving one customer out moves a sum, in units of C."""
    baskets = customers(20)
    whole = release([purchases_of(baskets)], NoNoise())
    largest = 0.0
    for name in baskets:
        others = {other: items for other, items in baskets.items() if other != name}
        moved = whole - release([purchases_of(others)], NoNoise())
        largest = max(largest, float(np.linalg.norm(moved)))
    # Each value of a release is rounded to the grid.
    return largest / (1.0 + 2.0**-10 * math.sqrt(SIZE))


GATES = {"noise size": noise_size, "noise reuse": noise_reuse, "contribution": contribution}


class Scaled(SystemNoise):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> npt.NDArray[np.float64]:
        return super().gaussian(shape, stddev) * self._factor


def scaled(factor: float) -> Release:
    def release(parts: list[Purchases], noise: NoiseSource) -> npt.NDArray[np.float64]:
        return released(parts, noise if isinstance(noise, NoNoise) else Scaled(factor))

    return release


def same_noise(parts: list[Purchases], noise: NoiseSource) -> npt.NDArray[np.float64]:
    drawn = np.random.default_rng(1).normal(0.0, 2.0, SIZE)
    return released(parts, NoNoise()) + (0 if isinstance(noise, NoNoise) else drawn)


def touched_only(parts: list[Purchases], noise: NoiseSource) -> npt.NDArray[np.float64]:
    total = bounded_sum(parts, Counts(), **WINDOW, clipping_norm=1.0)
    return released(parts, noise) * (total != 0)


def unclipped(parts: list[Purchases], noise: NoiseSource) -> npt.NDArray[np.float64]:
    return released(parts, noise, clipping_norm=1e6, sigma=2e-6)


def five_rows(parts: list[Purchases], noise: NoiseSource) -> npt.NDArray[np.float64]:
    """Each of a customer's receipts is taken for a customer."""
    receipts = [
        Purchases(
            tuple(f"{name}/{number}" for name in part.owners for number in range(5)),
            (part.owner * 5 + np.arange(len(part)) % 5).astype(np.int32),
            part.item,
            part.time_ms,
        )
        for part in parts
    ]
    return released(receipts, noise)


def counting(parts: list[Purchases], noise: NoiseSource) -> npt.NDArray[np.float64]:
    """Divided by the number of customers: the noise tells how many there are."""
    n = sum(len(part.owners) for part in parts)
    return released(parts, noise) * 20 / max(n, 20)


FAULTS: list[tuple[str, Release, str]] = [
    ("no noise", scaled(0.0), "noise size"),
    ("σ × 0.5", scaled(0.5), "noise size"),
    ("σ × 0.9", scaled(0.9), "noise size"),
    ("noise on touched values only", touched_only, "noise size"),
    ("the same noise each time", same_noise, "noise reuse"),
    ("no clipping", unclipped, "contribution"),
    ("five rows per customer", five_rows, "contribution"),
    ("a normaliser that counts customers", counting, "noise size"),
]


@pytest.mark.parametrize("gate", GATES)
def test_the_mechanism_passes_each_gate(gate: str) -> None:
    assert GATES[gate](released) <= 1.0


@pytest.mark.parametrize(
    ("fault", "gate"), [each[1:] for each in FAULTS], ids=[each[0] for each in FAULTS]
)
def test_each_planted_fault_is_caught(fault: Release, gate: str) -> None:
    assert GATES[gate](fault) > 1.0


def test_without_the_margin_a_row_may_be_longer_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(3)
    rows = csr_matrix(generator.normal(size=(500, 37)))
    assert (np.linalg.norm(clip_rows(rows, 0.3).toarray(), axis=1) <= 0.3).all()
    monkeypatch.setattr(bounded_sums, "_MARGIN", 0.0)
    assert (np.linalg.norm(clip_rows(rows, 0.3).toarray(), axis=1) > 0.3).any()


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("target", [0.5, 2.0])
def test_the_noise_for_an_epsilon_holds_by_another_accountant(steps: int, target: float) -> None:
    sigma = calibrate_noise_multiplier(
        epsilon=target, delta=1e-6, sampling_probability=1.0, steps=steps
    )
    accountant = PLDAccountant()
    accountant.compose(GaussianDpEvent(sigma), steps)
    assert accountant.get_epsilon(1e-6) <= target * (1 + 1e-9)
    assert epsilon([GaussianEvent(sigma)] * steps, 1e-6) <= target
