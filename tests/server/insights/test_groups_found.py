"""Segments that the data made: sizes, what is usual, what sets apart; and nothing of noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.analytics.answers import GLOBAL, ReleasedAnswer, ReleasedAnswers
from common.analytics.clusters import Clusters
from common.analytics.coordinates import Coordinate
from common.analytics.purchase_questions import CLUSTERS
from common.audit.report.language import LANGUAGES, Language
from server.insights.findings import gather
from server.insights.habits import segments
from server.insights.page import TEMPLATES
from server.insights.teller import Teller
from tests.support.html_page import Element, parse_page
from tests.support.made_answers import made_answers
from tests.support.made_clusters import COORDINATES, made_clusters

CUSTOMERS = (9_000, 5_000, 2_000)
MEANS = np.array([[-0.6, 0.5], [0.7, -0.8], [0.0, 0.9]])


def run_of(
    question: Clusters,
    means: npt.NDArray[np.float64] = MEANS,
    customers: Sequence[int] = CUSTOMERS,
    noise_stddev: float = 12.0,
) -> ReleasedAnswers:
    """A run with one answer, whose noise happened to be none."""
    count, coordinate = question.scales
    counts = np.array(customers, dtype=np.float64)
    sums = np.column_stack([counts * count, counts[:, None] * means * coordinate]).ravel()
    answer = ReleasedAnswer(
        question, GLOBAL, ("north", "south"), noise_stddev, sums, "0.4", max(1, int(counts.sum()))
    )
    whole = made_answers()
    return ReleasedAnswers(**{**vars(whole), "answers": (answer,)})


def shown(run: ReleasedAnswers, lang: str = "en") -> tuple[Element, str]:
    """What is drawn and said, as a page would have it; and the headline."""
    teller = Teller(gather([run]), Language(lang, TEMPLATES))
    section = segments(teller)
    assert section is not None
    figures = "".join(
        f"<section><h3>{each.caption}</h3>{_drawn(each.body)}<p>{each.said}</p></section>"
        for each in section.figures
    )
    return parse_page(f"<html><body>{figures}</body></html>"), str(section.headline)


def _drawn(body: object) -> str:
    rows = getattr(body, "rows", ())
    points = getattr(body, "points", ())
    cells = [
        (row.label, row.note, row.value)
        if hasattr(row, "note")
        else (row[0], *(f"{each.text}{each.sign}" for each in row[1]))
        for row in rows
    ]
    listed = [*cells, *((point.label, point.note) for point in points)]
    return "".join(f"<p>{' | '.join(map(str, line))}</p>" for line in listed)


TWO = made_clusters(CLUSTERS, np.zeros((3, 2)))


def test_the_largest_is_said_first_with_what_sets_it_apart() -> None:
    page, headline = shown(run_of(TWO))
    assert "Cluster 1 is the largest" in headline
    assert "here lately" in headline
    assert "56." in headline
    sizes, usual, drawn = (each.text for each in page.all("section"))
    assert sizes.index("Cluster 1") < sizes.index("Cluster 2") < sizes.index("Cluster 3")
    assert "last here longer ago" in sizes
    assert "here seldom" in sizes
    # In days, not in coordinates.
    days = COORDINATES[0].number(np.array([-0.6]))[0]
    assert f"{days:.3f}" in usual
    assert "up" in usual
    assert "down" in usual
    assert "Cluster 3" in drawn


def test_more_coordinates_than_two_are_no_map() -> None:
    question = made_clusters(CLUSTERS, np.zeros((3, 3)))
    page, _ = shown(run_of(question, np.column_stack([MEANS, [0.1, 0.1, 0.1]])))
    assert len(page.all("section")) == 2


def test_two_of_a_size_have_no_largest_and_like_ones_nothing_sets_apart() -> None:
    page, headline = shown(run_of(TWO, np.zeros((3, 2)), (5000, 5000, 2000)))
    assert headline == ""
    assert page.text.count("not told from all customers") >= 3


def test_where_customers_are_few_noise_is_not_shown() -> None:
    page, headline = shown(run_of(TWO, customers=(60, 40, 20)))
    assert headline == ""
    (only,) = page.all("section")
    assert "Cluster 1" not in only.text


def test_a_cluster_that_is_not_told_from_an_empty_one_has_no_numbers() -> None:
    page, _ = shown(run_of(TWO, customers=(90_000, 50_000, 5)))
    _, usual, drawn = (each.text for each in page.all("section"))
    assert "Cluster 3 | – | –" in usual
    assert "Cluster 3" not in drawn


def test_a_category_is_named_and_is_text() -> None:
    coordinates = (Coordinate("category", 0, 50, "linear", "<script>milk"), COORDINATES[0])
    question = Clusters(CLUSTERS, coordinates, np.zeros((3, 2)))
    for lang in LANGUAGES:
        page, _ = shown(run_of(question), lang)
        assert not page.all("script")
        assert "<script>milk" in page.text
