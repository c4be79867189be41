"""Findings: of several runs the better answer, how many customers there are, what is shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.analytics.answers import GLOBAL, ReleasedAnswer, ReleasedAnswers
from common.analytics.cuts import Cuts
from common.analytics.groups import Groups
from common.analytics.outlook import COARSE
from common.analytics.shares import Shares
from common.errors import InputError
from server.insights.findings import Findings, Standing, gather
from tests.support.made_answers import REGIONS, STDDEV, made_answers, truth

GROUPS = Groups.counts("category-customers", tuple(f"c{n}" for n in range(60)), most=16)
RECENCY = Cuts("recency-cuts", tuple(float(n) for n in range(33)))
SCENES = Shares("purchase-scenes", (("am", "pm"), ("mon", "tue")))


@pytest.fixture(scope="module")
def run() -> ReleasedAnswers:
    return made_answers()


def only(answers: list[ReleasedAnswer], run: ReleasedAnswers) -> Findings:
    return gather([replace(run, answers=tuple(answers))])


def test_of_two_answers_the_one_with_less_noise_counts(run: ReleasedAnswers) -> None:
    better = made_answers(seed=2, stddev=3.0)
    both = gather([run, replace(better, run="r-other")])
    found = both.of("nps", GLOBAL)
    assert found is not None
    assert found.noise_stddev == pytest.approx(3.0 * len(REGIONS) ** 0.5)
    assert (both.epsilon, both.delta) == ("2", "0.000002")
    assert len(both.questions(Groups)) == 1


def test_runs_that_do_not_belong_together_are_refused(run: ReleasedAnswers) -> None:
    with pytest.raises(InputError, match="no run"):
        gather([])
    for other in (run, replace(run, run="r-2", federation="other.example")):
        with pytest.raises(InputError, match="one federation"):
            gather([run, other])
    with pytest.raises(InputError, match="no number"):
        gather([replace(run, epsilon="much")])
    with pytest.raises(InputError, match="units of privacy"):
        gather([run, replace(run, run="r-2", unit="one purchase")])


def test_a_page_is_about_one_window(run: ReleasedAnswers) -> None:
    later = ("2027-01-01T00:00:00.000Z", "2028-01-01T00:00:00.000Z")
    with pytest.raises(InputError, match="different windows"):
        gather([run, replace(run, run="r-2", window=later)])


def test_of_those_who_need_not_have_bought_no_shares_of_buyers_are_told(
    run: ReleasedAnswers,
) -> None:
    findings, bought = gather([run]), run.of("category-customers")
    question = bought.question
    assert isinstance(question, Groups)
    assert findings.group_shares(question, bought) is not None
    browsed = replace(question, name="browsed-categories")
    looked = replace(bought, question=browsed)
    assert only([looked, run.of("recency-cuts")], run).group_shares(browsed, looked) is None


def test_answers_of_one_run_cost_once_and_of_two_runs_twice(run: ReleasedAnswers) -> None:
    other = replace(made_answers(seed=2), run="r-other")
    both = gather([run, other])
    together, own = run.of("nps"), run.of("nps", "north")
    assert both.spent_on([together, own]) == "0.31"
    assert both.spent_on([together, other.of("nps", "north")]) == "0.62"


def test_how_many_customers_there_are_is_read_off_cuts_rather_than_shares(
    run: ReleasedAnswers,
) -> None:
    findings = gather([run])
    for region, customers in REGIONS.items():
        found = findings.customers(region)
        if region == "islands":
            # 400 customers are not well above noise of this size, or hardly.
            continue
        assert found is not None
        assert abs(found.value - customers) <= 5 * found.stddev
        assert found.at_least <= found.value
    shares_alone = only([run.of("purchase-scenes")], run).customers(GLOBAL)
    both = findings.customers(GLOBAL)
    assert shares_alone is not None
    assert both is not None
    # Those who buy at no part of the day are in the cuts, not in the shares.
    assert both.value != shares_alone.value
    assert abs(shares_alone.value - sum(REGIONS.values())) < 6_000


def test_without_them_nothing_is_told_of_customers(run: ReleasedAnswers) -> None:
    findings = only([run.of("category-customers")], run)
    assert findings.customers(GLOBAL) is None
    groups = run.of("category-customers").question
    assert isinstance(groups, Groups)
    assert findings.group_shares(groups, run.of("category-customers")) is None


def test_shares_of_customers_cover_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(5)
    customers, draws, inside = 6_000, 400, []
    sums = truth(GROUPS, customers, generator)
    cells = np.bincount(generator.integers(0, 32, customers), minlength=32).astype(float)
    total = np.zeros(RECENCY.size)
    for places in RECENCY.tree.places():
        np.add.at(total, places, cells * RECENCY.tree.scale)
    base = made_answers({"north": customers})
    for _ in range(draws):
        released = [
            ReleasedAnswer(
                question,
                GLOBAL,
                ("north",),
                STDDEV,
                values + generator.normal(0, STDDEV, len(values)),
                "1",
                4096,
            )
            for question, values in ((GROUPS, sums), (RECENCY, total))
        ]
        shares = only(released, base).group_shares(GROUPS, released[0])
        assert shares is not None
        inside.append(shares.covers(sums * GROUPS.bound / customers))
    # 24,000 intervals, of which 60 at a time share the noise of one number of customers.
    assert 0.94 <= np.mean(inside) <= 0.965


def test_an_uncertain_number_of_customers_widens_their_shares(run: ReleasedAnswers) -> None:
    groups = run.of("category-customers")
    question = groups.question
    assert isinstance(question, Groups)
    widths = []
    for stddev in (1.0, 300.0):
        cuts = replace(run.of("recency-cuts"), noise_stddev=stddev)
        shares = only([groups, cuts], run).group_shares(question, groups)
        assert shares is not None
        widths.append(float((shares.high - shares.low)[0]))
    assert widths[1] > 2 * widths[0]


def test_an_answer_is_shown_coarse_or_not_at_all_by_what_noise_does_to_it() -> None:
    question = Shares("s", (("a", "b"),), wanted=1.0)
    needed = question.outlook(1, STDDEV).customers_needed
    assert Standing.of(question.outlook(needed, STDDEV)) == Standing(True, False)
    assert Standing.of(question.outlook(round(needed / COARSE) + 1, STDDEV)) == Standing(True, True)
    silent = Standing.of(question.outlook(round(needed / COARSE) - 20, STDDEV))
    assert not silent.shown
    assert silent.needed == pytest.approx(needed / COARSE, rel=0.02)


def test_the_region_that_is_too_small_is_not_shown_and_all_others_are(
    run: ReleasedAnswers,
) -> None:
    findings = gather([run])
    answers = [each for each in findings.all_answers() if each.question.name == SCENES.name]
    shown = {each.scope: findings.standing(each).shown for each in answers}
    assert shown == {GLOBAL: True, "north": True, "south": True, "east": True, "islands": False}
