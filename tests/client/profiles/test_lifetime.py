"""The models of lifetime value, against the published figures of the CDNOW data."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.special import hyp2f1

from client.profiles.lifetime import BuyingModel, SpendingModel
from common.errors import InputError

ROOT = Path(__file__).parents[3]
CDNOW = ROOT / ".venv/datasets/lifetimes/datasets/cdnow_customers_summary_with_transactions.csv"
PAPER = BuyingModel(r=0.243, alpha=4.414, a=0.793, b=2.426)


@pytest.fixture(scope="module")
def cdnow() -> dict[str, np.ndarray]:
    with CDNOW.open() as file:
        rows = list(csv.DictReader(file))
    return {
        name: np.array([float(row[name]) for row in rows]) for name in ("x", "t_x", "T", "zbar")
    }


def one(*values: float) -> list[np.ndarray]:
    return [np.array([value]) for value in values]


def test_buying_has_the_papers_parameters_and_likelihood(cdnow: dict[str, np.ndarray]) -> None:
    # Fader, Hardie and Lee 2005, table 2: weeks 1 to 39 of 2,357 customers.
    model = BuyingModel.fit(cdnow["x"], cdnow["t_x"], cdnow["T"])
    assert (model.r, model.alpha, model.a, model.b) == pytest.approx(
        (0.243, 4.414, 0.793, 2.426), abs=6e-4
    )
    likelihood = model.log_likelihood(cdnow["x"], cdnow["t_x"], cdnow["T"]).sum()
    assert likelihood == pytest.approx(-9582.4, abs=0.05)


def test_what_is_expected_of_one_customer_is_what_the_paper_expects() -> None:
    # The same, section 5: two repeat purchases, the last in week 30.43 of 38.86; 39 weeks ahead.
    assert PAPER.expected(39.0, *one(2, 30.43, 38.86))[0] == pytest.approx(1.226, abs=1e-3)
    # Fader, Hardie and Lee 2008, p(alive) of the same customer.
    assert PAPER.alive(*one(2, 30.43, 38.86))[0] == pytest.approx(0.7266, abs=1e-4)


def test_spending_has_the_notes_parameters(cdnow: dict[str, np.ndarray]) -> None:
    # Fader and Hardie 2013, section 4: the 946 customers who bought again.
    again = cdnow["x"] > 0
    assert again.sum() == 946
    model = SpendingModel.fit(cdnow["x"][again], cdnow["zbar"][again])
    assert (model.p, model.q, model.gamma) == pytest.approx((6.25, 3.74, 15.44), rel=2e-3)
    assert model.expected(*one(2, 22.35))[0] == pytest.approx(24.66, abs=0.02)
    # Of whoever never paid anything, what everybody pays on average.
    assert model.expected(*one(0, 0.0))[0] == pytest.approx(35.17, abs=0.05)


def test_weights_stand_for_customers_who_are_alike(cdnow: dict[str, np.ndarray]) -> None:
    alike, counts = np.unique(
        np.column_stack([cdnow["x"], cdnow["t_x"], cdnow["T"]]), axis=0, return_counts=True
    )
    one_by_one = BuyingModel.fit(cdnow["x"], cdnow["t_x"], cdnow["T"])
    weighted = BuyingModel.fit(*alike.T, weights=counts.astype(float))
    assert vars(weighted) == pytest.approx(vars(one_by_one), rel=1e-3)


@pytest.mark.parametrize("scale", [1 / 7, 1.0, 7.0, 365.0])
def test_the_unit_of_time_changes_nothing_but_alpha(
    scale: float, cdnow: dict[str, np.ndarray]
) -> None:
    model = BuyingModel.fit(cdnow["x"], scale * cdnow["t_x"], scale * cdnow["T"])
    assert model.alpha == pytest.approx(4.414 * scale, rel=2e-3)
    assert model.a == pytest.approx(0.793, rel=5e-3)


def test_the_expectation_is_the_papers_series_where_that_can_be_summed() -> None:
    r, alpha, a, b = vars(PAPER).values()
    x, last, age, ahead = 5.0, 20.0, 30.0, 10.0
    series = hyp2f1(r + x, b + x, a + b + x - 1, ahead / (alpha + age + ahead))
    surviving = ((alpha + age) / (alpha + age + ahead)) ** (r + x) * series
    expected = (a + b + x - 1) / (a - 1) * (1 - surviving) * PAPER.alive(*one(x, last, age))[0]
    assert PAPER.expected(ahead, *one(x, last, age))[0] == pytest.approx(expected, rel=1e-9)


def test_whoever_buys_daily_for_years_overflows_nothing() -> None:
    found = PAPER.expected(52.0, *one(5_000, 300.0, 300.5))
    assert np.isfinite(found).all()
    assert found[0] > 0
    assert PAPER.alive(*one(5_000, 1.0, 300.0))[0] == pytest.approx(0.0, abs=1e-12)


def test_a_customer_who_stays_away_is_less_likely_to_return() -> None:
    ages = np.linspace(31, 300, 40)
    alive = PAPER.alive(np.full(40, 6.0), np.full(40, 30.0), ages)
    assert (np.diff(alive) < 0).all()
    # Whoever never bought again cannot have left, in this model.
    assert PAPER.alive(*one(0, 0, 100.0))[0] == 1.0


@pytest.mark.parametrize(
    ("repeats", "last", "age"),
    [
        ([0.0] * 60, [0.0] * 60, [10.0] * 60),  # nobody bought again
        ([1.0] * 10, [3.0] * 10, [10.0] * 10),  # too few
        ([1.0] * 60, [11.0] * 60, [10.0] * 60),  # bought in the future
        ([1.0] * 60, [float("nan")] * 60, [10.0] * 60),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    repeats: list[float], last: list[float], age: list[float]
) -> None:
    with pytest.raises(InputError, match="lifetime value"):
        BuyingModel.fit(np.array(repeats), np.array(last), np.array(age))


def test_without_a_mean_of_all_her_own_is_all_that_is_known() -> None:
    heavy = SpendingModel(p=2.0, q=0.9, gamma=10.0)
    assert heavy.expected(*one(3, 12.0))[0] == 12.0
    assert np.isnan(heavy.expected(*one(0, 0.0))[0])
