"""What an experiment's arms brought: who is counted, what is counted, and how sure it is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from scipy.stats import ttest_ind

from client.data.transactions import _CONSENT_SEAL, ConsentedTransactions, Purchases
from client.recommend.experiment import Assignment
from client.recommend.exposure import Exposure
from client.recommend.settings import ExperimentSettings
from client.recommend.uplift import MS_PER_DAY, ArmResult, ExperimentResult, measure_uplift
from common.catalogue import Catalogue
from common.errors import InputError

CATALOGUE = Catalogue.of([f"i{number}" for number in range(5)])
EXPERIMENT = ExperimentSettings.model_validate(
    {"name": "trial", "arms": [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5}]}
)
ASSIGNMENT = Assignment(EXPERIMENT, bytes(32))
START = 1_700_000_000_000
UNTIL = START + 100 * MS_PER_DAY


def sid(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def shown(name: str, arm: str, days: float, *items: str) -> Exposure:
    at_ms = START + round(days * MS_PER_DAY)
    return Exposure("trial", ASSIGNMENT.pseudonym(sid(name)), arm, at_ms, items)


def bought(*rows: tuple[str, int, float]) -> ConsentedTransactions:
    names = sorted({name for name, _, _ in rows})

    def parts() -> Iterator[Purchases]:
        yield Purchases(
            tuple(sid(name) for name in names),
            np.array([names.index(name) for name, _, _ in rows], dtype=np.int32),
            np.array([item for _, item, _ in rows], dtype=np.int32),
            np.array([START + round(days * MS_PER_DAY) for _, _, days in rows], dtype=np.int64),
        )

    return ConsentedTransactions(parts, CATALOGUE.digest, 1, seal=_CONSENT_SEAL)


def measure(
    exposures: Sequence[Exposure], consented: ConsentedTransactions, days: int = 7
) -> ExperimentResult:
    return measure_uplift(ASSIGNMENT, exposures, consented, CATALOGUE, days=days, until_ms=UNTIL)


def means(arm: ArmResult) -> dict[str, float]:
    return {name: each.mean for name, each in arm.measures.items()}


def test_purchases_count_from_the_first_exposure_for_the_same_days() -> None:
    found = measure(
        [shown("x", "a", 1, "i0"), shown("x", "a", 3, "i1"), shown("y", "a", 2, "i2")],
        bought(
            ("x", 0, 0.9),  # before she was shown anything
            ("x", 0, 1.5),
            ("x", 1, 2.0),  # before that item was shown to her
            ("x", 1, 3.5),
            ("x", 4, 7.9),
            ("x", 4, 8.0),  # her days are over
            ("z", 0, 5.0),  # never shown anything
        ),
    )
    first, second = found.arms
    assert (first.customers, second.customers) == (2, 0)
    assert means(first) == {"purchases": 2.0, "buyers": 0.5, "purchases_of_shown": 1.0}


def test_whoever_is_still_followed_is_left_out() -> None:
    found = measure([shown("x", "a", 94, "i0"), shown("y", "b", 2)], bought(("x", 0, 95.0)))
    assert found.still_followed == 1
    assert [arm.customers for arm in found.arms] == [0, 1]


def test_the_interval_is_welchs() -> None:
    generator = np.random.default_rng(3)
    counts = {"a": generator.poisson(2.0, 60), "b": generator.poisson(3.0, 40)}
    exposures, rows = [], []
    for arm, values in counts.items():
        for number, value in enumerate(values.tolist()):
            exposures.append(shown(f"{arm}{number}", arm, 1))
            rows += [(f"{arm}{number}", 0, 2.0)] * value
    found = measure(exposures, bought(*rows))
    treated = found.arms[1].measures["purchases"]
    expected = ttest_ind(counts["b"], counts["a"], equal_var=False).confidence_interval(0.95)
    assert treated.difference == pytest.approx(counts["b"].mean() - counts["a"].mean())
    assert (treated.low, treated.high) == pytest.approx((expected.low, expected.high))
    control = found.arms[0].measures["purchases"]
    assert (control.difference, control.low, control.high) == (0.0, 0.0, 0.0)
    assert treated.is_clear
    assert not control.is_clear


def test_an_arm_of_one_customer_has_no_interval() -> None:
    found = measure([shown("x", "a", 1), shown("y", "b", 1)], bought(("y", 0, 2.0)))
    treated = found.arms[1].measures["buyers"]
    assert (treated.mean, treated.low, treated.high) == (1.0, -math.inf, math.inf)
    assert not treated.is_clear
    assert found.to_record()["believable"] is True


def test_sizes_that_do_not_fit_their_shares_are_not_believed() -> None:
    lopsided = [shown(f"x{number}", "a", 1) for number in range(90)]
    lopsided += [shown(f"y{number}", "b", 1) for number in range(30)]
    found = measure(lopsided, bought(("x0", 0, 2.0)))
    assert found.mismatch_p < 0.001
    assert not found.believable
    even = lopsided[:30] + lopsided[-30:]
    assert measure(even, bought(("x0", 0, 2.0))).believable


def test_an_arm_that_is_no_more_is_none_of_the_comparison() -> None:
    found = measure([shown("x", "gone", 1), shown("y", "b", 1)], bought(("x", 0, 2.0)))
    assert [arm.customers for arm in found.arms] == [0, 1]
    with pytest.raises(InputError, match="a day at least"):
        measure([], bought(("x", 0, 1.0)), days=0)


def test_nobody_at_all_is_no_error() -> None:
    found = measure([], bought(("x", 0, 1.0)))
    assert found.mismatch_p == 1.0
    assert means(found.arms[0]) == {"purchases": 0.0, "buyers": 0.0, "purchases_of_shown": 0.0}
