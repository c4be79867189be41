"""The profiles' benchmark at sizes that take seconds: that it measures, never what it measures."""

from __future__ import annotations

from pathlib import Path

from benchmarks import profiles


def test_profiles_of_a_store_are_measured(tmp_path: Path) -> None:
    measured = profiles.measure_region(
        tmp_path / "region", rows=20_000, customers=500, items=600, days=4
    )
    assert measured.keys() == set(profiles.BARS)
    assert all(figure.value > 0 for figure in measured.values())
    assert "customers judged" in str(measured[profiles.DAY].baseline)
