"""Releasing keys: who is bounded, what stays hidden, and the faults that a test would find."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import norm

from client.analytics import key_release
from client.analytics.key_release import (
    KeyStatistic,
    column_keys,
    key_answer,
    key_statistic,
    release_keys,
)
from client.data.table_rows import TableRows, Texts
from client.data.transactions import Purchases
from client.training.noise import NoiseSource, SeededNoise, SystemNoise
from common.analytics.key_arrays import check_keys, key_specs, unpacked_keys
from common.analytics.key_union import KeyUnion
from common.errors import InputError
from tests.support.asked_federation import asked_plan, secure_plan

SIGMA, GRID = 4.0, -10
QUESTION = KeyUnion("terms", 4, 5e-7)
WINDOW = (0, 1000)
Found = dict[str, float]


class NoNoise(SystemNoise):
    def gaussian(self, shape: tuple[int, ...], stddev: float) -> npt.NDArray[np.float64]:
        return np.zeros(shape)


class Loud(SystemNoise):
    """Lifts every key far above the threshold, as much as every other."""

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> npt.NDArray[np.float64]:
        return np.full(shape, 1000.0)


def part(
    owner: Sequence[int], keys: Sequence[str], *, names: str = "c", time_ms: int = 1
) -> Purchases:
    """Customers and what they searched for, with texts of others in the table, too."""
    labels = (*sorted(set(keys)), "of nobody here")
    owners = tuple(f"{names}{n}" for n in range(max(owner, default=-1) + 1))
    codes = np.array([labels.index(each) for each in keys], dtype=np.int32)
    rows = TableRows(
        np.array(owner, dtype=np.int32),
        np.full(len(owner), time_ms, dtype=np.int64),
        {"query": Texts(codes, labels)},
        {},
    )
    none = np.zeros(0, dtype=np.int32)
    return Purchases(owners, none, none, np.zeros(0, dtype=np.int64), {"events": rows})


def asked(question: KeyUnion = QUESTION) -> KeyStatistic:
    return column_keys(question, "events", "query")


def release(
    owner: Sequence[int],
    keys: Sequence[str],
    question: KeyUnion = QUESTION,
    noise: NoiseSource | None = None,
) -> Found:
    return released([part(owner, keys)], question, noise)


def released(
    parts: Sequence[Purchases], question: KeyUnion = QUESTION, noise: NoiseSource | None = None
) -> Found:
    arrays = release_keys(
        parts,
        asked(question),
        start_ms=WINDOW[0],
        end_ms=WINDOW[1],
        noise_multiplier=SIGMA,
        grid_exponent=GRID,
        noise=noise or SystemNoise(),
    )
    check_keys(arrays, question, noise_stddev=SIGMA, grid_exponent=GRID)
    keys, values = unpacked_keys(question, arrays)
    return dict(zip(keys, values.tolist(), strict=True))


def searches(customers: int) -> tuple[list[int], list[str]]:
    """Everyone searches for three of the usual terms, and for something of her own."""
    generator = np.random.default_rng(3)
    owner, keys = [], []
    for number in range(customers):
        for term in generator.choice(
            12, 3, replace=False, p=np.array([30, *[5] * 8, *[10] * 3]) / 100
        ):
            owner.append(number)
            keys.append(f"term-{term}")
        owner.append(number)
        keys.append(f"only-{number}")
    return owner, keys


def test_usual_keys_are_released_with_their_counts_and_nobodys_own() -> None:
    owner, keys = searches(3000)
    found = release(owner, keys, noise=SeededNoise("keys"))
    assert list(found) == sorted(f"term-{n}" for n in range(12))
    counts = QUESTION.read([*found.values()], SIGMA)
    true = np.array([keys.count(each) for each in found])
    assert np.abs(counts.value - true).max() < 5 * SIGMA * 2
    assert counts.covers(true).mean() >= 0.75


def test_what_leaves_is_as_long_whatever_there_is() -> None:
    everything = [
        release_keys(
            [part(*found)],
            asked(),
            start_ms=0,
            end_ms=1000,
            noise_multiplier=SIGMA,
            grid_exponent=GRID,
            noise=SystemNoise(),
        )
        for found in (([], []), searches(400))
    ]
    for arrays in everything:
        assert {name: (each.dtype.str, each.shape) for name, each in arrays.items()} == {
            spec.name: (spec.dtype, spec.shape) for spec in key_specs(QUESTION)
        }


def test_of_more_keys_than_there_is_room_for_the_largest_are_released() -> None:
    counts = {"a": 40, "b": 90, "c": 60, "d": 200, "e": 60}
    owner = [n for key in counts for n in range(counts[key])]
    keys = [key for key in counts for _ in range(counts[key])]
    room = KeyUnion("terms", 4, 0.05, keys=3)
    # Of two that are alike the earlier one, by its text.
    assert list(release(owner, keys, room, NoNoise())) == ["b", "c", "d"]


def test_spellings_of_one_key_are_one_and_what_is_too_long_is_never_counted() -> None:
    owner = [n for n in range(60) for _ in range(3)]
    keys = ["  Ｃafé  LATTE ", "café latte", "y" * 65] * 60
    found = release(owner, keys, noise=NoNoise())
    assert found == {"café latte": 30.0}


def test_only_what_was_searched_for_within_the_window_counts() -> None:
    owner, keys = [*range(200)], ["milk"] * 200
    assert released([part(owner, keys, time_ms=1000)], noise=NoNoise()) == {}
    assert released([part(owner, keys, time_ms=999)], noise=NoNoise()) == {"milk": 100.0}


# -- the bound, the threshold and the δ for keys ---------------------------------------------------


def test_one_customers_key_is_released_as_rarely_as_the_threshold_says() -> None:
    """Planted alone: how often it is seen is what was charged, by chance and by computation."""
    question, rounds = KeyUnion("terms", 4, 0.05), 800
    noise, seen = SeededNoise("threshold"), 0
    for _ in range(rounds):
        seen += bool(release([0, 0, 0, 0], ["a", "b", "c", "d"], question, noise))
    # 40 are expected, give or take six.
    assert 15 <= seen <= 70
    least = question.least_released(SIGMA, GRID)
    # A value is rounded to the least that passes from half a step below.
    each = norm.sf((least - 2.0**GRID / 2 - 0.5) / SIGMA)
    assert -math.expm1(4 * math.log1p(-each)) <= question.key_delta
    assert -math.expm1(4 * math.log1p(-each)) >= 0.998 * question.key_delta


def test_rounding_lets_no_key_pass_that_noise_did_not() -> None:
    """On a coarse grid a value below the threshold may round to one above it."""
    question, grid = KeyUnion("terms", 1, 0.0083), 0
    threshold = question.threshold(SIGMA)
    near = math.floor(threshold) + 0.55
    assert near < threshold < round(near)

    class Near(SystemNoise):
        def gaussian(self, shape: tuple[int, ...], stddev: float) -> npt.NDArray[np.float64]:
            return np.full(shape, near - 1.0)

    arrays = release_keys(
        [part([0], ["hers"])],
        asked(question),
        start_ms=0,
        end_ms=1000,
        noise_multiplier=SIGMA,
        grid_exponent=grid,
        noise=Near(),
    )
    assert unpacked_keys(question, arrays)[0] == ()


def test_a_customer_counts_in_so_many_keys_only_and_once_in_each() -> None:
    owner, keys = [0] * 1009, [*["usual"] * 1000, *"abcdefghi"]
    assert release(owner, keys, KeyUnion("terms", 4, 0.1), NoNoise()) == {}
    above = {key: value - 1000.0 for key, value in release(owner, keys, noise=Loud()).items()}
    assert np.count_nonzero([*above.values()]) == 4
    assert float(np.linalg.norm([*above.values()])) == pytest.approx(1.0, abs=1e-3)
    assert above["usual"] > 0


def test_one_customer_more_moves_values_by_at_most_one_in_all() -> None:
    """L2: what the noise is drawn for, whatever she searched for."""
    generator = np.random.default_rng(5)
    owner = generator.integers(0, 40, 900).tolist()
    keys = [f"t{n}" for n in generator.integers(0, 25, 900)]
    question = KeyUnion("terms", 4, 5e-7, keys=64)
    base = release(owner, keys, question, Loud())
    for hers in (["t1"] * 500, [f"t{n}" for n in range(25)], [f"new{n}" for n in range(9)], []):
        more = release([*owner, *[40] * len(hers)], [*keys, *hers], question, Loud())
        moved = [more.get(key, 1000.0) - base.get(key, 1000.0) for key in {*more, *base}]
        assert float(np.linalg.norm(moved)) <= 1 + 1e-6
        assert np.count_nonzero(moved) == min(4, len(set(hers)))


def test_which_of_her_keys_count_is_the_same_whoever_else_there_is() -> None:
    mine = (["zebra", "zebra", "apple", "pear", "fig", "plum"], [0] * 6)
    others = ([f"a{n}" for n in range(50)], list(range(1, 51)))
    alone = release(mine[1], mine[0], noise=Loud())
    among = release([*others[1], *mine[1]], [*others[0], *mine[0]], noise=Loud())
    assert {key: among[key] for key in alone} == alone


def test_nobody_and_nothing_common_release_nothing() -> None:
    assert release([], []) == {}
    assert released([]) == {}
    assert release([0, 1], ["a", "b"], noise=NoNoise()) == {}


def test_a_customer_in_two_parts_is_refused() -> None:
    assert released([part([0], ["a"]), part([0], ["a"], names="d")], noise=NoNoise()) == {}
    with pytest.raises(InputError, match="two parts"):
        released([part([0], ["a"]), part([0], ["a"])])


@pytest.mark.parametrize(
    ("owner", "code", "words"),
    [([0], [0, 0], "as many keys"), ([1], [0], "a customer"), ([0], [7], "a text")],
)
def test_facts_of_nobody_are_refused(owner: list[int], code: list[int], words: str) -> None:
    facts = key_release.KeyFacts(np.array(owner), np.array(code), ("a", "b"))
    statistic = KeyStatistic(QUESTION, lambda _: facts)
    with pytest.raises(InputError, match=words):
        release_keys(
            [part([0], ["a"])],
            statistic,
            start_ms=0,
            end_ms=1,
            noise_multiplier=SIGMA,
            grid_exponent=GRID,
            noise=SystemNoise(),
        )


def test_rows_that_were_not_given_are_missed_and_a_name_that_is_none() -> None:
    bare = Purchases(("c",), *(np.zeros(0, dtype=np.int32),) * 2, np.zeros(0, dtype=np.int64))
    with pytest.raises(InputError, match="rows of the table events were not given"):
        released([bare])
    with pytest.raises(InputError, match="no question of keys"):
        key_statistic("nps", 1e-8)


def test_a_plan_whose_noise_is_not_the_regions_own_gets_no_keys() -> None:
    plan = secure_plan("local")
    with pytest.raises(InputError, match="by its own noise"):
        key_answer([], asked(), plan=plan, mechanism=plan.mechanism_of(1), noise=SystemNoise())


def test_an_answer_is_made_as_the_plan_has_it() -> None:
    plan = asked_plan(("search-terms",), epsilon="8")
    statistic = key_statistic("search-terms", 1e-8)
    arrays = key_answer(
        [part(*searches(50))],
        statistic,
        plan=plan,
        mechanism=plan.mechanism_of(1),
        noise=SystemNoise(),
    )
    specs = {spec.name: spec for spec in plan.released_arrays("search-terms")}
    assert specs.keys() == arrays.keys()
    # Nothing of it is in the plan's window: all slots are empty.
    assert not any(each.any() for each in arrays.values())


# -- faults that these tests are for ---------------------------------------------------------------


def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """All facts of a customer count."""
    monkeypatch.setattr(key_release, "largest_groups", lambda owner, group, n, most: (owner, group))


def no_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyUnion, "threshold", lambda self, noise_stddev: 1.0)


@pytest.mark.parametrize("fault", [unbounded, no_threshold])
def test_each_planted_fault_shows_somebodys_own_key(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, keys = [0] * 500, ["hers alone"] * 500
    assert release(owner, keys, noise=SeededNoise("own")) == {}
    fault(monkeypatch)
    found = [release(owner, keys, noise=SeededNoise(f"own {n}")) for n in range(40)]
    assert any(found)


def test_the_fault_of_noise_that_is_missing_is_caught() -> None:
    """Two draws of the same data are never alike in a value, and are with the fault."""

    def draws(noise: Callable[[int], NoiseSource]) -> Iterator[list[float]]:
        for number in range(2):
            yield [*release([*range(200)], ["milk"] * 200, noise=noise(number)).values()]

    one, other = draws(lambda _: SystemNoise())
    assert one != other
    one, other = draws(lambda _: NoNoise())
    assert one == other == [100.0]


def test_the_fault_of_a_key_chosen_by_others_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the most popular of her keys counted, others would decide which of hers do."""

    def chosen_by_others(
        owner: npt.NDArray[np.int64], group: npt.NDArray[np.int64], n_groups: int, most: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        pairs = np.unique(owner * n_groups + group)
        owner, group = pairs // n_groups, pairs % n_groups
        order = np.lexsort((-np.bincount(group, minlength=n_groups)[group], owner))
        owner, group = owner[order], group[order]
        kept = np.arange(len(owner)) - np.searchsorted(owner, owner, side="left") < most
        return owner[kept], group[kept]

    mine = ["zebra", "apple", "fig", "pear", "plum"]
    others = ([*range(1, 51)], ["zebra"] * 50)

    def counted(whose: tuple[list[int], list[str]]) -> set[str]:
        """Which of her keys count, beside those of some others."""
        without = release(*whose, noise=Loud())
        found = release([*whose[0], *[0] * 5], [*whose[1], *mine], noise=Loud())
        return {key for key in mine if found.get(key, 1000.0) > without.get(key, 1000.0) + 0.1}

    assert counted(([], [])) == counted(others) == {"apple", "fig", "pear", "plum"}
    monkeypatch.setattr(key_release, "largest_groups", chosen_by_others)
    assert counted(others) != counted(([], []))
