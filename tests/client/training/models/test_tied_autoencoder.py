"""The closed form against autograd, customer by customer, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.dataset import CustomerItemMatrix
from client.training.models.softmax_kernel import KernelPasses
from client.training.models.softmax_passes import TorchPasses
from client.training.models.tied_autoencoder import TiedAutoencoder
from common.errors import InputError
from tests.support.clipped_oracle import Oracle, random_rows, relative_error, released

SIZE, RANK = 12, 3


def arrays(seed: int, scale: float = 0.5, bias: float = 0.5) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "item_factors": generator.normal(0, scale, (SIZE, RANK)).astype(np.float32),
        "hidden_bias": generator.normal(0, bias, RANK).astype(np.float32),
        "item_bias": generator.normal(0, bias, SIZE).astype(np.float32),
    }


def loss(parameters: dict[str, torch.Tensor], items: Sequence[int], values: Sequence[float]):  # type: ignore[no-untyped-def]
    """The docstring's formula, written out densely."""
    row = torch.zeros(SIZE, dtype=torch.float64)
    row[list(items)] = torch.tensor(values, dtype=torch.float64)
    hidden = torch.tanh(parameters["item_factors"].T @ row + parameters["hidden_bias"])
    logits = parameters["item_factors"] @ hidden + parameters["item_bias"]
    return -(row / row.sum() * torch.log_softmax(logits, 0)).sum()


ORACLE = Oracle(loss)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    n_customers=st.integers(0, 9),
    scale=st.sampled_from([0.01, 0.3, 2.0]),
    clipping_norm=st.sampled_from([0.01, 0.3, 5.0]),
)
def test_the_sum_is_that_of_autograd_clipped_customer_by_customer(
    seed: int, n_customers: int, scale: float, clipping_norm: float
) -> None:
    start, rows = arrays(seed, scale), random_rows(n_customers, SIZE, seed)
    expected = ORACLE.clipped_sum(start, rows, clipping_norm)
    found = released(TiedAutoencoder(start), rows, clipping_norm)
    assert relative_error(found, expected) <= 1e-5


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 30.0, 1e4]),
    bias=st.sampled_from([0.0, 1.0, 100.0]),
    clipping_norm=st.sampled_from([1e-6, 0.3, 10.0]),
)
def test_one_customer_contributes_at_most_c_whatever_the_parameters(
    seed: int, scale: float, bias: float, clipping_norm: float
) -> None:
    rows = random_rows(1, SIZE, seed, least=1)
    found = released(TiedAutoencoder(arrays(seed, scale, bias)), rows, clipping_norm)
    squared = sum(float((each.astype(np.float64) ** 2).sum()) for each in found.values())
    assert squared**0.5 <= clipping_norm


def test_who_has_no_entries_contributes_nothing_and_nor_does_nobody() -> None:
    for n_customers in (0, 3):
        rows = CustomerItemMatrix(
            np.zeros(n_customers + 1, dtype=np.int64),
            np.zeros(0, dtype=np.int32),
            np.zeros(0, dtype=np.float32),
            SIZE,
        )
        assert not any(
            each.any() for each in released(TiedAutoencoder(arrays(1)), rows, 1).values()
        )


@pytest.mark.parametrize("spoiled", ["value", "parameter", "item", "negative", "norm"])
def test_what_cannot_be_clipped_is_refused(spoiled: str) -> None:
    start, rows, clipping_norm = arrays(1), random_rows(3, SIZE, 1, least=1), 1.0
    if spoiled == "value":
        rows.values[0] = np.nan
    elif spoiled == "parameter":
        start["item_factors"][2, 1] = np.inf
    elif spoiled == "item":
        rows.indices[0] = SIZE
    elif spoiled == "negative":
        rows.values[0] = -1.0
    else:
        clipping_norm = float("nan")
    with pytest.raises(InputError):
        released(TiedAutoencoder(start), rows, clipping_norm)


def test_the_scores_are_the_logits() -> None:
    start, rows = arrays(3), random_rows(4, SIZE, 3, least=1)
    dense = np.zeros((4, SIZE))
    owners = np.repeat(np.arange(4), np.diff(rows.indptr))
    dense[owners, rows.indices] = rows.values
    hidden = np.tanh(dense @ start["item_factors"] + start["hidden_bias"])
    expected = hidden @ start["item_factors"].T + start["item_bias"]
    assert np.allclose(TiedAutoencoder(start).scores(rows), expected, atol=1e-5)


def test_the_sum_does_not_depend_on_the_parts_it_is_made_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, rows = arrays(4), random_rows(23, SIZE, 4)
    whole = released(TiedAutoencoder(start), rows, 0.3)
    seen: list[int] = []
    added = TiedAutoencoder._add

    def counted(self, sparse, clipping_norm, into) -> None:  # type: ignore[no-untyped-def]
        seen.append(sparse.n_rows)
        added(self, sparse, clipping_norm, into)

    monkeypatch.setattr(TiedAutoencoder, "_add", counted)
    for passes in (KernelPasses, TorchPasses):
        monkeypatch.setattr(passes, "part_size", lambda self, n_items: 10)
    assert relative_error(released(TiedAutoencoder(start), rows, 0.3), whole) <= 1e-6
    assert sorted(seen) == [7, 8, 8]


def test_biases_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match="do not fit"):
        TiedAutoencoder({**arrays(1), "hidden_bias": np.zeros(RANK + 1, np.float32)})
