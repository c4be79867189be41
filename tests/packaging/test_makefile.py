"""Every target that the documentation names does something."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.__main__ import AREAS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("area", sorted(AREAS))
def test_each_area_of_the_benchmarks_is_measured_by_its_target(area: str) -> None:
    planned = subprocess.run(
        ["make", "--dry-run", f"bench-{area}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert f"python -m benchmarks {area}\n" in planned
