"""The panel of what customers search for: the largest keys, lower bounds, and foreign texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from common.analytics.answers import GLOBAL, ReleasedAnswer, ReleasedAnswers
from common.analytics.key_questions import SEARCH_TERMS, search_terms
from common.analytics.key_tables import KeyTable
from server.insights.findings import gather
from server.insights.output import answers_json
from server.insights.page import render_insights
from server.insights.settings import InsightsSettings
from tests.support.html_page import Element, parse_page
from tests.support.made_answers import REGIONS, STDDEV


def panel(html: str, name: str = "searches") -> Element:
    sections = parse_page(html).all("section")
    return next(each for each in sections if each.attributes["aria-labelledby"] == name)


def figure(part: Element, of: str) -> Element:
    return next(each for each in part.all("figure") if of in each.first("figcaption").text)


def asked(values: Mapping[str, list[float]], customers: int = 20_000) -> ReleasedAnswers:
    """A run that asked two regions for words alone; not a number where one has not released it."""
    question, regions = search_terms(), ("north", "south")
    rows = np.array([*values.values()]).reshape(len(values), 2)
    table = KeyTable(tuple(values), rows)
    answer = ReleasedAnswer(question, GLOBAL, regions, STDDEV, table.sums, "0.5", customers, table)
    return ReleasedAnswers(
        plan="p",
        run="r",
        plan_sha256="a" * 64,
        federation="f",
        window=("2026-01-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z"),
        mode="local",
        regions=regions,
        epsilon="1",
        delta="0.000001",
        unit="one customer; add-or-remove-one-customer",
        answers=(answer,),
    )


def page(run: ReleasedAnswers, lang: str = "en") -> str:
    return render_insights(gather([run]), InsightsSettings(), lang=lang)


def test_the_largest_are_shown_with_intervals_and_where_they_are_from(
    made_run: ReleasedAnswers, insight_pages: dict[str, str]
) -> None:
    whole = figure(panel(insight_pages["en"]), "all regions together")
    head, first, *rest = whole.first("table").rows()
    assert head == ["Searched for", "Customers", "Regions"]
    assert first[0] == "milk"
    # The small region has released nothing: the sum is known from below.
    assert first[1].startswith("at least")
    assert first[1].endswith("∞")
    assert first[2] == "in 3 of 4 regions"
    assert {row[0] for row in rest} >= {"word of north", "word of south", "word of east", "牛奶"}
    assert "lower bounds" in whole.text
    own = figure(panel(insight_pages["en"]), "north")
    (_, milk, *_) = own.first("table").rows()
    assert "at least" not in milk[1]
    read = made_run.of(SEARCH_TERMS, "north")
    assert read.keys is not None
    assert len(own.first("table").rows()) == 1 + len(read.keys.keys)


def test_a_region_that_is_too_small_is_said_to_be(insight_pages: dict[str, str]) -> None:
    small = figure(panel(insight_pages["en"]), "islands")
    assert "too few customers" in small.text
    assert not small.all("table")


def test_the_headline_names_only_what_is_sure(insight_pages: dict[str, str]) -> None:
    assert "Searched for most: milk" in panel(insight_pages["en"], "glance").text
    near = {f"k{n}": [200.0 + n / 10, 200.0] for n in range(6)}
    assert "Searched for most" not in panel(page(asked(near)), "glance").text


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_that_nothing_was_named_is_no_silent_zero(lang: str) -> None:
    whole = figure(panel(page(asked({}), lang)), "")
    assert not whole.all("table")
    assert ("does not say that nobody searches" in whole.text) == (lang == "en")
    assert ("不表示没有人搜索" in whole.text) == (lang == "zh")


def test_that_there_was_no_room_is_said() -> None:
    full = {f"k{n:03d}": [300.0 + n, 300.0] for n in range(256)}
    assert "had room for 256 only" in panel(page(asked(full))).text


def test_foreign_texts_are_text() -> None:
    hostile = "</td><script>alert(1)</script>{{7*7}}"
    html = page(asked({hostile: [300.0, 290.0], "milk": [200.0, float("nan")]}))
    assert "<script>alert" not in html
    rows = panel(html).first("table").rows()
    assert rows[1][0] == hostile
    assert "{{7*7}}" in panel(html).text


def test_programs_get_the_same_lines_and_none_of_what_is_noise(made_run: ReleasedAnswers) -> None:
    record = json.loads(answers_json(gather([made_run])))
    found = {each["scope"]: each for each in record["answers"] if each["question"] == SEARCH_TERMS}
    assert found.keys() == {GLOBAL, *REGIONS}
    assert found["islands"]["shown"] is False
    assert found["islands"]["lines"] == []
    milk = found[GLOBAL]["lines"][0]
    assert (milk["label"], milk["high"]) == ("milk", None)


def test_an_answer_without_keys_is_not_shown() -> None:
    run = asked({"milk": [300.0, 300.0]})
    bare = replace(run, answers=(replace(run.answers[0], keys=None),))
    assert not panel(page(bare)).all("table")
