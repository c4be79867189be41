"""The judge's own reading of files agrees with published values and with what engines state."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest

from common.audit.merkle import root_hash
from common.privacy import calibrate_sigma
from simulations.faults.evidence import (
    Files,
    gaussian_epsilon,
    leaf_of,
    merkle_root,
    read_files,
    stated,
)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 100])
def test_a_root_is_rfc_6962s(size: int) -> None:
    leaves = [leaf_of(bytes([number])) for number in range(size)]
    assert merkle_root(leaves) == root_hash(leaves)
    if size == 0:
        assert merkle_root(leaves) == hashlib.sha256(b"").digest()


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 8.0])
def test_epsilon_is_that_of_the_calibrated_noise(epsilon: float) -> None:
    sigma = calibrate_sigma(epsilon, 1e-6)
    assert gaussian_epsilon([sigma], 1e-6) == pytest.approx(epsilon, rel=1e-6)
    # Two halves of the budget of the variance come to the whole.
    halves = [sigma * 2**0.5] * 2
    assert gaussian_epsilon(halves, 1e-6) == pytest.approx(epsilon, rel=1e-6)
    assert gaussian_epsilon([], 1e-6) == 0.0


def test_a_note_states_its_size_and_root() -> None:
    note = b"some.example/log\n7\nAAECAw==\n\n- signature\n"
    assert stated(note) == (7, b"\x00\x01\x02\x03")


def test_a_log_that_was_never_made_is_empty(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "log.sqlite").close()
    assert read_files(tmp_path) == Files()
