"""The tables of docs/data-scientist.md about evaluations are the code's own."""

from __future__ import annotations

from simulations.evaluation.judge import Metrics
from simulations.evaluation.leaks import CHECKS
from simulations.evaluation.mapping import CatalogueTable, EvaluationTable
from tests.docs.test_docs import DOCS, codes, table

PAGE = DOCS / "data-scientist.md"


def test_every_field_of_a_mapping_file_is_told() -> None:
    rows = table(PAGE, "field of `[evaluation]`")
    assert [name for row in rows for name in codes(row[0])] == list(EvaluationTable.model_fields)
    (catalogue,) = (row for row in rows if "`catalogue`" in row[0])
    assert codes(catalogue[1]) == list(CatalogueTable.model_fields)


def test_every_check_is_told() -> None:
    assert [codes(row[0])[0] for row in table(PAGE, "check", "what it finds")] == list(CHECKS)


def test_every_metric_is_told() -> None:
    told = {name for row in table(PAGE, "metric", "meaning") for name in codes(row[0])}
    metrics = Metrics((10,))
    names = (*metrics.accuracy, *metrics.beyond, *metrics.overall)
    assert told == {name.replace("@10", "@k") for name in names}
