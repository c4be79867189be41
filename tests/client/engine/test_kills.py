"""`kill -9` at every place of a round: nothing leaves uncharged, nothing twice, nothing is lost.

`tests/support/kill_harness.py` does it, in a process of its own. It bites: without the charge's
place before sending, or without the seal, it finds what it should.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.failpoints import Point
from simulations.faults.kills import OF_A_DISCARD, OF_SECURE_SUMS
from tests.support.kill_life import CHARGE_AFTER, LEFT, NO_SEAL

ROOT = Path(__file__).resolve().parents[3]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def harness(*options: str, timeout_s: float = 800) -> dict[str, Any]:
    """Runs the harness; gives what it found, by variant."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_harness", *options],
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ended.stdout, ended.stderr
    print(ended.stdout)  # noqa: T201 - the seed and the counts, if it fails
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_killed_at_each_point_a_region_goes_on_and_releases_nothing_uncharged() -> None:
    found = harness("--each", "point", "--seed", "1", "--undefended-kills", "1")
    defended = found["defended"]
    assert defended["faults"] == []
    assert set(defended["places"]) == {*Point, LEFT} - {*OF_A_DISCARD, *OF_SECURE_SUMS}
    assert defended["kills"] >= 22
    assert any("uncharged: " in fault for fault in found[CHARGE_AFTER]["faults"])
    assert any("two payloads for one charge" in fault for fault in found[NO_SEAL]["faults"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["20261123"])
def test_five_hundred_kills(seed: str) -> None:
    """At each place, then two or three in a row at any; every 10th trial is run to its verdict."""
    found = harness(
        *("--each", "place", "--kills", "500", "--seed", seed),
        *("--discard", "--bundle-every", "10", "--undefended-kills", "100"),
        timeout_s=3000,
    )
    defended = found["defended"]
    assert defended["faults"] == []
    assert defended["kills"] >= 500
    assert defended["bundles"] >= 10
    assert set(defended["places"]) > {*Point, LEFT} - {*OF_SECURE_SUMS}
    assert sum("uncharged: " in fault for fault in found[CHARGE_AFTER]["faults"]) >= 20
    assert sum("two payloads" in fault for fault in found[NO_SEAL]["faults"]) >= 20
