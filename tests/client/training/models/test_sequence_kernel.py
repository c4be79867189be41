"""Attention and sums of outer products: both ways against float64, widths against each other."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.training.models import sequence_kernel
from client.training.models.native_kernels import built
from client.training.models.sasrec import SasRec
from client.training.models.sequence_kernel import (
    KernelAttention,
    OuterSums,
    SequenceKernel,
    agrees,
    causal_attention,
    is_compiled,
    load_kernel,
    place_sums,
)
from common.strategies import SASREC, initial_parameters
from tests.client.training.models.test_sasrec import sequences
from tests.support.clipped_oracle import norm_of, relative_error, released

SIZES = st.sampled_from([32, 64])


def kernels() -> list[SequenceKernel]:
    """Of every width that this processor has."""
    (path,) = built("_sequences")
    library = load_kernel(path)
    widest = library.fedpref_sequences_width()
    return [SequenceKernel(library, width) for width in (8, 16) if width <= widest]


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32))


def lengths_of(n: int, longest: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, longest + 1, n))


def attended(
    three: torch.Tensor, upwards: torch.Tensor, attend: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """What attention gives, and the gradient by what went in."""
    given_three = three.clone().requires_grad_()
    mixed = attend(given_three)
    (by_three,) = torch.autograd.grad(mixed, given_three, grad_outputs=upwards)
    return mixed.detach(), by_three


def by_torch(three: torch.Tensor, heads: int) -> torch.Tensor:
    """PyTorch's own attention."""
    n, longest, width = three.shape
    parts = (part.reshape(n, longest, heads, -1).transpose(1, 2) for part in three.chunk(3, dim=2))
    mixed = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
    return mixed.transpose(1, 2).reshape(n, longest, width // 3)


def test_the_kernel_is_built_and_in_use() -> None:
    assert is_compiled()


@settings(max_examples=40)
@given(
    n=st.integers(1, 5),
    longest=st.integers(1, 70),
    heads=st.integers(1, 3),
    size=SIZES,
    seed=st.integers(0, 10_000),
)
def test_attention_is_pytorchs_in_double_precision(
    n: int, longest: int, heads: int, size: int, seed: int
) -> None:
    lengths = lengths_of(n, longest, seed)
    inside = (torch.arange(longest) < lengths[:, None])[:, :, None]
    three = drawn(n, longest, 3 * heads * size, seed=seed)
    upwards = drawn(n, longest, heads * size, seed=seed + 1) * inside
    exact = attended(three.double(), upwards.double(), lambda each: by_torch(each, heads))
    ways = [lambda each: causal_attention(each.double(), lengths, heads).to(each.dtype)]
    for kernel in kernels():
        ways.append(lambda each, kernel=kernel: KernelAttention.apply(each, lengths, heads, kernel))
    for way in ways:
        mixed, by_three = attended(three, upwards, way)
        assert float((mixed * inside - exact[0] * inside).abs().max()) <= 1e-5
        assert float((by_three - exact[1]).abs().max()) <= 2e-5 * max(
            1, float(exact[1].abs().max())
        )
        assert not (by_three * ~inside).any()


def test_what_is_behind_the_end_changes_nothing_before_it() -> None:
    lengths = torch.tensor([20, 33])
    inside = (torch.arange(50) < lengths[:, None])[:, :, None]
    three, upwards = drawn(2, 50, 192), drawn(2, 50, 64) * inside
    other = torch.where(inside, three, torch.full_like(three, 7.0))
    for kernel in kernels():
        one, two = (
            attended(
                each, upwards, lambda x, kernel=kernel: KernelAttention.apply(x, lengths, 1, kernel)
            )
            for each in (three, other)
        )
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
        assert not (one[0] * ~inside).any()


@settings(max_examples=40)
@given(
    n=st.integers(0, 6),
    longest=st.integers(1, 60),
    k=st.integers(1, 70),
    columns=st.sampled_from([32, 64, 96, 24]),
    seed=st.integers(0, 10_000),
)
def test_outer_sums_are_those_of_double_precision(
    n: int, longest: int, k: int, columns: int, seed: int
) -> None:
    lengths = lengths_of(n, longest, seed)
    inside = (torch.arange(longest) < lengths[:, None])[:, :, None]
    # A view whose rows are further apart than they are long, as those of the negatives are.
    inputs = drawn(n, longest, k + 1, seed=seed)[:, :, 1:]
    gradients = drawn(n, longest, columns, seed=seed + 1) * inside
    exact = torch.bmm(inputs.double().transpose(1, 2), gradients.double())
    factor = drawn(n, seed=seed + 2).abs()
    memory = torch.full((n * k * columns + 5,), float("nan"))
    for sums in (
        OuterSums(inputs, gradients, lengths),
        OuterSums(inputs, gradients, lengths, memory),
        OuterSums(inputs.double(), gradients.double(), lengths),
    ):
        squares = exact.square().sum((1, 2))
        assert torch.allclose(sums.squared_norms, squares, rtol=2e-6, atol=1e-9)
        weighted = torch.einsum("n,nkd->kd", factor.double(), exact)
        assert torch.allclose(sums.weighted(factor).double(), weighted, rtol=1e-5, atol=1e-4)
        assert torch.allclose(sums.sums.double(), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("columns", [64, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_over_places_are_those_of_double_precision(columns: int, dtype: torch.dtype) -> None:
    lengths = torch.tensor([0, 1, 31, 17])
    inside = (torch.arange(31) < lengths[:, None])[:, :, None]
    inputs, gradients = drawn(4, 31, columns), drawn(4, 31, columns, seed=2) * inside
    for beside, exact in (
        (None, gradients.double()),
        (inputs.to(dtype), inputs.double() * gradients.double()),
    ):
        found = place_sums(gradients.to(dtype), lengths, beside)
        assert found.dtype == dtype
        assert torch.allclose(found.double(), exact.sum(1), rtol=1e-5, atol=1e-5)


def test_what_is_added_is_what_was_measured_in_every_bit() -> None:
    lengths, k = torch.tensor([0, 5, 31]), 13
    sums = OuterSums(drawn(3, 31, k), drawn(3, 31, 64, seed=2), lengths)
    squares = sums.squared_norms
    for owner in range(3):
        alone = sums.weighted(torch.eye(3)[owner])
        assert torch.equal(alone, sums.sums[owner])
        assert float(alone.double().square().sum()) == pytest.approx(
            float(squares[owner]), rel=1e-6
        )


def test_bits_depend_neither_on_the_width_nor_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = torch.tensor([50, 7, 33, 0])
    three, upwards = drawn(4, 50, 192), drawn(4, 50, 64)
    results = []
    threads = torch.get_num_threads()
    try:
        for kernel, count in itertools.product(kernels(), (1, 3)):
            torch.set_num_threads(count)
            monkeypatch.setattr(sequence_kernel, "_usable", lambda kernel=kernel: kernel)
            sums = OuterSums(upwards, three, lengths)
            results.append(
                [
                    *attended(three, upwards, lambda each: causal_attention(each, lengths, 2)),
                    sums.squared_norms,
                    sums.weighted(torch.linspace(0, 1, 4)),
                    place_sums(three, lengths, three),
                    place_sums(upwards, lengths),
                ]
            )
    finally:
        torch.set_num_threads(threads)
    for result in results:
        assert all(map(torch.equal, result, results[0]))


def model(seed: int, scale: float = 1.0) -> SasRec:
    options = {"blocks": "2", "heads": "2", "max_length": "6", "negatives": "5"}
    start = initial_parameters(SASREC, 64, options, popularity=np.ones(9), seed=seed)
    generator = np.random.default_rng(seed)
    arrays = {
        name: ((each + generator.normal(0, 0.1, each.shape)) * scale).astype(np.float32)
        for name, each in start.items()
    }
    return SasRec(arrays, blocks=2, heads=2, negatives=5, seed=7)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), clipping_norm=st.sampled_from([0.05, 0.5, 50.0]))
def test_sasrec_releases_the_same_with_and_without_the_kernel(
    seed: int, clipping_norm: float
) -> None:
    rows = sequences(6, seed)
    found = released(model(seed), rows, clipping_norm)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sequence_kernel, "_usable", lambda: None)
        expected = released(model(seed), rows, clipping_norm)
    assert relative_error(found, expected) <= 1e-5


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 10.0, 1e3]),
    clipping_norm=st.sampled_from([1e-6, 0.3, 10.0]),
)
def test_one_customer_contributes_at_most_c_by_the_kernel(
    seed: int, scale: float, clipping_norm: float
) -> None:
    found = released(model(seed, scale), sequences(1, seed), clipping_norm)
    assert norm_of(found) <= clipping_norm


def test_a_kernel_that_differs_or_is_missing_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(agrees(kernel) for kernel in kernels())
    attend = sequence_kernel._attend

    def off(kernel: SequenceKernel, name: str, given: Any, heads: int, arrays: Any) -> None:
        attend(kernel, name, given, heads, arrays)
        arrays[-1].mul_(1.001)

    def missing(path: Path) -> ctypes.CDLL:
        raise OSError(f"no {path}")

    for name, instead in (("_attend", off), ("load_kernel", missing)):
        with monkeypatch.context() as patched:
            patched.setattr(sequence_kernel, name, instead)
            sequence_kernel._usable.cache_clear()
            assert not is_compiled()
    sequence_kernel._usable.cache_clear()


def test_the_kernels_check_may_be_asked_for_by_whoever_only_scores() -> None:
    """A recommender asks for it first, where no gradients are kept."""
    with torch.no_grad():
        assert all(agrees(kernel) for kernel in kernels())
