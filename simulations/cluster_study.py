"""How good the segments are that a plan of k-means finds, beside those that the records have.

``python -m simulations.cluster_study`` prints it, for the plan that is shipped as
``docs/examples/questions-segments.toml``. Points, rows, centres and the way that they move are the
code of regions and coordinator; noise is that of the plan's ε, in every step.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.analytics.points import points_of
from client.analytics.rows import cluster_rows
from client.data.transactions import Purchases
from client.training.noise import NoiseSource, SeededNoise
from common.analytics.clusters import Clusters
from common.analytics.estimates import FloatArray
from common.catalogue import Catalogue
from common.cluster_steps import MOVED_DEVIATIONS
from common.plan_defaults import calibrated_sigma
from common.questions_plan import QuestionsFile
from simulations.analytics_study import CLOCK, Window, retail_purchases
from simulations.made_up_purchases import END_MS, made_up, made_up_catalogue

PLAN = Path(__file__).resolve().parents[1] / "docs" / "examples" / "questions-segments.toml"
DELTA = "0.000001"
DRAWS = 200
# So often the best segments are sought from another start; the best of all is what there is.
_RESTARTS, _ROUNDS = 20, 50


@dataclass(frozen=True)
class Segments:
    """How good segments are: which share of the points' variance is between them.

    Attributes:
        best: Of the best that k-means finds on the records themselves, from many starts.
        without_noise: Of the plan's steps, from its public start.
        with_noise: Likewise, with its noise: the mean over draws.
        worst: Likewise, what 95 of 100 draws are above.
        told: Of how many segments something is said; the mean over draws.
        covered: How often the intervals of sizes and means cover the truth.
    """

    best: float
    without_noise: float
    with_noise: float
    worst: float
    told: float
    covered: float


def measured(
    points: FloatArray, question: Clusters, epsilon: str, noise: NoiseSource, *, draws: int = DRAWS
) -> Segments:
    """How good a question's segments are.

    Args:
        points: float64[customers, coordinates].
        question: What is asked.
        epsilon: ε of all its steps, a decimal string.
        noise: Where noise is drawn from.
        draws: How often all of it is asked.
    """
    stddev = calibrated_sigma(epsilon, DELTA) * math.sqrt(question.steps)
    found = [_asked(points, question, stddev, noise) for _ in range(draws)]
    shares = np.array([share for share, _, _ in found])
    return Segments(
        best=_best(points, len(question.centres)),
        without_noise=_asked(points, question, 0.0, noise)[0],
        with_noise=float(shares.mean()),
        worst=float(np.quantile(shares, 0.05)),
        told=float(np.mean([told for _, told, _ in found])),
        covered=float(np.mean([covered for _, _, covered in found])),
    )


def _asked(
    points: FloatArray, question: Clusters, stddev: float, noise: NoiseSource
) -> tuple[float, int, float]:
    """The share between segments, of how many something is said, and how often it is true."""
    truth = values = np.zeros(question.size)
    for step in range(question.steps):
        # The answer is of the last step: of its centres, which the others came to.
        question = question if step == 0 else question.moved(values, MOVED_DEVIATIONS * stddev)
        truth = _sums(points, question)
        values = truth + noise.gaussian(truth.shape, stddev) if stddev else truth
    share = explained(points, question.moved(values, MOVED_DEVIATIONS * stddev).centres)
    if not stddev:
        return share, len(question.centres), 1.0
    means, counts = question.read(values, stddev), question.counts(values, stddev)
    exact = question.read(truth, 1e-9), question.counts(truth, 1e-9)
    known = means.known & exact[0].known
    hits = [
        *means.covers(exact[0].value)[known].tolist(),
        *counts.covers(exact[1].value).tolist(),
    ]
    told = means.known.reshape(question.centres.shape).all(axis=1)
    return share, int(told.sum()), float(np.mean(hits))


def _sums(points: FloatArray, question: Clusters) -> FloatArray:
    rows = cluster_rows(question, np.arange(len(points)), points)
    sums = np.zeros(question.size)
    np.add.at(sums, rows.place, rows.value)
    return sums


def explained(points: FloatArray, centres: FloatArray) -> float:
    """Which share of the points' variance is between the centres that they are nearest to."""
    squares = ((points[:, None, :] - centres[None]) ** 2).sum(axis=2).min(axis=1)
    whole = ((points - points.mean(axis=0)) ** 2).sum()
    return float(1 - squares.sum() / whole)


def _best(points: FloatArray, clusters: int) -> float:
    generator, found = np.random.default_rng(1), 0.0
    for _ in range(_RESTARTS):
        centres = points[generator.choice(len(points), clusters, replace=False)]
        for _ in range(_ROUNDS):
            squares = ((points[:, None, :] - centres[None]) ** 2).sum(axis=2)
            nearest = squares.argmin(axis=1)
            held = np.bincount(nearest, minlength=clusters)
            sums = np.stack(
                [np.bincount(nearest, weights=column, minlength=clusters) for column in points.T],
                axis=1,
            )
            means: FloatArray = sums / np.maximum(held, 1)[:, None]
            centres = np.where(held[:, None] > 0, means, centres)
        found = max(found, explained(points, centres))
    return found


def asked(catalogue: Catalogue, window: Window) -> Clusters:
    """The question of the plan that is shipped."""
    grouping = QuestionsFile.read(PLAN).clusters.grouping()
    return grouping.question(days=window.days, categories=len(catalogue.category_names))


def points_in(
    parts: Sequence[Purchases], question: Clusters, catalogue: Catalogue, window: Window
) -> FloatArray:
    """float64[customers, coordinates]: everybody who bought something in the window."""
    inside = [_within(part, window) for part in parts]
    return np.concatenate(
        [
            points_of(part, question.coordinates, catalogue, CLOCK, end_ms=window.end_ms)[1]
            for part in inside
        ]
    )


def _within(part: Purchases, window: Window) -> Purchases:
    kept = (part.time_ms >= window.start_ms) & (part.time_ms < window.end_ms)
    return Purchases(part.owners, part.owner[kept], part.item[kept], part.time_ms[kept])


def one_region(customers: int, epsilon: str, *, draws: int = DRAWS, seed: int = 1) -> Segments:
    """A made-up region by itself.

    Args:
        customers: How many customers.
        epsilon: ε, a decimal string.
        draws: How often all of it is asked.
        seed: The same seed gives the same figures.
    """
    catalogue, window = made_up_catalogue(), Window(0, END_MS)
    question = asked(catalogue, window)
    points = points_in([made_up(customers, seed)], question, catalogue, window)
    noise = SeededNoise(f"clusters/{customers}/{epsilon}/{seed}")
    return measured(points, question, epsilon, noise, draws=draws)


def retail(epsilon: str, *, draws: int = DRAWS) -> Segments:
    """All regions of Complete Journey in one sum, whose noise is that of one with all shares."""
    regions, catalogue, window = retail_purchases()
    question = asked(catalogue, window)
    parts = [part for region in regions for part in region]
    points = points_in(parts, question, catalogue, window)
    return measured(points, question, epsilon, SeededNoise(f"retail/{epsilon}"), draws=draws)


def main() -> None:
    """Prints the figures."""
    for epsilon in ("0.5", "1"):
        _print(f"retail-5, ε = {epsilon}", retail(epsilon))
        for customers in (1_000, 2_000, 5_000, 20_000):
            _print(f"{customers} made-up, ε = {epsilon}", one_region(customers, epsilon))


def _print(name: str, found: Segments) -> None:
    sys.stdout.write(
        f"{name}: best {found.best:.3f}, steps {found.without_noise:.3f}, with noise "
        f"{found.with_noise:.3f} (worst {found.worst:.3f}), told {found.told:.2f}, "
        f"covered {found.covered:.4f}\n"
    )


if __name__ == "__main__":
    main()
