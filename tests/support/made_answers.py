"""Made-up answers of a federation, of every kind of question: truth, and noise from one seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from common.analytics.answers import GLOBAL, ReleasedAnswer, ReleasedAnswers
from common.analytics.cuts import Cuts
from common.analytics.funnels import Funnel
from common.analytics.groups import Groups
from common.analytics.kano import CLASSES, Kano
from common.analytics.key_arrays import packed_keys
from common.analytics.key_questions import search_terms
from common.analytics.key_tables import key_table
from common.analytics.question_records import Question
from common.analytics.scores import Score
from common.analytics.shares import Shares
from common.analytics.trends import Trend
from common.analytics.uplift import Uplift
from tests.support.made_clusters import made_clusters

FloatArray = npt.NDArray[np.float64]

REGIONS: Mapping[str, int] = {"north": 9_000, "south": 6_000, "east": 12_000, "islands": 400}
STDDEV = 12.0
CATEGORIES = tuple(f"category {n:02d}" for n in range(60))
FEATURES = ("same-day delivery", "digital receipts", "free parking", "shelf labels", "late hours")
WORDS = ("milk", "bread", "coffee", "牛奶", "łódź")
WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
# Of each feature's answers, the share of each class.
_KANO = np.array(
    [
        [0.46, 0.24, 0.08, 0.18, 0.03, 0.01],
        [0.10, 0.14, 0.08, 0.55, 0.10, 0.03],
        [0.07, 0.18, 0.58, 0.14, 0.02, 0.01],
        [0.12, 0.46, 0.26, 0.14, 0.01, 0.01],
        [0.30, 0.22, 0.06, 0.32, 0.08, 0.02],
    ]
)


def questions() -> list[Question]:
    """One question of every kind, two scores."""
    edges = tuple(float(round(each, 6)) for each in np.expm1(np.linspace(0, np.log(366), 65)))
    centres = np.array([[-0.6, 0.5], [0.1, -0.2], [0.8, -0.8]])
    return [
        Groups.counts("category-customers", CATEGORIES, most=16),
        Trend("category-trend", CATEGORIES, most=16),
        Shares("purchase-scenes", (("morning", "noon", "evening", "night"), WEEK)),
        Cuts("recency-cuts", edges, unit="days"),
        Funnel("journey-funnel", ("awareness", "interest", "decision", "purchase", "repeat")),
        Score.nps(),
        Score.csat(),
        Uplift("uplift-click"),
        Kano("kano", FEATURES, most=4),
        made_clusters("purchase-clusters", centres),
    ]


def truth(question: Any, customers: int, generator: np.random.Generator) -> FloatArray:
    """The sum of so many customers' rows."""
    if isinstance(question, Groups):
        share = 0.62 / (1 + np.arange(question.size)) ** 0.55 * generator.uniform(0.8, 1.25, 60)
        return customers * share / question.bound
    if isinstance(question, Trend):
        share = 0.5 / (1 + np.arange(60)) ** 0.6
        growth = np.where(np.arange(60) == 7, 3.6, generator.uniform(0.7, 1.5, 60))
        return customers * np.concatenate([share, share * growth]) / question.bound
    if isinstance(question, Shares):
        weight = np.outer([0.2, 0.27, 0.45, 0.08], [1.0, 0.9, 0.95, 1.05, 1.3, 1.6, 0.7])
        return customers * (weight * generator.uniform(0.9, 1.1, weight.shape)).ravel() / 7.5
    if isinstance(question, Cuts):
        cells = np.bincount(question.cell(generator.exponential(40, customers)), minlength=64)
        total = np.zeros(question.size)
        for places in question.tree.places():
            np.add.at(total, places, cells * question.tree.scale)
        return total
    if isinstance(question, Funnel):
        return customers * np.array([0.22, 0.26, 0.2, 0.14, 0.18])
    if isinstance(question, Score):
        return customers * np.array([0.05, 0.06, 0.09] if question.size == 3 else [0.05, 0.15])
    if isinstance(question, Uplift):
        return customers * np.array([0.41, 0.09, 0.375, 0.125])
    if isinstance(question, Kano):
        assert _KANO.shape == (len(FEATURES), len(CLASSES))
        return (0.3 * customers * _KANO).ravel() / question.bound
    count, coordinate = question.scales
    parts = np.array([0.3, 0.45, 0.25]) * customers
    sums = np.array([[-0.7, 0.55], [0.0, -0.25], [0.75, -0.85]]) * parts[:, None]
    return np.column_stack([parts * count, sums * coordinate]).ravel()


def made_keys(
    regions: Mapping[str, int], stddev: float, generator: np.random.Generator
) -> list[ReleasedAnswer]:
    """What customers search for: common words, and one of each region's own."""
    question = search_terms()
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for region, customers in regions.items():
        counts = {word: customers * 0.3 / (2 + n) for n, word in enumerate(WORDS)}
        counts[f"word of {region}"] = customers * 0.05
        noisy = {key: each / 2 + generator.normal(0, stddev) for key, each in counts.items()}
        least = question.least_released(stddev, -10)
        passed = {key: np.float32(each) for key, each in noisy.items() if each >= least}
        packed = packed_keys(question, [*passed], np.array([*passed.values()], dtype=np.float32))
        arrays |= {f"{region}/{name}": each for name, each in packed.items()}
    answers = []
    for scope, own in ((GLOBAL, tuple(regions)), *((region, (region,)) for region in regions)):
        table = key_table(question, own, arrays)
        least = sum(1 << (regions[region].bit_length() - 1) for region in own)
        answers.append(
            ReleasedAnswer(question, scope, own, stddev, table.sums, "0.31", least, table)
        )
    return answers


def made_answers(
    regions: Mapping[str, int] = REGIONS, *, seed: int = 1, stddev: float = STDDEV
) -> ReleasedAnswers:
    """A run that asked every question of every region and of all together.

    Args:
        regions: How many customers each region has.
        seed: The same seed gives the same answers.
        stddev: Standard deviation of each region's noise.
    """
    generator = np.random.default_rng(seed)
    answers: list[ReleasedAnswer] = []
    for question in questions():
        own = []
        for region, customers in regions.items():
            noise = generator.normal(0, stddev, question.size)
            sums = truth(question, customers, generator) + noise
            least = 1 << (customers.bit_length() - 1)
            own.append(ReleasedAnswer(question, region, (region,), stddev, sums, "0.31", least))
        answers.append(
            ReleasedAnswer(
                question,
                GLOBAL,
                tuple(regions),
                stddev * len(regions) ** 0.5,
                np.sum([each.released for each in own], axis=0),
                "0.31",
                sum(each.customers_at_least for each in own),
            )
        )
        answers += own
    answers += made_keys(regions, stddev, generator)
    return ReleasedAnswers(
        plan="made-up",
        run="r-made-up",
        plan_sha256="ab" * 32,
        federation="made-up.example",
        window=("2026-01-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z"),
        mode="local",
        regions=tuple(regions),
        epsilon="1",
        delta="0.000001",
        unit="one customer; add-or-remove-one-customer",
        answers=tuple(answers),
    )
