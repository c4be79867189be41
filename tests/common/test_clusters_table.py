"""``[clusters]``: what people write, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.analytics.grouping import Axis, Grouping
from common.errors import InputError
from common.questions_plan import QuestionsFile

QUESTION = '\n[[question]]\nname = "purchase-clusters"\n'


def read(folder: Path, text: str) -> Grouping:
    path = folder / "questions.toml"
    path.write_text(text + QUESTION, encoding="utf-8")
    return QuestionsFile.read(path).clusters.grouping()


def test_nothing_said_is_the_usual(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Grouping()


def test_all_of_it_is_read(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
        [clusters]
        steps = 3
        start = [[7, 40.5], [90, 0]]

        [[clusters.coordinate]]
        measure = "recency"
        most = 90

        [[clusters.coordinate]]
        measure = "category"
        category = "milk"
        """,
    )
    axes = (Axis("recency", most=90), Axis("category", category="milk"))
    assert found == Grouping(axes, steps=3, start=((7.0, 40.5), (90.0, 0.0)))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[clusters]\nclusters = 1", "clusters.clusters"),
        ("[clusters]\nclusters = 3\nstart = [[1], [2]]", "leave clusters out"),
        ("[clusters]\nstart = [[1]]", "one cluster is none"),
        ("[clusters]\nsteps = 0", "clusters.steps"),
        ("[clusters]\nsteps = 2.0", "clusters.steps"),
        ("[clusters]\nstart = [[-1], [2]]", "clusters.start"),
        ("[clusters]\nseed = 3", "clusters.seed"),
        ("[[clusters.coordinate]]\nmost = 3", "clusters.coordinate.0.measure"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=named):
        read(tmp_path, text)
