"""Both ways through customers × items against float64, the kernel's widths against each other."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.training.models import softmax_kernel
from client.training.models.native_kernels import built, in_threads
from client.training.models.softmax_kernel import (
    KernelPasses,
    agrees,
    is_compiled,
    load_kernel,
    softmax_passes,
)
from client.training.models.softmax_passes import Decoder, SoftmaxPasses, TorchPasses
from client.training.models.sparse_batch import SparseBatch
from tests.support.clipped_oracle import random_rows

Case = tuple[SparseBatch, torch.Tensor, Decoder]
Found = dict[str, torch.Tensor]


def library() -> ctypes.CDLL:
    (path,) = built("_softmax")
    return load_kernel(path)


def widths() -> list[int]:
    """Those that this processor has."""
    return [width for width in (8, 16) if width <= library().fedpref_softmax_width()]


def every_way() -> list[SoftmaxPasses]:
    return [TorchPasses(), *(KernelPasses(library(), width) for width in widths())]


def case(n: int, n_items: int, rank: int, seed: int, scale: float = 1.0) -> Case:
    generator = np.random.default_rng(seed)
    hidden, factors, bias = (
        torch.from_numpy(generator.normal(0, scale, shape).astype(np.float32))
        for shape in ((n, rank), (n_items, rank), (n_items,))
    )
    rows = random_rows(n, min(n_items, 40), seed)
    return SparseBatch.of(rows, n_items), hidden, Decoder(factors, bias)


def done(passes: SoftmaxPasses, given: Case, *, squares: bool = True) -> Found:
    """All that passes give, as what does not depend on the shift: shares of the softmax."""
    sparse, hidden, decoder = given
    sums = passes.exponentials(sparse, hidden, decoder, squares=squares)
    scale = sums.totals.reciprocal()
    share = scale.float()
    residuals = torch.linspace(-1, 1, len(sparse.items))
    into = Decoder(torch.ones_like(decoder.factors), torch.ones_like(decoder.bias))
    passes.add_gradients(hidden * share[:, None], share, into)
    passes.add_entries(sparse, residuals, (hidden.cos(), hidden), hidden[:, 0].contiguous(), into)
    return {
        "squares": sums.squares * scale.square(),
        "slopes": sums.slopes * scale[:, None],
        "taken": sums.taken * scale[sparse.owners],
        "factors": into.factors,
        "bias": into.bias,
    }


def expected(given: Case) -> Found:
    sparse, hidden, decoder = given
    x, factors = hidden.double(), decoder.factors.double()
    shares = torch.softmax(x @ factors.T + decoder.bias.double(), 1)
    taken = shares[sparse.owners, sparse.items]
    others = shares.clone()
    others[sparse.owners, sparse.items] = 0.0
    residuals = torch.linspace(-1, 1, len(sparse.items)).double()
    first, second = hidden.cos().double()[sparse.owners], x[sparse.owners]
    rows = sparse.values.double()[:, None] * first + residuals[:, None] * second
    return {
        "squares": others.square().sum(1),
        "slopes": others @ factors,
        "taken": taken,
        "factors": 1.0 + (others.T @ x).index_add_(0, sparse.items, rows),
        "bias": 1.0 + others.sum(0).index_add_(0, sparse.items, residuals * second[:, 0]),
    }


def furthest(found: Found, wanted: Found) -> float:
    """The largest difference, relative to the largest value of each."""
    return max(
        float((found[name] - each).abs().max() / each.abs().max().clamp_min(1e-30))
        for name, each in wanted.items()
        if each.numel()
    )


def test_the_kernel_is_built_and_in_use() -> None:
    assert is_compiled()
    assert isinstance(softmax_passes(), KernelPasses)


@settings(max_examples=60)
@given(
    n=st.integers(1, 70),
    n_items=st.integers(1, 700),
    rank=st.integers(1, 70),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_every_way_gives_what_double_precision_gives(
    n: int, n_items: int, rank: int, seed: int, scale: float
) -> None:
    given_case = case(n, n_items, rank, seed, scale)
    for passes in every_way():
        # Logits of some tens have an error of some 1e-6 themselves.
        assert furthest(done(passes, given_case), expected(given_case)) <= 2e-5


@settings(max_examples=30)
@given(n=st.integers(1, 40), n_items=st.integers(1, 600), rank=st.integers(1, 70))
def test_bits_depend_neither_on_the_width_nor_on_threads(n: int, n_items: int, rank: int) -> None:
    given_case = case(n, n_items, rank, seed=n)
    results = []
    threads = torch.get_num_threads()
    try:
        for width, count in itertools.product(widths(), (1, 3)):
            torch.set_num_threads(count)
            results.append(done(KernelPasses(library(), width), given_case))
    finally:
        torch.set_num_threads(threads)
    for each, name in itertools.product(results, results[0]):
        assert torch.equal(each[name], results[0][name])


@pytest.mark.parametrize("jump", [20.0, 35.0, 500.0])
def test_what_comes_late_may_be_far_above_what_came_first(jump: float) -> None:
    sparse, hidden, decoder = case(40, 600, 8, seed=1, scale=0.5)
    decoder.bias[400:] += jump
    for passes in every_way():
        given_case = sparse, hidden, decoder
        assert furthest(done(passes, given_case), expected(given_case)) <= 1e-4


def test_nobody_changes_a_bit_of_what_is_found_for_another() -> None:
    sparse, hidden, decoder = case(40, 600, 8, seed=2)
    # An item of which only one customer's first number tells: hers alone is far above the first.
    decoder.factors[500], decoder.factors[500, 0] = 0.0, 50.0
    hidden[:, 0] = 0.0
    calm, wild = hidden.clone(), hidden.clone()
    wild[7, 0] = 10.0
    for passes in every_way()[1:]:
        one, other = (done(passes, (sparse, each, decoder)) for each in (calm, wild))
        same = torch.arange(40) != 7
        for name in ("squares", "slopes"):
            assert torch.equal(one[name][same], other[name][same])
            assert not torch.equal(one[name], other[name])
        mine = same[sparse.owners]
        assert torch.equal(one["taken"][mine], other["taken"][mine])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("item", [3, 599])
def test_a_logit_that_is_not_finite_is_not_hidden(bad: float, item: int) -> None:
    sparse, hidden, decoder = case(3, 600, 8, seed=1)
    decoder.bias[item] = bad
    for passes in every_way():
        assert not passes.exponentials(sparse, hidden, decoder).totals.reciprocal().gt(0).any()


def test_squares_that_are_not_asked_for_are_zeros() -> None:
    given_case = case(5, 50, 8, seed=1)
    for passes in every_way():
        assert not done(passes, given_case, squares=False)["squares"].any()


def test_gradients_are_not_added_to_a_copy() -> None:
    _, hidden, decoder = case(4, 50, 8, seed=1)
    apart = Decoder(torch.zeros(8, 50).T, torch.zeros(50))
    with pytest.raises(ValueError, match="contiguous"):
        every_way()[-1].add_gradients(hidden, hidden[:, 0], apart)
    del decoder


def test_the_exponential_is_within_one_unit_in_the_last_place() -> None:
    # Every exponent of a float, the ends of the range, and fractions of all sizes.
    bits = np.arange(0x3000_0000, 0x42AE_0001, 97, dtype=np.uint32)
    negative = -np.resize(bits.view(np.float32), len(bits) // 16 * 16)
    positive = negative[-negative <= 30.0]
    positive = -positive[: len(positive) // 16 * 16]
    for width, given_values in itertools.product(widths(), (negative, positive)):
        found = exponential(width, given_values)
        exact = np.exp(given_values.astype(np.float64))
        unit = np.exp2(np.floor(np.log2(exact)) - 23)
        assert (np.abs(found - exact) / unit).max() <= 1.0


def test_the_exponential_at_its_ends() -> None:
    special = [0.0, -0.0, -np.inf, -87.5, -1e30, np.nan, 80.0, np.inf]
    for width in widths():
        found = exponential(width, np.array([*special, *[0.0] * 8], dtype=np.float32))
        assert found[:2].tolist() == [1.0, 1.0]
        assert found[2:5].tolist() == [0.0, 0.0, 0.0]
        assert np.isnan(found[5])
        # Whoever has such logits gets another shift: here it only must not become infinite.
        assert found[6] == found[7] < np.inf


def exponential(width: int, values: np.ndarray) -> np.ndarray:
    values, found = np.ascontiguousarray(values), np.empty(len(values), dtype=np.float32)
    library().fedpref_softmax_exp(width, values.ctypes.data, found.ctypes.data, len(values))
    return found.astype(np.float64)


class OffByLittle(TorchPasses):
    def add_gradients(self, weights: torch.Tensor, shares: torch.Tensor, into: Decoder) -> None:
        super().add_gradients(weights * 1.001, shares, into)


def test_a_kernel_that_differs_or_is_missing_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees(TorchPasses())
    assert not agrees(OffByLittle())

    def missing(path: Path) -> ctypes.CDLL:
        raise OSError(f"no {path}")

    for name, instead in (("agrees", lambda passes: False), ("load_kernel", missing)):
        with monkeypatch.context() as patched:
            patched.setattr(softmax_kernel, name, instead)
            softmax_kernel._usable.cache_clear()
            assert isinstance(softmax_passes(), TorchPasses)
    softmax_kernel._usable.cache_clear()


def test_ranges_of_threads_cover_everything_once() -> None:
    threads = torch.get_num_threads()
    try:
        for count, n in itertools.product((1, 2, 5), (0, 1, 4, 11)):
            torch.set_num_threads(count)
            seen: list[int] = []
            in_threads(lambda first, last, seen=seen: seen.extend(range(first, last)), n)
            assert sorted(seen) == list(range(n))
    finally:
        torch.set_num_threads(threads)
