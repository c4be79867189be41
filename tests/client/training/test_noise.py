from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator

import numpy as np
import pytest

from client.training.noise import (
    SeededNoise,
    SystemNoise,
    box_muller,
    uniform_halves,
)
from common.errors import InputError
from tests.support.privacy_gates import noise_has_stddev, noise_is_fresh, noise_is_normal


def test_uniform_values_never_reach_zero_or_one() -> None:
    extremes = uniform_halves(bytes(8) + b"\xff" * 8)
    assert extremes[0] == 2.0**-53
    assert extremes[1] == 1 - 2.0**-53
    assert np.isfinite(box_muller(extremes)).all()


def test_box_muller_of_known_values() -> None:
    # u = e^(-1/2) gives the radius 1; a quarter turn gives (0, 1).
    drawn = box_muller(np.array([np.exp(-0.5), 0.25]))
    assert drawn == pytest.approx([0.0, 1.0], abs=1e-15)


@pytest.mark.parametrize("source", [SystemNoise(), SeededNoise("test")], ids=["system", "seeded"])
def test_noise_has_the_stated_distribution(source: SystemNoise | SeededNoise) -> None:
    drawn = source.gaussian((500, 400), 0.37)
    assert drawn.dtype == np.float64
    assert noise_has_stddev(drawn, 0.37)
    assert noise_is_normal(drawn, 0.37)


@pytest.mark.parametrize("fault", [0.0, 0.5, 0.9, 1.1])
def test_the_gate_catches_noise_of_another_size(fault: float) -> None:
    assert not noise_has_stddev(SystemNoise().gaussian((4000,), 0.37) * fault, 0.37)


def test_the_gate_catches_noise_of_another_form() -> None:
    uniform = np.random.default_rng(0).uniform(-np.sqrt(3), np.sqrt(3), 20_000)
    assert noise_has_stddev(uniform, 1.0)
    assert not noise_is_normal(uniform, 1.0)


def test_draws_are_fresh_and_the_gate_catches_reuse() -> None:
    source = SystemNoise()
    first, second = source.gaussian((4000,), 1.0), source.gaussian((4000,), 1.0)
    assert noise_is_fresh(first, second)
    assert not noise_is_fresh(first, first)
    assert not noise_is_fresh(first, 0.2 * first + second)


def test_coordinates_within_a_draw_are_fresh() -> None:
    drawn = SystemNoise().gaussian((200_000,), 1.0)
    # The two values of one Box–Muller pair lie half a chunk apart.
    for lag in (1, 2, 100_000):
        assert noise_is_fresh(drawn[:-lag], drawn[lag:])
        assert noise_is_fresh(drawn[:-lag] ** 2, drawn[lag:] ** 2)


def test_an_odd_number_of_values_is_drawn_whole() -> None:
    assert SystemNoise().gaussian((7, 3), 1.0).shape == (7, 3)
    assert SystemNoise().gaussian((0,), 1.0).shape == (0,)


def test_seeded_noise_repeats_and_depends_on_the_seed() -> None:
    first = SeededNoise("a").gaussian((100,), 1.0)
    assert np.array_equal(first, SeededNoise("a").gaussian((100,), 1.0))
    assert not np.array_equal(first, SeededNoise("b").gaussian((100,), 1.0))
    # Pinned, so that a study can be repeated with a later version.
    assert SeededNoise("a").gaussian((1,), 1.0)[0] == pytest.approx(PINNED, rel=1e-12)


PINNED = -1.8421205944090828


def test_a_new_key_continues_the_noise_without_repeating(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.training.noise._BYTES_PER_KEY", 1 << 12)
    source = SeededNoise("a")
    draws = [source.gaussian((500,), 1.0) for _ in range(4)]
    assert len({draw[0] for draw in draws}) == 4
    assert noise_is_fresh(draws[0], draws[1])


def test_system_noise_cannot_be_copied() -> None:
    source = SystemNoise()
    source.gaussian((1,), 1.0)
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied"):
            duplicate(source)


def test_system_noise_takes_a_new_key_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    source = SystemNoise()
    source.gaussian((1,), 1.0)
    before = source._stream
    source.gaussian((1,), 1.0)
    assert source._stream is before
    monkeypatch.setattr(os, "getpid", lambda: -1)
    source.gaussian((1,), 1.0)
    assert source._stream is not before


@pytest.mark.parametrize("stddev", [0.0, -1.0, float("nan"), float("inf")])
def test_a_senseless_standard_deviation_is_refused(stddev: float) -> None:
    with pytest.raises(InputError):
        SystemNoise().gaussian((1,), stddev)


FAST = [SystemNoise(), SeededNoise("test")]


@pytest.mark.parametrize("source", FAST, ids=["system", "seeded"])
def test_filled_arrays_have_the_stated_distribution(source: SystemNoise | SeededNoise) -> None:
    out = np.empty((500, 401), dtype=np.float32)
    source.fill(out, 0.37)
    drawn = out.astype(np.float64)
    assert noise_has_stddev(drawn, 0.37)
    assert noise_is_normal(drawn, 0.37)
    assert not noise_has_stddev(drawn * 0.9, 0.37)


def test_filled_values_are_fresh_within_and_between_arrays() -> None:
    source = SystemNoise()
    first, second = np.empty((2, 200_000), dtype=np.float32)
    source.fill(first, 1.0)
    source.fill(second, 1.0)
    assert noise_is_fresh(first.astype(np.float64), second.astype(np.float64))
    # Lanes of a vector, the two values of a pair, two chunks.
    for lag in (1, 4, 8, 16, 32_768, 65_536):
        early, late = first[:-lag].astype(np.float64), first[lag:].astype(np.float64)
        assert noise_is_fresh(early, late)
        assert noise_is_fresh(early**2, late**2)


def test_the_tail_of_filled_values_is_that_of_the_normal_distribution() -> None:
    out = np.empty(20_000_000, dtype=np.float32)
    SeededNoise("tail").fill(out, 1.0)
    magnitudes = np.abs(out)
    for beyond, low, high in ((3.0, 52_800, 55_200), (4.0, 1080, 1460), (5.0, 0, 37)):
        # Poisson bounds of 20,000,000 · 2Φ(−beyond), with a false alarm below 1e-7.
        assert low <= int((magnitudes > beyond).sum()) <= high


@pytest.mark.parametrize("length", [0, 1, 2, 3, 65_535, 65_536, 65_537])
def test_an_array_of_any_length_is_filled_whole(length: int) -> None:
    out = np.zeros(length, dtype=np.float32)
    SeededNoise("length").fill(out, 1.0)
    assert np.count_nonzero(out) == length


def test_only_contiguous_float32_is_filled() -> None:
    for wrong in (np.zeros(4), np.zeros((4, 4), dtype=np.float32)[:, 1]):
        with pytest.raises(InputError, match="contiguous"):
            SystemNoise().fill(wrong, 1.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be drawn"):
        SystemNoise().fill(np.zeros(4, dtype=np.float32), float("nan"))


def test_seeded_arrays_repeat_and_their_keys_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(seed: str) -> Iterator[np.ndarray]:
        source = SeededNoise(seed)
        for _ in range(3):
            out = np.empty(70_000, dtype=np.float32)
            source.fill(out, 1.0)
            yield out

    assert all(map(np.array_equal, drawn("a"), drawn("a")))
    assert not any(map(np.array_equal, drawn("a"), drawn("b")))
    monkeypatch.setattr("client.training.noise._BYTES_PER_KEY", 1 << 19)
    assert len({out[0] for out in drawn("a")}) == 3


def test_both_streams_take_new_keys_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = SystemNoise(), np.empty(2, dtype=np.float32)
    source.fill(out, 1.0)
    source.gaussian((1,), 1.0)
    before = source._fast, source._stream
    monkeypatch.setattr(os, "getpid", lambda: -1)
    source.fill(out, 1.0)
    assert source._fast is not before[0]
    source.gaussian((1,), 1.0)
    assert source._stream is not before[1]
    monkeypatch.setattr(os, "getpid", lambda: -2)
    source.gaussian((1,), 1.0)
    source.fill(out, 1.0)
    assert source._fast is not before[0]


@pytest.mark.parametrize("probability", [0.01, 0.5, 0.999])
def test_coins_fall_with_the_stated_probability_and_independently(probability: float) -> None:
    source = SystemNoise()
    coins = source.mask(200_000, probability)
    spread = np.sqrt(probability * (1 - probability) * len(coins))
    assert abs(int(coins.sum()) - probability * len(coins)) <= 5.4 * spread
    for lag in (1, 2, 64):
        assert noise_is_fresh(coins[:-lag].astype(np.float64), coins[lag:].astype(np.float64))
    again = source.mask(200_000, probability)
    assert noise_is_fresh(coins.astype(np.float64), again.astype(np.float64))


def test_a_certain_coin_is_always_true_and_nobody_gets_none() -> None:
    assert SystemNoise().mask(1000, 1.0).all()
    assert SystemNoise().mask(0, 0.5).shape == (0,)


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1, float("nan")])
def test_a_senseless_probability_is_refused(probability: float) -> None:
    with pytest.raises(InputError, match="probability"):
        SystemNoise().mask(3, probability)


def test_words_are_the_keystream_and_repeat_with_the_seed() -> None:
    drawn = SeededNoise("a").words(300_000)
    assert drawn.dtype == np.uint64
    assert np.array_equal(drawn, SeededNoise("a").words(300_000))
    # Every bit is a fair coin, with a false alarm below 1e-7.
    ones = np.unpackbits(drawn.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=0)
    assert (abs(ones.astype(np.int64) - 150_000) < 6.2 * np.sqrt(75_000)).all()
    assert len(np.unique(SystemNoise().words(1000))) == 1000
