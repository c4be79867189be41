"""What the README says of quality is read from a run's rows, each from its own."""

from __future__ import annotations

from copy import deepcopy

from tests.support.report_figures import figures
from tests.support.report_metrics import metrics


def test_the_figures_are_those_of_the_rows() -> None:
    study = metrics()
    found = figures(study)
    rows = {
        (row["method"], row["protocol"]): row
        for row in study["rows"]
        if (row["setting"], row["universe"], row["metric"])
        == ("no_refusals", "catalogue", "ndcg@10")
    }
    served = rows["fedpref_tilt", "new"]["ratio_to_popularity"]["mean"]
    large = rows["centralised_no_dp_large", "new"]["ratio_to_popularity"]["mean"]
    fused = rows["fedpref_fused", "all"]["ratio_to_personal_recency"]["mean"]
    assert f"{served:.3f}" in found[0]
    assert f"{large:.3f}" in found[3]
    assert f"{fused:.3f}" in found[4]
    assert "from the shared factors" in found[2]


def test_each_figure_follows_its_own_row() -> None:
    study = metrics()
    told = figures(study)
    for place, (part, method) in enumerate(
        [
            ("rows", "fedpref_tilt"),
            ("earlier", "fedpref_tilt"),
            ("rows", "no_factors"),
            ("rows", "centralised_no_dp_large"),
            ("rows", "fedpref_fused"),
        ]
    ):
        changed = deepcopy(study)
        for row in changed["rows"] if part == "rows" else changed["earlier"]["rows"]:
            if row["method"] == method:
                row["mean"] *= 1.07
                for field in ("ratio_to_popularity", "ratio_to_personal_recency"):
                    if row[field]:
                        row[field]["mean"] *= 1.07
        assert figures(changed)[place] != told[place]
