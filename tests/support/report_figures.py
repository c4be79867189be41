"""What README.md says of a run's quality, from that run's ``metrics.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulations.report_gains import rows_of, source_of_gain

Row = Mapping[str, Any]


def figures(metrics: Mapping[str, Any]) -> list[str]:
    """The figures of the paragraph below the picture, in its order, each with what it is."""
    study = {each: rows_of(metrics["rows"], each, "no_refusals") for each in ("new", "all")}
    earlier = metrics["earlier"]
    before = rows_of(earlier["rows"], "new", "earlier_weeks")
    new, repeated = study["new"], study["all"]
    recency = "ratio_to_personal_recency"
    return [
        f"New items, weeks {earlier['judged']}: {_ratio(new['fedpref_tilt'])} × popularity's.",
        f"New items, weeks {earlier['weeks']}: {_ratio(before['fedpref_tilt'])} ×.",
        source_of_gain(new, "new"),
        f"Centralised, sizes of its own: {_ratio(new['centralised_no_dp_large'])} × popularity's.",
        f"All items: {_ratio(repeated['fedpref_fused'], recency)} × own recent purchases; "
        f"without the factors {_ratio(repeated['no_factors'], recency)} ×, "
        f"each region alone {_ratio(repeated['local_only'], recency)} ×.",
    ]


def figures_of_run(run: Path) -> list[str]:
    """As `figures`, of the folder of a finished run."""
    return figures(json.loads((run / "metrics.json").read_text(encoding="utf-8")))


def _ratio(row: Row, field: str = "ratio_to_popularity") -> str:
    ratio = row[field]
    return f"{ratio['mean']:.3f} ({ratio['ci_low']:.3f}–{ratio['ci_high']:.3f})"
