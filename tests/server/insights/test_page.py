"""The page: every section in both languages, what it says and does not say, what it never does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from common.analytics.answers import GLOBAL, ReleasedAnswers
from common.analytics.groups import Groups
from common.analytics.kano import Kano
from common.analytics.lines import TOO_SMALL
from common.analytics.trends import Trend
from common.audit.report.language import LANGUAGES, messages
from server.insights.figures import spoken, told
from server.insights.findings import gather
from server.insights.output import answers_json
from server.insights.page import GENERATOR, TEMPLATES, render_insights
from server.insights.settings import InsightsSettings, read_settings
from tests.support.html_page import Element
from tests.support.html_page import parse_page as parse_anew
from tests.support.made_answers import CATEGORIES, FEATURES, REGIONS

SECTIONS = (
    "glance",
    "preferences",
    "changes",
    "scenes",
    "segments",
    "searches",
    "funnels",
    "satisfaction",
    "experiments",
    "wishes",
    "priority",
    "asked",
    "reading",
)
HOSTILE = (
    "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}{0}%s"
    "\u202edesrever\u2066\u200b\x07"
)

# Pages are only read: each is parsed once.
parse_page = cache(parse_anew)


def section(page: Element, name: str) -> Element:
    return next(each for each in page.all("section") if each.attributes["aria-labelledby"] == name)


def figures(part: Element) -> dict[str, Element]:
    return {each.first("figcaption").text: each for each in part.all("figure")}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_section_is_there_and_linked(lang: str, insight_pages: dict[str, str]) -> None:
    page, said = parse_page(insight_pages[lang]), messages(lang, TEMPLATES)
    assert [each.attributes["aria-labelledby"] for each in page.all("section")] == list(SECTIONS)
    assert page.first("html").attributes["lang"] == LANGUAGES[lang]
    for name in SECTIONS:
        assert section(page, name).first("h2").text == said[f"{name}.title"]
    links = [each.attributes["href"] for each in page.first("nav").all("a")]
    assert links == [f"#{name}" for name in SECTIONS]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_figure_states_its_budget_and_noise(lang: str, insight_pages: dict[str, str]) -> None:
    page, said = parse_page(insight_pages[lang]), messages(lang, TEMPLATES)
    found = page.all("figure")
    assert len(found) > 30
    free = said["priority.cost"]
    for each in found:
        cost = [part.text for part in each.all("p") if "cost" in part.classes]
        assert len(cost) == 1
        assert cost[0] == free or ("ε = 0.310" in cost[0] and "σ = " in cost[0])


def test_where_a_region_is_too_small_nothing_is_shown_but_that(
    insight_pages: dict[str, str],
) -> None:
    page = parse_page(insight_pages["en"])
    silent = [each for each in page.all("figure") if "silent" in each.classes]
    assert silent
    for each in silent:
        assert "islands" in each.first("figcaption").text
        needed = re.search(r"too few customers .* about [0-9,]+ customers would do", each.text)
        assert needed or "no group was large enough" in each.text
        assert not each.all("svg")
        assert not each.all("table")
    scenes = figures(section(page, "scenes"))
    assert [name for name in scenes if "islands" in name] == ["When customers buy · islands"]
    # Beside each other it is no column, and said to be missing.
    beside = next(
        each for name, each in figures(section(page, "preferences")).items() if "shares of" in name
    )
    assert "islands" not in beside.first("table").rows()[0]
    assert "Too few customers to say: islands" in beside.text


def test_numbers_are_the_answers(made_run: ReleasedAnswers, insight_pages: dict[str, str]) -> None:
    page = parse_page(insight_pages["en"])
    for name, index in (("nps", 0), ("csat", 0)):
        answer = made_run.of(name)
        read = answer.question.read(answer.released, answer.noise_stddev)  # type: ignore[attr-defined]
        words = re.sub("<[^>]*>", "", str(spoken(told(read)[index])))
        assert words in section(page, "satisfaction").text
    top = figures(section(page, "preferences"))
    chart = top["Categories that customers buy most · all regions together"]
    question = made_run.of("category-customers").question
    assert isinstance(question, Groups)
    order = (-made_run.of("category-customers").released).argsort()[:20].tolist()
    rows = chart.first("table").rows()
    assert [row[0] for row in rows[1:]] == [CATEGORIES[place] for place in order]
    assert len(chart.all("svg")) == 21


def test_alerts_come_first_and_only_what_crossed_with_its_whole_interval(
    insight_pages: dict[str, str],
) -> None:
    page = parse_page(insight_pages["en"])
    alerts = next(each for each in section(page, "glance").all("ul") if "alerts" in each.classes)
    said = [each.text for each in alerts.all("li")]
    assert said
    assert all(each.startswith("category 07") for each in said)
    assert "all regions together" in said[0]
    assert all(float(re.search(r": (\d+)", each)[1]) > 200 for each in said)  # type: ignore[index]


def test_an_alert_holds_for_all_groups_of_a_figure_at_once(made_run: ReleasedAnswers) -> None:
    answer = made_run.of("category-trend")
    question = answer.question
    assert isinstance(question, Trend)
    n, stddev = len(question.labels), answer.noise_stddev
    # One group whose own interval is just beyond the threshold, among sixty.
    earlier, later = np.full(n, 900.0), np.full(n, 900.0)
    later[3] = 3 * earlier[3] + 2.6 * np.sqrt(10) * stddev
    lone = replace(answer, released=np.concatenate([earlier, later]))
    change = question.read(lone.released, stddev)
    assert question.alerts(change)[3] == "crossed"
    html = render_insights(gather([replace(made_run, answers=(lone,))]), read_settings())
    page = parse_anew(html)
    assert section(page, "glance").all("dd")[6].text == "0"
    assert not any("alerts" in each.classes for each in page.all("ul"))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_by_how_much_is_not_said_where_that_would_be_noise(
    made_run: ReleasedAnswers, lang: str
) -> None:
    """One group that grew tenfold, told to within ±370 points; another, told to within ±30."""
    answer = made_run.of("category-trend")
    question, n = answer.question, len(CATEGORIES)
    assert isinstance(question, Trend)
    values = np.zeros(2 * n)
    values[[3, n + 3, 8, n + 8]] = 6.0, 60.0, 60.0, 240.0
    lone = replace(answer, released=values * answer.noise_stddev)
    findings = gather([replace(made_run, answers=(lone,))])
    page = parse_anew(render_insights(findings, InsightsSettings(), lang=lang))
    rows = {row.all("th")[0].text: row.text for row in page.all("tr") if row.all("th")}
    silent, said = rows[CATEGORIES[3]], rows[CATEGORIES[8]]
    assert "900" not in silent
    assert messages(lang, TEMPLATES)["changes.crossed"].format(limit="+200%") in silent
    assert "300" in said
    # Both crossed, and are told so at a glance.
    (alerts,) = [each for each in page.all("ul") if "alerts" in each.classes]
    assert [each.text.split(" (")[0].split("（")[0] for each in alerts.all("li")] == [
        CATEGORIES[8],
        CATEGORIES[3],
    ]
    assert "900" not in alerts.text
    (record,) = json.loads(answers_json(findings))["answers"]
    lines = {each["label"]: each for each in record["lines"]}
    assert lines[CATEGORIES[3]]["value"] is None
    assert TOO_SMALL in lines[CATEGORIES[3]]["note"]
    assert lines[CATEGORIES[8]]["value"] == "300"


def test_a_sentence_is_said_only_if_noise_does_not_explain_it(
    made_run: ReleasedAnswers, insight_pages: dict[str, str]
) -> None:
    page = parse_page(insight_pages["en"])
    said = section(page, "glance").text
    assert "Among the three that most customers buy" in said
    assert "The busiest scene is evening × Sat" in said
    # The same values with so much more noise say none of it.
    doubtful = [
        replace(each, noise_stddev=40 * each.noise_stddev, customers_at_least=10**9)
        for each in made_run.answers
    ]
    run = replace(made_run, answers=tuple(doubtful))
    silent = section(parse_anew(render_insights(gather([run]), read_settings())), "glance").text
    for words in ("Among the three", "The busiest scene", "The largest share is lost", "miss"):
        assert words not in silent


def test_kano_names_classes_and_whether_they_are_sure(insight_pages: dict[str, str]) -> None:
    page = parse_page(insight_pages["en"])
    table = section(page, "wishes").all("figure")[0].first("table").rows()
    classes = {row[0]: row[3] for row in table[1:]}
    assert list(classes) == list(FEATURES)
    assert classes["free parking"] == "must-be: sure to be the largest class"
    assert classes["same-day delivery"] == "attractive: sure to be the largest class"
    assert "likely" in classes["late hours"]
    assert "Customers would miss free parking most." in section(page, "glance").text


def test_total_epsilon_is_that_of_the_runs(
    made_run: ReleasedAnswers, insight_pages: dict[str, str]
) -> None:
    other = replace(made_run, run="r-second", epsilon="0.5")
    page = parse_anew(render_insights(gather([made_run, other]), InsightsSettings()))
    assert section(page, "glance").all("dd")[0].text == "1.500"
    one = parse_page(insight_pages["en"])
    assert section(one, "glance").all("dd")[0].text == "1.000"
    assert "δ = 0.000001" in section(one, "asked").text


def test_the_page_loads_and_runs_nothing(insight_pages: dict[str, str]) -> None:
    for html in insight_pages.values():
        page = parse_page(html)
        policy = next(
            each.attributes["content"]
            for each in page.all("meta")
            if each.attributes.get("http-equiv") == "Content-Security-Policy"
        )
        (style,) = re.findall("<style>(.*?)</style>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy == (
            f"default-src 'none'; style-src 'sha256-{digest}'; font-src data:; "
            "base-uri 'none'; form-action 'none'"
        )
        for tag in ("script", "img", "link", "iframe", "object", "form"):
            assert not page.all(tag)
        assert not any("style" in each.attributes for each in page.walk())
        assert f'content="{GENERATOR}"' in html[:1024]


def test_hostile_labels_and_names_are_text_and_nothing_else(made_run: ReleasedAnswers) -> None:
    answers = []
    for each in made_run.answers:
        question = each.question
        if isinstance(question, Groups):
            question = replace(question, labels=(HOSTILE, *CATEGORIES[1:]))
        if isinstance(question, Kano):
            question = replace(question, features=(HOSTILE, *FEATURES[1:]))
        scope = HOSTILE if each.scope == "north" else each.scope
        answers.append(replace(each, question=question, scope=scope, epsilon=HOSTILE))
    regions = (HOSTILE, *list(REGIONS)[1:])
    run = replace(
        made_run,
        run=HOSTILE,
        federation=HOSTILE,
        regions=regions,
        answers=tuple(answers),
        mode=HOSTILE,
        unit=HOSTILE,
    )
    for lang in LANGUAGES:
        html = render_insights(gather([run]), InsightsSettings(), lang=lang)
        page = parse_anew(html)
        assert not page.all("script")
        assert not page.all("img")
        assert "\u202e" not in html
        assert "⟨U+202E⟩" in html
        assert "&lt;script&gt;" in html


def test_the_same_answers_give_the_same_bytes(
    made_run: ReleasedAnswers, insight_pages: dict[str, str]
) -> None:
    again = render_insights(gather([made_run]), read_settings())
    assert again == insight_pages["en"]
    dated = render_insights(gather([made_run]), read_settings(), made_at="2026-01-31T23:59:59.999Z")
    assert "2026-01-31" in dated
    assert "2026-01-31" not in again


@pytest.mark.parametrize("name", ["category-customers", "nps", "kano", "purchase-clusters"])
def test_a_run_of_one_question_makes_a_page_of_it(made_run: ReleasedAnswers, name: str) -> None:
    run = replace(made_run, answers=(made_run.of(name, GLOBAL),))
    page = parse_anew(render_insights(gather([run]), read_settings()))
    names = [each.attributes["aria-labelledby"] for each in page.all("section")]
    extra = 2 if name == "kano" else 1
    assert len(names) == 3 + extra
    assert names[0] == "glance"


@pytest.mark.parametrize("name", ["kano", "nps", "uplift-click"])
def test_intervals_that_are_of_no_use_are_not_shown(made_run: ReleasedAnswers, name: str) -> None:
    answer = made_run.of(name)
    # The same answer to a question of which only a far narrower interval is of use.
    strict = replace(answer, question=replace(answer.question, wanted=0.01))
    shown, silent = (
        parse_anew(render_insights(gather([replace(made_run, answers=(each,))]), read_settings()))
        for each in (answer, strict)
    )
    assert shown.all("circle")
    assert not silent.all("circle")
    assert "too small to say" in silent.text


def test_what_is_not_drawn_of_a_survey_has_no_number_in_a_table(made_run: ReleasedAnswers) -> None:
    answer = made_run.of("kano")
    strict = replace(answer, question=replace(answer.question, wanted=0.01))
    html = render_insights(gather([replace(made_run, answers=(strict,))]), InsightsSettings())
    tables = section(parse_anew(html), "wishes").all("table")
    cells = {cell for table in tables for row in table.rows()[1:] for cell in row[1:]}
    assert len(tables) == 2
    assert cells == {"too small to say"}


def test_answers_of_nothing_but_noise_show_nothing(made_run: ReleasedAnswers) -> None:
    drowned = [replace(each, noise_stddev=1e6, customers_at_least=1) for each in made_run.answers]
    html = render_insights(gather([replace(made_run, answers=tuple(drowned))]), read_settings())
    page = parse_anew(html)
    for name in ("preferences", "scenes", "funnels"):
        for figure in section(page, name).all("figure"):
            assert "silent" in figure.classes
    for name in ("satisfaction", "experiments"):
        for figure in section(page, name).all("figure"):
            assert "too small to say" in figure.text
            assert not figure.all("circle")
