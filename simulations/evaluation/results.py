"""From qualities, customer by customer, to figures with intervals, for people and programs.

Intervals are percentiles of resampled means over customers and, where chance has a part, seeds;
ratios and differences are paired: both sides see the same resamples (`Bootstrap`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from client.training.evaluation import Protocol
from simulations.evaluation.contenders import EASE, POPULARITY, RECENCY, Method
from simulations.evaluation.judge import Quality
from simulations.evaluation.study import EVERYONE, WITH_REFUSALS, Cell, Measured
from simulations.quality_table import Bootstrap

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
# A row; it holds only what JSON can hold.
Row = dict[str, Any]

REFUSED, CONSENTED = "refused", "consented"
#: What each method is held against, pair by pair: the field's end, and the method.
REFERENCES = {"popularity": POPULARITY, "ease": EASE, "own_recent": RECENCY}
_INTERVAL = (2.5, 97.5)
# Fewer customers have no figure: it would be one of chance.
_LEAST_CUSTOMERS = 20


class Results:
    """The rows of an evaluation.

    Args:
        measured: What was found.
        n_seeds: The seeds of a method in which chance has a part.
        replicates: Bootstrap resamples.
    """

    def __init__(self, measured: Measured, *, n_seeds: int, replicates: int) -> None:
        self._measured = measured
        self._n_seeds = n_seeds
        self._replicates = replicates
        self._methods = {method.key: method for method in measured.methods}
        self._bootstraps: dict[int, Bootstrap] = {}

    def rows(self) -> list[Row]:
        """One for each setting, method, which items count, and metric.

        Fields: ``setting``, ``method``, ``protocol``, ``metric``, ``mean``, ``ci_low`` and
        ``ci_high`` (null for metrics of all customers together), ``per_seed``, ``customers``, and
        for metrics of accuracy ``ratio_to_popularity``, ``ratio_to_ease`` and
        ``ratio_to_own_recent`` (``mean``, ``ci_low``, ``ci_high``; null where the reference has no
        ranking).
        """
        rows: list[Row] = []
        metrics = self._measured.judge.metrics
        for cell, qualities in self._measured.cells.items():
            asked = self._measured.judge.asked(cell.counted)
            for metric in (*metrics.accuracy, *metrics.beyond):
                row = self._head(cell) | {"metric": metric}
                row |= self._estimate(_values(qualities, metric, asked))
                if metric in metrics.accuracy:
                    row |= self._ratios(cell, metric, asked)
                rows.append(row)
            rows.extend(self._overall(cell, qualities))
        return rows

    def segments(self) -> list[Row]:
        """The main metric by region and by activity, everyone in training.

        Fields: ``method``, ``protocol``, ``segmentation``, ``segment``, ``customers``, ``mean``,
        ``ci_low``, ``ci_high``; ``to_everybody``, the segment's mean over that of all customers;
        ``ratio_to_popularity``, within the segment. Segments of fewer than 20 customers are left
        out.
        """
        found: list[Row] = []
        main = self._measured.judge.metrics.main
        segments = self._measured.customers.segments()
        for cell, qualities in self._measured.cells.items():
            if cell.setting != EVERYONE:
                continue
            asked = self._measured.judge.asked(cell.counted)
            overall = float(_values(qualities, main, asked).mean())
            for (segmentation, segment), members in segments.items():
                chosen = asked & members
                if chosen.sum() < _LEAST_CUSTOMERS:
                    continue
                row: Row = {"method": cell.method, "protocol": cell.counted.value}
                row |= {"segmentation": segmentation, "segment": segment}
                row |= self._estimate(_values(qualities, main, chosen))
                row["to_everybody"] = row["mean"] / overall if overall > 0 else None
                row["ratio_to_popularity"] = self._ratio(cell, POPULARITY, main, chosen)
                found.append(row)
        return found

    def refusals(self) -> list[Row]:
        """What refusing training changes, for those who refuse and for those who do not.

        Fields: ``method``, ``protocol``, ``group`` (``refused`` or ``consented``), ``customers``;
        ``everyone`` and ``with_refusals``, the main metric if everyone is in training and if those
        who refuse are not; ``difference`` of the two with ``ci_low`` and ``ci_high``, paired;
        ``popularity``, the same customers' figure without anything personal: what those are served
        who refuse personal recommendations too.
        """
        measured, main = self._measured, self._measured.judge.metrics.main
        refused = measured.customers.among(measured.refused)
        rows: list[Row] = []
        for cell, qualities in measured.cells.items():
            if cell.setting != WITH_REFUSALS:
                continue
            asked = measured.judge.asked(cell.counted)
            before = measured.cells[Cell(EVERYONE, cell.method, cell.counted)]
            plain = measured.cells[Cell(EVERYONE, POPULARITY, cell.counted)]
            for group, members in ((REFUSED, refused), (CONSENTED, ~refused)):
                chosen = asked & members
                if chosen.sum() < _LEAST_CUSTOMERS:
                    continue
                one, other = _values(before, main, chosen), _values(qualities, main, chosen)
                bootstrap = self._bootstrap(len(one))
                low, high = _interval(bootstrap.means(other) - bootstrap.means(one))
                rows.append(
                    {
                        "method": cell.method,
                        "protocol": cell.counted.value,
                        "group": group,
                        "customers": len(one),
                        "everyone": float(one.mean()),
                        "with_refusals": float(other.mean()),
                        "difference": {
                            "mean": float(other.mean() - one.mean()),
                            "ci_low": low,
                            "ci_high": high,
                        },
                        "popularity": float(_values(plain, main, chosen).mean()),
                    }
                )
        return rows

    def methods(self) -> list[Row]:
        """The methods, in order: ``method``, ``label``, ``kind``, ``strategy``, ``mode``, ε."""
        return [_method(each) for each in self._methods.values()]

    def _head(self, cell: Cell) -> Row:
        return {"setting": cell.setting, "method": cell.method, "protocol": cell.counted.value}

    def _bootstrap(self, n_customers: int) -> Bootstrap:
        if n_customers not in self._bootstraps:
            self._bootstraps[n_customers] = Bootstrap(
                n_customers, self._n_seeds, replicates=self._replicates, seed=0
            )
        return self._bootstraps[n_customers]

    def _estimate(self, values: FloatArray) -> Row:
        """Mean and interval of float64[customers, seeds]; no interval where a value is missing."""
        row: Row = {"mean": float(np.nanmean(values)), "ci_low": None, "ci_high": None}
        if not np.isnan(values).any():
            row["ci_low"], row["ci_high"] = _interval(self._bootstrap(len(values)).means(values))
        row["per_seed"] = [float(mean) for mean in np.nanmean(values, axis=0)]
        row["customers"] = len(values)
        return row

    def _ratios(self, cell: Cell, metric: str, asked: BoolArray) -> Row:
        return {
            f"ratio_to_{name}": self._ratio(cell, reference, metric, asked)
            for name, reference in REFERENCES.items()
        }

    def _ratio(self, cell: Cell, reference: str, metric: str, chosen: BoolArray) -> Row | None:
        """A method's mean over a reference's on the same customers; None without a reference."""
        against = self._measured.cells.get(Cell(EVERYONE, reference, cell.counted))
        if against is None:
            return None
        own = _values(self._measured.cells[cell], metric, chosen)
        other = _values(against, metric, chosen)
        bootstrap = self._bootstrap(len(own))
        resampled = bootstrap.means(other)
        if not (resampled > 0).all():
            return None
        low, high = _interval(bootstrap.means(own) / resampled)
        return {"mean": float(own.mean() / other.mean()), "ci_low": low, "ci_high": high}

    def _overall(self, cell: Cell, qualities: Sequence[Quality]) -> Iterator[Row]:
        for metric in self._measured.judge.metrics.overall:
            per_seed = [quality.overall[metric] for quality in qualities]
            yield self._head(cell) | {
                "metric": metric,
                "mean": float(np.mean(per_seed)),
                "ci_low": None,
                "ci_high": None,
                "per_seed": per_seed,
                "customers": None,
            }


def _method(method: Method) -> Row:
    return {
        "method": method.key,
        "label": method.label,
        "kind": method.kind,
        "strategy": method.strategy,
        "mode": method.mode,
        "epsilon": method.epsilon,
    }


def _values(qualities: Sequence[Quality], metric: str, chosen: BoolArray) -> FloatArray:
    """float64[chosen customers, seeds]."""
    values: FloatArray = np.stack([each.by_customer[metric] for each in qualities], axis=1)[chosen]
    return values


def _interval(resampled: FloatArray) -> tuple[float, float]:
    low, high = np.percentile(resampled, _INTERVAL)
    return float(low), float(high)


def served_worst(segments: Sequence[Row], method: str, counted: Protocol) -> list[Row]:
    """For each segmentation the segment with the lowest mean, of one method."""
    own = [row for row in segments if row["method"] == method and row["protocol"] == counted.value]
    return [
        min((row for row in own if row["segmentation"] == name), key=lambda row: row["mean"])
        for name in dict.fromkeys(row["segmentation"] for row in own)
    ]
