"""Releasing keys: who is bounded, what stays hidden, and the faults that a test would find."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from client.analytics import key_release
from client.analytics.key_release import ReleasedKeys, release_keys
from client.training.noise import NoiseSource, SeededNoise, SystemNoise
from common.analytics.key_union import KeyUnion
from common.errors import InputError

SIGMA = 4.0
QUESTION = KeyUnion("terms", 4, 5e-7)


class NoNoise(SystemNoise):
    def gaussian(self, shape: tuple[int, ...], stddev: float) -> npt.NDArray[np.float64]:
        return np.zeros(shape)


def release(
    owner: list[int],
    keys: list[str],
    question: KeyUnion = QUESTION,
    noise: NoiseSource | None = None,
) -> ReleasedKeys:
    return release_keys(
        question,
        np.array(owner, dtype=np.int64),
        keys,
        noise_multiplier=SIGMA,
        grid_exponent=-10,
        noise=noise or SystemNoise(),
    )


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
    assert found.keys == tuple(sorted(f"term-{n}" for n in range(12)))
    counts = QUESTION.read(found.values, SIGMA)
    true = np.array([keys.count(each) for each in found.keys])
    assert np.abs(counts.value - true).max() < 5 * SIGMA * 2
    assert counts.covers(true).mean() >= 0.75


def test_one_customers_key_is_released_as_rarely_as_the_threshold_says() -> None:
    question, rounds = KeyUnion("terms", 4, 0.02), 4000
    noise, seen = SeededNoise("threshold"), 0
    for _ in range(rounds):
        found = release([0, 0, 0, 0], ["a", "b", "c", "d"], question, noise)
        seen += bool(found.keys)
    # 80 are expected, give or take nine.
    assert 35 <= seen <= 130


def test_a_customer_counts_in_so_many_keys_only_and_once_in_each() -> None:
    owner = [0] * 1009
    keys = [*["usual"] * 1000, *"abcdefghi"]
    one = release(owner, keys, KeyUnion("terms", 4, 0.1), NoNoise())
    assert one.keys == ()
    counted: list[npt.NDArray[np.float64]] = []

    class Watching(NoNoise):
        def gaussian(self, shape: tuple[int, ...], stddev: float) -> npt.NDArray[np.float64]:
            counted.append(np.zeros(shape))
            return np.full(shape, 1000.0)

    everything = release(owner, keys, noise=Watching())
    above = everything.values - 1000.0
    assert np.count_nonzero(above) == 4
    assert float(np.linalg.norm(above)) == pytest.approx(1.0, abs=1e-3)
    assert above[everything.keys.index("usual")] > 0


def test_which_of_her_keys_count_is_the_same_whoever_else_there_is() -> None:
    class Loud(NoNoise):
        def gaussian(self, shape: tuple[int, ...], stddev: float) -> npt.NDArray[np.float64]:
            return np.full(shape, 1000.0)

    mine = (["zebra", "zebra", "apple", "pear", "fig", "plum"], [0] * 6)
    others = ([f"a{n}" for n in range(50)], list(range(1, 51)))
    alone = release(mine[1], mine[0], noise=Loud())
    among = release([*others[1], *mine[1]], [*others[0], *mine[0]], noise=Loud())
    values = dict(zip(among.keys, among.values.tolist(), strict=True))
    assert {key: values[key] for key in alone.keys} == dict(
        zip(alone.keys, alone.values.tolist(), strict=True)
    )


def test_nobody_and_nothing_common_release_nothing() -> None:
    assert release([], []).keys == ()
    assert release([0, 1], ["a", "b"], noise=NoNoise()).keys == ()


def test_owners_and_keys_must_be_as_many() -> None:
    with pytest.raises(InputError, match="as many keys"):
        release([0], ["a", "b"])


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
    assert release(owner, keys, noise=SeededNoise("own")).keys == ()
    fault(monkeypatch)
    found = [release(owner, keys, noise=SeededNoise(f"own {n}")).keys for n in range(40)]
    assert any(found)
