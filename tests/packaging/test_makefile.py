"""Every area of the benchmarks that the Makefile names is measured by its target."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AREAS = sorted(set(re.findall(r"\bbench-([a-z]+)", (ROOT / "Makefile").read_text())))


def test_the_makefile_names_areas() -> None:
    assert len(AREAS) >= 4


@pytest.mark.parametrize("area", AREAS)
def test_a_target_measures_its_area(area: str) -> None:
    planned = subprocess.run(
        ["make", "--dry-run", f"bench-{area}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert f"python -m benchmarks {area}\n" in planned
