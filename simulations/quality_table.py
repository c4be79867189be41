"""From rankings' quality, customer by customer, to a table with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from client.training.evaluation import COVERAGE_PLACES, METRICS, Protocol, RankingQuality
from common.errors import InputError

FloatArray = npt.NDArray[np.float64]
# A row of the table; it holds only what JSON can hold.
Row = dict[str, Any]

POPULARITY = "popularity"
PERSONAL_RECENCY = "personal_recency"
# What a customer would be served, by protocol; what the headlines are about.
SERVED = {Protocol.NEW: "fedpref_tilt", Protocol.ALL: "fedpref_fused"}
REPLICATES = 1000
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Cell:
    """What one figure is of.

    Attributes:
        setting: Who was in training.
        method: The method's key.
        protocol: Which items count.
        universe: Which items are candidates.
    """

    setting: str
    method: str
    protocol: Protocol
    universe: str


@dataclass
class Table:
    """The quality of each cell, seed by seed; a method without chance has one."""

    cells: dict[Cell, list[RankingQuality]] = field(default_factory=dict)

    def add(self, cell: Cell, quality: RankingQuality) -> None:
        """Adds one seed's quality."""
        self.cells.setdefault(cell, []).append(quality)


class Bootstrap:
    """Resampled means over customers and seeds, paired: all methods see the same resamples.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13 (percentile
    intervals). Customers are resampled, and within a method its seeds, so that an interval holds
    both the customers' and the noise's chance.

    Args:
        n_customers: The customers with a value.
        n_seeds: The seeds of a method that has several.
        replicates: How many resamples.
        seed: Of the resampling.

    Raises:
        InputError: There are no customers.
    """

    def __init__(self, n_customers: int, n_seeds: int, *, replicates: int, seed: int) -> None:
        if n_customers == 0:
            raise InputError("No customer bought anything relevant in the test window.")
        generator = np.random.default_rng([seed, n_customers, n_seeds])
        self._customers = _resampled(generator, n_customers, replicates)
        self._seeds = _resampled(generator, n_seeds, replicates)

    def means(self, values: FloatArray) -> FloatArray:
        """float64[replicates]: resampled means of float64[n_customers, seeds or 1]."""
        by_seed = self._customers @ values
        if values.shape[1] == 1:
            return by_seed[:, 0]
        result: FloatArray = (by_seed * self._seeds).sum(axis=1)
        return result


def _resampled(generator: np.random.Generator, n: int, replicates: int) -> FloatArray:
    """float64[replicates, n]: the weight of each in n draws with replacement."""
    counts = generator.multinomial(n, np.full(n, 1.0 / n), size=replicates)
    weights: FloatArray = counts / n
    return weights


def summarise(
    table: Table, labels: dict[str, str], *, n_seeds: int, replicates: int = REPLICATES
) -> list[Row]:
    """The table's rows, in the order the cells were added; `run_quality_study` has the fields.

    Raises:
        InputError: A cell has neither one value nor one for each seed.
    """
    rows: list[Row] = []
    groups: dict[tuple[str, Protocol, str], list[Cell]] = {}
    for cell in table.cells:
        groups.setdefault((cell.setting, cell.protocol, cell.universe), []).append(cell)
    bootstraps: dict[int, Bootstrap] = {}
    for cells in groups.values():
        for metric in METRICS:
            values = {c.method: _values(table.cells[c], metric, n_seeds) for c in cells}
            n_customers = len(next(iter(values.values())))
            if n_customers not in bootstraps:
                bootstraps[n_customers] = Bootstrap(
                    n_customers, n_seeds, replicates=replicates, seed=0
                )
            rows.extend(_metric_rows(cells, metric, labels, values, bootstraps[n_customers]))
        rows.extend(_coverage_row(table, cell, labels) for cell in cells)
    return rows


def _metric_rows(
    cells: Sequence[Cell],
    metric: str,
    labels: dict[str, str],
    values: dict[str, FloatArray],
    bootstrap: Bootstrap,
) -> list[Row]:
    means = {method: bootstrap.means(each) for method, each in values.items()}
    rows: list[Row] = []
    for cell in cells:
        own = values[cell.method]
        low, high = np.percentile(means[cell.method], _INTERVAL)
        row = _head(cell, metric, labels)
        row.update(mean=float(own.mean()), ci_low=float(low), ci_high=float(high))
        row["per_seed"] = [float(mean) for mean in own.mean(axis=0)]
        row["customers"] = len(own)
        for name, reference in _references(cell.protocol).items():
            row[f"ratio_to_{name}"] = _relative(cell.method, reference, values, means)
        rows.append(row)
    return rows


def _references(protocol: Protocol) -> dict[str, str]:
    """What each method is compared with, pair by pair: the field's name, and the method."""
    return {
        POPULARITY: POPULARITY,
        PERSONAL_RECENCY: PERSONAL_RECENCY,
        "served": SERVED[protocol],
    }


def _relative(
    method: str, reference: str, values: dict[str, FloatArray], means: dict[str, FloatArray]
) -> Row | None:
    """A method's mean over the reference's, with its interval; None without a reference."""
    if reference not in values or not values[reference].mean() > 0:
        return None
    resampled = means[reference]
    if not (resampled > 0).all():
        return None
    low, high = np.percentile(means[method] / resampled, _INTERVAL)
    return {
        "mean": float(values[method].mean() / values[reference].mean()),
        "ci_low": float(low),
        "ci_high": float(high),
    }


def _coverage_row(table: Table, cell: Cell, labels: dict[str, str]) -> Row:
    per_seed = [quality.coverage for quality in table.cells[cell]]
    row = _head(cell, f"coverage@{COVERAGE_PLACES}", labels)
    row.update(mean=float(np.mean(per_seed)), ci_low=None, ci_high=None)
    row["per_seed"] = list(per_seed)
    row["customers"] = None
    row.update({f"ratio_to_{name}": None for name in _references(cell.protocol)})
    return row


def _head(cell: Cell, metric: str, labels: dict[str, str]) -> Row:
    return {
        "setting": cell.setting,
        "method": cell.method,
        "label": labels[cell.method],
        "protocol": cell.protocol.value,
        "universe": cell.universe,
        "metric": metric,
    }


def _values(qualities: Sequence[RankingQuality], metric: str, n_seeds: int) -> FloatArray:
    """float64[customers with a value, seeds]."""
    if len(qualities) not in (1, n_seeds):
        raise InputError(f"A method has {len(qualities)} values; expected were 1 or {n_seeds}.")
    stacked = np.stack([quality.by_customer[metric] for quality in qualities], axis=1)
    defined = ~np.isnan(stacked).any(axis=1)
    result: FloatArray = stacked[defined]
    return result
