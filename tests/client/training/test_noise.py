from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from client.training.noise import (
    ChaCha20Stream,
    SeededNoise,
    SystemNoise,
    box_muller,
    uniform_halves,
)
from common.errors import InputError
from tests.support.privacy_gates import noise_has_stddev, noise_is_fresh, noise_is_normal

VECTORS = Path(__file__).parents[2] / "vectors" / "chacha20" / "rfc8439.json"


@pytest.mark.parametrize(
    "vector", json.loads(VECTORS.read_text())["vectors"], ids=lambda vector: vector["name"]
)
def test_keystream_is_that_of_rfc_8439(vector: dict[str, str]) -> None:
    stream = ChaCha20Stream(
        bytes.fromhex(vector["key"]), bytes.fromhex(vector["nonce"]), int(vector["counter"])
    )
    expected = bytes.fromhex(vector["keystream"])
    assert stream.read(10) + stream.read(54) == expected


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
