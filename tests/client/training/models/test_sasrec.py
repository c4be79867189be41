"""Book-keeping against autograd through another writing of the network, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from client.data.dataset import CustomerItemMatrix
from client.training.models.sasrec import Precision, SasRec
from common.errors import InputError
from common.strategies import SASREC, initial_parameters, parameter_specs
from tests.support.clipped_oracle import Oracle, norm_of, relative_error, released

SIZE, RANK, HEADS, NEGATIVES, LENGTH = 9, 4, 2, 5, 6
OPTIONS = {"blocks": "2", "heads": "2", "max_length": str(LENGTH), "negatives": "5"}


def arrays(seed: int, scale: float = 1.0, spread: float = 0.3) -> dict[str, np.ndarray]:
    start = initial_parameters(SASREC, RANK, OPTIONS, popularity=np.ones(SIZE), seed=seed)
    generator = np.random.default_rng(seed)
    return {
        name: ((each + generator.normal(0, spread, each.shape)) * scale).astype(np.float32)
        for name, each in start.items()
    }


def model(
    start: dict[str, np.ndarray],
    negatives: int = NEGATIVES,
    first_step: int = 0,
    precision: Precision = "single",
) -> SasRec:
    return SasRec(
        start,
        blocks=2,
        heads=HEADS,
        negatives=negatives,
        seed=7,
        first_step=first_step,
        precision=precision,
    )


def sequences(n_customers: int, seed: int, longest: int = 9) -> CustomerItemMatrix:
    generator = np.random.default_rng(seed)
    rows = [generator.integers(0, SIZE, generator.integers(0, longest)) for _ in range(n_customers)]
    return of(rows)


def of(rows: Sequence[np.ndarray]) -> CustomerItemMatrix:
    items = np.concatenate([np.zeros(0, dtype=np.int64), *rows])
    return CustomerItemMatrix(
        np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        items.astype(np.int32),
        np.ones(len(items), dtype=np.float32),
        SIZE,
    )


def log_share() -> torch.Tensor:
    places = torch.arange(1, SIZE + 1, dtype=torch.float64)
    return torch.log(torch.log((places + 1) / places) / torch.log(torch.tensor(SIZE + 1.0)))


def chosen(start: dict[str, np.ndarray]) -> torch.Tensor:
    prepared = model(start)
    prepared.prepare()
    return prepared._negatives


def loss(
    parameters: dict[str, torch.Tensor], items: Sequence[int], values: Sequence[float]
) -> torch.Tensor:
    """One customer's loss, written with torch's own attention and cross entropy."""
    del values
    p, sequence = parameters, list(items)[-(LENGTH + 1) :]
    if len(sequence) < 2:
        return sum(each.sum() for each in p.values()) * 0.0  # type: ignore[return-value]
    length = len(sequence) - 1
    state = p["item_factors"][sequence[:-1]] + p["position_factors"][:length]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, (RANK,), p[f"{name}_scale"], p[f"{name}_shift"])

    for number in range(2):
        name = f"block_{number}"
        seen = norm(f"{name}_attention_norm", state)
        heads = [
            (seen @ p[f"{name}_{part}"]).view(1, length, HEADS, RANK // HEADS).transpose(1, 2)
            for part in ("query", "key", "value")
        ]
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        state = state + mixed.transpose(1, 2).reshape(length, RANK) @ p[f"{name}_output"]
        seen = norm(f"{name}_forward_norm", state)
        inner = functional.gelu(seen @ p[f"{name}_inner"] + p[f"{name}_inner_bias"])
        state = state + inner @ p[f"{name}_outer"] + p[f"{name}_outer_bias"]
    state = norm("final_norm", state)
    candidates = torch.cat(
        [torch.tensor([[item] for item in sequence[1:]]), NEGATIVE_TABLE[:length]], 1
    )
    logits = (state[:, None, :] * p["item_factors"][candidates]).sum(2)
    logits = logits - (log_share() + np.log(NEGATIVES))[candidates]
    return functional.cross_entropy(logits, torch.zeros(length, dtype=torch.long))


NEGATIVE_TABLE = chosen(arrays(0)).repeat(LENGTH, 1)
ORACLE = Oracle(loss)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    n_customers=st.integers(0, 6),
    scale=st.sampled_from([0.5, 1.0]),
    clipping_norm=st.sampled_from([0.05, 0.5, 50.0]),
)
def test_the_sum_is_that_of_autograd_clipped_customer_by_customer(
    seed: int, n_customers: int, scale: float, clipping_norm: float
) -> None:
    start, rows = arrays(seed, scale), sequences(n_customers, seed)
    expected = ORACLE.clipped_sum(start, rows, clipping_norm)
    doubled = model(start, precision="double")
    # A norm that is a difference of larger terms is taken as larger by what their rounding allows.
    assert relative_error(released(doubled, rows, clipping_norm), expected) <= 1e-4
    # LayerNorm of four numbers that happen to be alike costs single precision its digits.
    assert relative_error(released(model(start), rows, clipping_norm), expected) <= 1e-3


@pytest.mark.parametrize("seed", range(8))
def test_single_precision_is_as_exact_where_the_network_is_sound(seed: int) -> None:
    start, rows = arrays(seed, spread=0.1), sequences(6, seed)
    expected = ORACLE.clipped_sum(start, rows, 0.5)
    assert relative_error(released(model(start), rows, 0.5), expected) <= 1e-5


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 10.0, 1e3]),
    clipping_norm=st.sampled_from([1e-6, 0.3, 10.0]),
)
def test_one_customer_contributes_at_most_c_whatever_the_parameters(
    seed: int, scale: float, clipping_norm: float
) -> None:
    found = released(model(arrays(seed, scale)), sequences(1, seed), clipping_norm)
    assert norm_of(found) <= clipping_norm


def test_an_item_bought_often_and_drawn_as_a_negative_is_one_row() -> None:
    start = arrays(3)
    item = int(chosen(start)[0])
    rows = of([np.array([item] * 5)])
    for clipping_norm in (0.05, 50.0):
        expected = ORACLE.clipped_sum(start, rows, clipping_norm)
        assert relative_error(released(model(start), rows, clipping_norm), expected) <= 1e-5


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_nobody_changes_what_another_contributes(seed: int) -> None:
    start, rows = arrays(seed), sequences(4, seed)
    together = released(model(start), rows, 0.3)
    alone = [released(model(start), rows.rows(row, row + 1), 0.3) for row in range(4)]
    summed = {name: sum(each[name].astype(np.float64) for each in alone) for name in together}
    assert relative_error(together, summed) <= 1e-5


def test_who_has_no_next_purchase_contributes_nothing() -> None:
    for rows in (of([]), of([np.zeros(0, np.int64)] * 3), of([np.array([4])] * 2)):
        assert not any(each.any() for each in released(model(arrays(1)), rows, 1.0).values())


def test_only_the_latest_purchases_count() -> None:
    start, late = arrays(2), np.random.default_rng(1).integers(0, SIZE, LENGTH + 1)
    longer = released(model(start), of([np.concatenate([[1, 2, 3], late])]), 1.0)
    assert all(
        np.array_equal(longer[name], each)
        for name, each in released(model(start), of([late]), 1.0).items()
    )


def test_negatives_are_public_distinct_and_new_in_every_step() -> None:
    first, second = model(arrays(1)), model(arrays(1))
    drawn = []
    for _ in range(4):
        first.prepare()
        second.prepare()
        assert torch.equal(first._negatives, second._negatives)
        assert len(first._negatives.unique()) == NEGATIVES
        drawn.append(tuple(first._negatives.tolist()))
    assert len(set(drawn)) > 1
    later = model(arrays(1), first_step=3)
    later.prepare()
    assert tuple(later._negatives.tolist()) == drawn[3]


def test_more_negatives_than_items_are_all_items() -> None:
    eager = model(arrays(1), negatives=1000)
    eager.prepare()
    assert eager._negatives.tolist() == list(range(SIZE))


def test_popular_items_are_drawn_more_often() -> None:
    counts = np.zeros(SIZE)
    prepared = model(arrays(1), negatives=1)
    for _ in range(2000):
        prepared.prepare()
        counts[prepared._negatives.numpy()] += 1
    share = np.exp(log_share().numpy())
    assert np.abs(counts / 2000 - share).max() <= 5.4 * np.sqrt(share.max() / 2000)


def test_scores_are_of_the_next_purchase() -> None:
    start, rows = arrays(5), of([np.array([1, 2, 3]), np.zeros(0, np.int64), np.array([4])])
    scores = model(start).scores(rows)
    assert scores.shape == (3, SIZE)
    assert not scores[1].any()
    alone = model(start).scores(of([np.array([1, 2, 3])]))
    assert np.allclose(scores[0], alone[0], atol=1e-6)


@pytest.mark.parametrize("spoiled", ["item", "parameter", "norm"])
def test_what_cannot_be_clipped_is_refused(spoiled: str) -> None:
    start, rows, clipping_norm = arrays(1), of([np.array([1, 2, 3])]), 1.0
    if spoiled == "item":
        rows.indices[1] = SIZE
    elif spoiled == "parameter":
        start["block_1_key"][0, 0] = np.nan
    elif spoiled == "norm":
        clipping_norm = 0.0
    with pytest.raises(InputError):
        released(model(start), rows, clipping_norm)


def test_a_step_without_negatives_is_refused() -> None:
    unprepared = model(arrays(1))
    with pytest.raises(InputError, match="not prepared"):
        unprepared.add_clipped_gradients(of([np.array([1, 2, 3])]), 1.0, {})


def test_the_strategy_names_all_that_is_trained() -> None:
    specs = parameter_specs(SASREC, SIZE, RANK, OPTIONS)
    assert {spec.name: spec.shape for spec in specs} == {
        name: each.shape for name, each in arrays(1).items()
    }
