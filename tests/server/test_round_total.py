from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import FormatError, InputError
from common.parameters import ArraySpec, snap_to_grid
from server.round_total import Aggregator, ExactSum, RoundTotal, WholeTotal, require_exact

EXPONENT = -22
SPECS = (ArraySpec("matrix", "<f4", (5, 3)), ArraySpec("vector", "<f4", (7,)))
Release = dict[str, np.ndarray]


def exact_sum(max_regions: int = 60, max_magnitude: float = 2.0**34) -> ExactSum:
    return ExactSum(
        SPECS, grid_exponent=EXPONENT, max_magnitude=max_magnitude, max_regions=max_regions
    )


def release(seed: int, scale: float = 1.0) -> Release:
    generator = np.random.default_rng(seed)
    return {
        spec.name: snap_to_grid(generator.normal(0, scale, spec.shape), EXPONENT) for spec in SPECS
    }


def added(releases: dict[str, Release]) -> RoundTotal:
    aggregator: Aggregator = exact_sum()
    for region, arrays in releases.items():
        aggregator.add(region, arrays)
    return aggregator.total()


def by_fractions(releases: dict[str, Release], name: str) -> list[Fraction]:
    """The sum as mathematics has it."""
    columns = zip(*(each[name].reshape(-1).tolist() for each in releases.values()), strict=True)
    return [sum(map(Fraction, column), Fraction()) for column in columns]


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32),
    scales=st.lists(st.sampled_from([1e-6, 1e-2, 1.0, 400.0, 1e5, 1e9]), min_size=1, max_size=12),
)
def test_the_sum_is_exact_in_32_and_in_64_bits(seed: int, scales: list[float]) -> None:
    releases = {f"r{place}": release(seed + place, scale) for place, scale in enumerate(scales)}
    total = added(releases)
    assert total.n_regions == len(scales)
    for spec in SPECS:
        values = total.values(spec.name)
        assert values.shape == spec.shape
        assert values.dtype == np.float64
        assert values.reshape(-1).tolist() == [
            float(exact) for exact in by_fractions(releases, spec.name)
        ]


def test_the_order_of_arrival_leaves_every_bit_as_it_is() -> None:
    values = {"a": 2.0**31, "b": 2.0**-22, "c": -(2.0**31), "d": 3 * 2.0**-22}
    releases = {
        region: {spec.name: np.full(spec.shape, value, np.float32) for spec in SPECS}
        for region, value in values.items()
    }
    in_float64 = set()
    for order in permutations(releases):
        total = added({region: releases[region] for region in order})
        assert (total.values("vector") == 4 * 2.0**-22).all()
        in_float64.add(float(np.cumsum([values[region] for region in order])[-1]))
    assert len(in_float64) > 1


def test_sums_beyond_what_float64_holds_still_do_not_depend_on_the_order() -> None:
    # 2^55 and a few single steps: float64 would drop the steps one by one.
    big = 2.0 ** (55 + EXPONENT)
    values = [big, *[2.0**EXPONENT] * 24]
    assert np.cumsum(values)[-1] == big
    for order in (values, values[::-1]):
        total = added(
            {
                f"r{place}": {spec.name: np.full(spec.shape, value, np.float32) for spec in SPECS}
                for place, value in enumerate(order)
            }
        )
        assert (total.values("vector") == big + 24 * 2.0**EXPONENT).all()


def test_pieces_are_the_whole_in_order() -> None:
    spec = ArraySpec("long", "<f4", (300, 1000))
    generator = np.random.default_rng(3)
    values = snap_to_grid(generator.normal(size=spec.shape), EXPONENT)
    summed = ExactSum([spec], grid_exponent=EXPONENT, max_magnitude=10.0, max_regions=1)
    summed.add("r", {"long": values})
    for total in (summed.total(), WholeTotal.of([{"long": values}])):
        flat = np.full(values.size, np.nan)
        pieces = list(total.chunks("long"))
        for place, piece in pieces:
            flat[place] = piece
        assert len(pieces) > 1
        assert np.array_equal(flat, values.reshape(-1).astype(np.float64))
        assert np.array_equal(total.values("long"), values)
        with pytest.raises(FormatError, match="released no other"):
            total.values("other")
        with pytest.raises(FormatError, match="released no other"):
            list(total.chunks("other"))


def test_small_sums_take_32_bits_a_value_and_widen_when_they_must() -> None:
    spec = ArraySpec("long", "<f4", (200_000,))
    summed = ExactSum([spec], grid_exponent=EXPONENT, max_magnitude=2.0**36, max_regions=3)
    summed.add("a", {"long": np.full(spec.shape, 500.0, np.float32)})
    narrow = summed.total()
    assert {block.dtype for block in narrow.steps["long"]} == {np.dtype(np.int32)}
    summed = ExactSum([spec], grid_exponent=EXPONENT, max_magnitude=2.0**36, max_regions=3)
    for region in "abc":
        summed.add(region, {"long": np.full(spec.shape, 500.0, np.float32)})
    wide = summed.total()
    assert {block.dtype for block in wide.steps["long"]} == {np.dtype(np.int64)}
    assert (wide.values("long") == 1500.0).all()


def other_shape(arrays: Release) -> Release:
    return {**arrays, "vector": arrays["vector"][:1]}


def off_grid(arrays: Release) -> Release:
    return {**arrays, "vector": arrays["vector"] + np.float32(2.0**-24)}


def not_finite(arrays: Release) -> Release:
    return {**arrays, "vector": np.full((7,), np.nan, np.float32)}


def too_large(arrays: Release) -> Release:
    return {**arrays, "vector": np.full((7,), 2.0**35, np.float32)}


def lacking(arrays: Release) -> Release:
    return {"vector": arrays["vector"]}


@pytest.mark.parametrize("change", [other_shape, off_grid, not_finite, too_large, lacking])
def test_a_release_that_is_refused_leaves_the_sum_as_it_was(
    change: Callable[[Release], Release],
) -> None:
    summed = exact_sum()
    summed.add("a", release(1))
    with pytest.raises(FormatError):
        summed.add("b", change({name: array * 0 for name, array in release(2).items()}))
    total = summed.total()
    assert total.n_regions == 1
    assert np.array_equal(total.values("matrix"), release(1)["matrix"])


def test_a_region_counts_once_and_only_the_plans_number_of_them() -> None:
    summed = exact_sum(max_regions=2)
    summed.add("a", release(1))
    with pytest.raises(InputError, match="a is in the sum already"):
        summed.add("a", release(1))
    summed.add("b", release(2))
    with pytest.raises(InputError, match="2 regions at most"):
        summed.add("c", release(3))
    assert summed.total().n_regions == 2


def test_nothing_to_sum() -> None:
    with pytest.raises(InputError, match="no release"):
        exact_sum().total()


@pytest.mark.parametrize("magnitude", [2.0**41, float("inf"), float("nan")])
def test_what_64_bits_may_not_hold_is_refused_before_anyone_is_asked(magnitude: float) -> None:
    require_exact(grid_exponent=-22, max_magnitude=2.0**40, max_regions=1)
    with pytest.raises(InputError, match="might not be exact"):
        require_exact(grid_exponent=-22, max_magnitude=magnitude, max_regions=1)
    with pytest.raises(InputError, match="might not be exact"):
        exact_sum(max_magnitude=magnitude)


def test_the_range_of_the_proof_is_reached_without_a_wrap() -> None:
    spec = ArraySpec("x", "<f4", (1,))
    top = 2.0**39  # 2^61 steps, three of which are below 2^63
    summed = ExactSum([spec], grid_exponent=-22, max_magnitude=top, max_regions=3)
    for region in "abc":
        summed.add(region, {"x": np.array([top], np.float32)})
    assert summed.total().values("x").tolist() == [3 * top]


def test_plain_sums_of_what_is_on_no_grid() -> None:
    total = WholeTotal.of([{"x": np.array([0.1, 0.2])}, {"x": np.array([0.3, 0.4])}])
    assert np.allclose(total.values("x"), [0.4, 0.6])
    assert total.n_regions == 2
