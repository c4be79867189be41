"""Lists by every way of choosing candidates against lists by all scores in double precision."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.recommend import topk, topk_choice
from client.recommend.topk import may_have_missed, ranked_in_full, top_k, with_spare
from client.recommend.topk_choice import agrees, chooser, is_compiled, numpy_candidates
from client.recommend.topk_kernel import KernelCandidates, built, load_kernel
from client.recommend.topk_tables import Candidates, Chooser, Customers, ItemTable, Ranked, Tilt
from common.errors import InputError
from common.ranking import NO_ITEM


def library() -> ctypes.CDLL:
    (path,) = built()
    return load_kernel(path)


def every_way() -> list[Chooser]:
    """NumPy, and the kernel by each width that this processor has."""
    wide = library().fedpref_topk_width()
    kernels = [KernelCandidates(library(), width) for width in (8, 16) if width <= wide]
    return [numpy_candidates, *kernels]


def drawn_tilt(n: int, n_codes: int, generator: np.random.Generator) -> Tilt:
    named = np.sort(generator.permuted(np.tile(np.arange(n_codes), (n, 1)), axis=1)[:, :3], axis=1)
    sizes = np.minimum(generator.integers(0, 4, n), named.shape[1])
    kept = np.arange(named.shape[1]) < sizes[:, None]
    return Tilt(
        generator.random(n),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        named[kept].astype(np.int32),
        generator.random(int(sizes.sum())) * 3,
        n_codes,
    )


def case(
    n: int, n_items: int, rank: int, seed: int, *, n_codes: tuple[int, ...] = (), decay: float = 0.0
) -> tuple[ItemTable, Customers]:
    """Made-up items and customers; with codes only positive scores count."""
    generator = np.random.default_rng(seed)
    factors = generator.normal(0, 1, (n_items, rank)) * np.exp(-decay * np.arange(n_items))[:, None]
    items = ItemTable.of(
        factors.astype(np.float32),
        generator.permutation(2 * n_items)[:n_items],
        weights=generator.random(n_items),
        codes=[generator.integers(0, each, n_items) for each in n_codes],
        positive=bool(n_codes),
    )
    sizes = generator.integers(0, 6, n)
    excluded = [np.sort(generator.permutation(2 * n_items)[:size]) for size in sizes]
    whose = Customers(
        generator.normal(0, 1, (n, rank)),
        np.concatenate([[0], np.cumsum([len(each) for each in excluded])]).astype(np.int64),
        np.concatenate([np.empty(0), *excluded]).astype(np.int32),
        tuple(drawn_tilt(n, each, generator) for each in n_codes),
    )
    return items, whose


def same(found: Ranked, expected: Ranked) -> bool:
    return np.array_equal(found.numbers, expected.numbers) and np.array_equal(
        found.scores, expected.scores
    )


def test_the_kernel_is_built_and_in_use() -> None:
    assert is_compiled()
    assert isinstance(chooser(), KernelCandidates)


@settings(max_examples=60)
@given(
    n=st.integers(0, 70),
    n_items=st.integers(1, 600),
    rank=st.integers(1, 40),
    k=st.integers(1, 30),
    seed=st.integers(0, 10_000),
    n_codes=st.sampled_from([(), (4,), (4, 31), (4, 31, 9)]),
    decay=st.sampled_from([0.0, 0.02]),
)
def test_every_way_gives_the_lists_of_double_precision(
    n: int, n_items: int, rank: int, k: int, seed: int, n_codes: tuple[int, ...], decay: float
) -> None:
    items, customers = case(n, n_items, rank, seed, n_codes=n_codes, decay=decay)
    expected = ranked_in_full(items, customers, k)
    for choose in every_way():
        assert same(top_k(items, customers, k, choose=choose), expected)


def test_lists_in_full_are_what_plain_arithmetic_gives() -> None:
    items, customers = case(9, 80, 5, seed=3, n_codes=(4, 7))
    table = np.maximum(customers.hidden @ items.factors.astype(np.float64).T, 0) * items.weights
    for tilt, codes in zip(customers.tilts, items.codes, strict=True):
        table *= tilt.table()[:, codes]
    ranked = ranked_in_full(items, customers, 80)
    for row in range(9):
        bounds = customers.excluded_indptr[row : row + 2]
        out = set(customers.excluded[bounds[0] : bounds[1]].tolist())
        by_number = {
            int(number): score
            for number, score in zip(items.numbers, table[row], strict=True)
            if score > 0 and int(number) not in out
        }
        wanted = sorted(by_number, key=lambda number: (-by_number[number], number))
        listed = ranked.numbers[row][ranked.numbers[row] != NO_ITEM]
        assert listed.tolist() == wanted
        assert ranked.scores[row][: len(wanted)] == pytest.approx([by_number[w] for w in wanted])


@pytest.mark.parametrize("copies", [3, 40])
def test_equal_items_go_by_their_number(copies: int) -> None:
    generator = np.random.default_rng(1)
    once = generator.normal(0, 1, (30, 6)).astype(np.float32)
    numbers = generator.permutation(30 * copies)
    items = ItemTable.of(np.tile(once, (copies, 1)), numbers)
    customers = Customers.of(generator.normal(0, 1, (35, 6)))
    expected = ranked_in_full(items, customers, 12)
    for choose in every_way():
        found = top_k(items, customers, 12, choose=choose)
        assert same(found, expected)
        ties = np.diff(found.scores, axis=1) == 0
        assert ties.any()
        assert (np.diff(found.numbers, axis=1)[ties] > 0).all()


def nearly_equal() -> tuple[ItemTable, Customers]:
    """Items whose scores single precision cannot tell apart, and double precision can."""
    generator = np.random.default_rng(5)
    factors = np.ones((500, 24), dtype=np.float32)
    factors += generator.integers(-2, 3, factors.shape).astype(np.float32) * np.float32(2.0**-23)
    return ItemTable.of(factors, np.arange(500)), Customers.of(1 / (1 + generator.random((40, 24))))


def test_what_single_precision_cannot_tell_apart_is_ranked_rightly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items, customers = nearly_equal()
    expected = ranked_in_full(items, customers, 10)
    for choose in every_way():
        assert same(top_k(items, customers, 10, choose=choose), expected)
    # Without the bound on the error the candidates alone would decide, wrongly.
    monkeypatch.setattr(topk, "may_have_missed", lambda *_: np.zeros(40, dtype=bool))
    for choose in every_way():
        assert not same(top_k(items, customers, 10, choose=choose), expected)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), rank=st.integers(1, 64), scale=st.sampled_from([1e-3, 1, 1e3]))
def test_single_precision_errs_by_less_than_the_bound(seed: int, rank: int, scale: float) -> None:
    items, customers = case(20, 300, rank, seed, n_codes=(4, 7))
    customers = replace(customers, hidden=customers.hidden * scale)
    for choose in every_way():
        found = choose(items, customers, 40, threads=1)
        exact = topk.exact_scores(items, customers, found)
        there = found.numbers != NO_ITEM
        error = np.abs(np.where(there, exact - found.scores, 0.0)).max(axis=1)
        # An item of the last candidate's score plus its error is just what may have been missed.
        last = found.scores[:, -1] + error
        full = found.counts == 40
        assert may_have_missed(items, customers, found, last)[full].all()


def test_most_customers_need_no_second_look() -> None:
    items, customers = case(200, 3000, 16, seed=8, n_codes=(20, 90))
    for choose in every_way():
        found = choose(items, customers, with_spare(10), threads=1)
        tenth = np.sort(topk.exact_scores(items, customers, found), axis=1)[:, -10]
        assert may_have_missed(items, customers, found, tenth).mean() < 0.02


def test_threads_and_other_customers_change_nothing() -> None:
    items, customers = case(100, 900, 9, seed=4, n_codes=(4, 7))
    for choose in every_way():
        whole = top_k(items, customers, 10, choose=choose)
        assert same(top_k(items, customers, 10, threads=3, choose=choose), whole)
        alone = top_k(items, customers.rows(63, 64), 10, choose=choose)
        assert np.array_equal(alone.numbers[0], whole.numbers[63])
        assert np.array_equal(alone.scores[0], whole.scores[63])


def test_widths_choose_the_same_bits() -> None:
    items, customers = case(50, 700, 13, seed=2, n_codes=(4, 7))
    found = [choose(items, customers, 20, threads=1) for choose in every_way()[1:]]
    for each in found[1:]:
        for name in ("numbers", "scores", "products", "counts"):
            assert np.array_equal(getattr(each, name), getattr(found[0], name))


def test_excluded_items_are_listed_for_nobody_they_are_excluded_for() -> None:
    items, customers = case(60, 90, 4, seed=6)
    for choose in every_way():
        ranked = top_k(items, customers, 90, choose=choose)
        for row in range(60):
            out = customers.rows(row, row + 1).excluded
            assert not np.isin(ranked.numbers[row], out).any()
            assert (ranked.numbers[row] != NO_ITEM).sum() == 90 - np.isin(items.numbers, out).sum()


def test_fewer_items_than_places_leave_places_free() -> None:
    items, customers = case(5, 3, 4, seed=1)
    for choose in every_way():
        ranked = top_k(items, customers, 10, choose=choose)
        assert ranked.numbers.shape == (5, 10)
        assert (ranked.numbers[:, 3:] == NO_ITEM).all()
        assert np.isneginf(ranked.scores[:, 3:]).all()
    nothing = ItemTable.of(np.empty((0, 4), dtype=np.float32), np.empty(0, dtype=np.int64))
    assert (top_k(nothing, customers, 2).numbers == NO_ITEM).all()


def test_a_customer_without_a_vector_gets_the_smallest_numbers_or_nothing() -> None:
    for n_codes, expected in (((), [0, 1, 2]), ((4,), [NO_ITEM] * 3)):
        items, _ = case(1, 50, 4, seed=1, n_codes=n_codes)
        items = ItemTable.of(
            items.factors, np.arange(50), codes=items.codes, positive=items.positive
        )
        tilts = tuple(drawn_tilt(1, 4, np.random.default_rng(1)) for _ in n_codes)
        whose = replace(Customers.of(np.zeros((1, 4))), tilts=tilts)
        for choose in every_way():
            assert top_k(items, whose, 3, choose=choose).numbers[0].tolist() == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
def test_numbers_that_are_not_finite_or_too_large_are_refused(bad: float) -> None:
    items, customers = case(3, 50, 4, seed=1)
    hidden = customers.hidden.copy()
    hidden[1, 2] = bad
    with pytest.raises(InputError, match="vector is not finite, or too long"):
        top_k(items, replace(customers, hidden=hidden), 3)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_items_that_are_not_finite_are_refused(bad: float) -> None:
    factors = np.ones((4, 2), dtype=np.float32)
    factors[2, 1] = bad
    with pytest.raises(InputError, match="not finite"):
        ItemTable.of(factors, np.arange(4))


def test_items_and_sizes_that_make_no_sense_are_refused() -> None:
    factors = np.ones((4, 2), dtype=np.float32)
    for numbers in ([0, 1, 1, 2], [-1, 0, 1, 2]):
        with pytest.raises(InputError, match="distinct"):
            ItemTable.of(factors, np.array(numbers))
    with pytest.raises(InputError, match="below 0"):
        ItemTable.of(factors, np.arange(4), weights=np.array([1.0, 1.0, -0.5, 1.0]))
    with pytest.raises(InputError, match="positive scores only"):
        ItemTable.of(factors, np.arange(4), codes=[np.zeros(4, dtype=np.int32)])
    items = ItemTable.of(factors, np.arange(4))
    for k, hidden in ((0, np.ones((1, 2))), (1, np.ones((1, 3)))):
        with pytest.raises(InputError, match="cannot be made"):
            top_k(items, Customers.of(hidden), k)
    tilted = replace(
        Customers.of(np.ones((1, 2))), tilts=(drawn_tilt(1, 4, np.random.default_rng(1)),)
    )
    with pytest.raises(InputError, match="one tilt for each"):
        top_k(items, tilted, 1)


class SkipsAnItem:
    def __call__(
        self, items: ItemTable, customers: Customers, k: int, *, threads: int = 1
    ) -> Candidates:
        found = numpy_candidates(items, customers, k + 1, threads=threads)
        return Candidates(
            found.numbers[:, 1:], found.scores[:, 1:], found.products[:, 1:], found.counts - 1
        )


def test_a_kernel_that_differs_or_is_missing_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees(numpy_candidates)
    assert not agrees(SkipsAnItem())

    def missing(path: Path) -> ctypes.CDLL:
        raise OSError(f"no {path}")

    for name, instead in (("agrees", lambda choose: False), ("load_kernel", missing)):
        with monkeypatch.context() as patched:
            patched.setattr(topk_choice, name, instead)
            topk_choice._usable.cache_clear()
            assert chooser() is numpy_candidates
            assert not is_compiled()
    topk_choice._usable.cache_clear()
