"""The data benchmark at sizes that take seconds: that it measures, never what it measures."""

from __future__ import annotations

from pathlib import Path

from benchmarks import data


def test_a_store_of_files_is_measured(tmp_path: Path) -> None:
    measured = data.measure_files(
        tmp_path / "region", rows=20_000, customers=500, items=5_000, days=2
    )
    assert measured.keys() == set(data.BARS) - {data.SQL_READ}
    assert all(figure.value > 0 for figure in measured.values())
    assert str(measured[data.DATASET].baseline).endswith(" customers")
    assert "10,000 rows; of it the data set" in str(measured[data.DAY].baseline)


def test_a_table_is_measured() -> None:
    measured = data.measure_sql(rows=2_000)
    assert measured.keys() == {data.SQL_READ}
    assert measured[data.SQL_READ].value > 0
