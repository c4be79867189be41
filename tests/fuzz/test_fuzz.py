"""Every parser of foreign bytes: a value or a refusal, whatever it is given; never another error.

Quickly here, with changed inputs of our own writers; by coverage for ten minutes a target in the
slow suite and with ``make fuzz``.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import FormatError
from tests.fuzz.campaign import run_campaign
from tests.fuzz.catalogue import PLANTED, all_targets
from tests.fuzz.mutation import mutate
from tests.fuzz.target import Target, attempt, same

REPOSITORY = Path(__file__).parents[2]
TARGETS = {target.name: target for target in all_targets()}
SECONDS = int(os.environ.get("FUZZ_SECONDS", "600"))


def try_changed(target: Target, runs: int, seed: int) -> int:
    """Gives a target changed seeds; gives how many were accepted."""
    generator = random.Random(seed)
    seeds = list(target.seeds())
    accepted = 0
    for _ in range(runs):
        data = mutate(generator.choice(seeds), generator, seeds, target.head_bytes)
        data = data[: target.max_bytes]
        try:
            accepted += attempt(target, data)
        except Exception as error:
            error.add_note(f"{target.name} on {data!r}")
            raise
    return accepted


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_changed_input_is_read_or_refused(target: Target) -> None:
    assert all(attempt(target, seed) for seed in target.seeds())
    assert try_changed(target, target.runs, seed=1) < target.runs


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 600)
@pytest.mark.parametrize("name", TARGETS)
def test_ten_minutes_of_fuzzing_find_nothing(name: str, tmp_path: Path) -> None:
    assert run_campaign(name, seconds=SECONDS, findings=tmp_path)


# -- the fuzzer itself -----------------------------------------------------------------------------


def refuse(data: bytes) -> None:
    raise FormatError("no")


def test_a_refusal_is_no_finding_and_everything_else_is() -> None:
    assert not attempt(Target("refuses", refuse, list), b"")
    assert attempt(Target("accepts", len, list), b"")
    for check in (lambda data: data[0], lambda data: same(data, b"x"), lambda data: {}[data]):
        with pytest.raises((IndexError, AssertionError, KeyError)):
            attempt(Target("breaks", check, list), b"")


def test_changed_seeds_reach_into_base64_and_fields() -> None:
    """Of envelopes and proofs within proofs, some changes leave all around them well-formed."""
    for name in ("envelope", "log-proof", "registry-draft"):
        assert try_changed(TARGETS[name], 300, seed=2) > 0, name


def test_a_planted_fault_is_found_kept_and_replayed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", PLANTED.name]
    options = ["--seconds", "60", "--findings", str(tmp_path)]
    done = subprocess.run(
        [*command, *options], cwd=REPOSITORY, capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "KeyError" in done.stdout
    (finding,) = tmp_path.iterdir()
    assert str(finding) in done.stdout
    again = subprocess.run(
        [*command, str(finding)], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert again.returncode != 0
    assert "KeyError: 'planted'" in again.stderr
