"""Kano: the table of pairs, the coefficients, and which class is called sure."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from common.analytics.kano import ANSWERS, CLASSES, TABLE, Kano
from common.analytics.lines import TOO_SMALL, lines_of
from common.errors import InputError

STDDEV = 10.0
FEATURES = ("delivery", "receipts", "parking")
KANO = Kano("kano", FEATURES, most=3)
# One row a feature: attractive, performance, must-be, indifferent, reverse, questionable.
COUNTS = np.array(
    [[900.0, 300, 100, 300, 20, 5], [80.0, 120, 1100, 200, 10, 5], [400.0, 390, 60, 410, 300, 5]]
)
RELEASED = COUNTS.ravel() / KANO.bound


def test_the_table_is_the_published_one() -> None:
    # Berger and others (1993), figure 2.3: A, O, M, I, R, Q by functional row and its columns.
    published = ("QAAAO", "RIIIM", "RIIIM", "RIIIM", "RRRRQ")
    letters = dict(zip("AOMIRQ", CLASSES, strict=True))
    for (row, line), column in product(enumerate(published), range(len(ANSWERS))):
        assert CLASSES[TABLE[row, column]] == letters[line[column]]
    assert not TABLE.flags.writeable


def test_coefficients_are_shares_of_those_who_want_it_or_do_not_mind() -> None:
    counted = COUNTS[:, :4].sum(axis=1)
    for found, classes in (
        (KANO.better(RELEASED, STDDEV), [0, 1]),
        (KANO.worse(RELEASED, STDDEV), [1, 2]),
        (KANO.matters(RELEASED, STDDEV), [0, 1, 2]),
    ):
        np.testing.assert_allclose(found.value, COUNTS[:, classes].sum(axis=1) / counted)
        assert ((found.low < found.value) & (found.value < found.high)).all()
    np.testing.assert_allclose(KANO.read(RELEASED, STDDEV).value, COUNTS.ravel())
    np.testing.assert_allclose(KANO.answered(RELEASED, STDDEV).value, COUNTS.sum(axis=1))


def test_a_class_is_sure_only_if_noise_does_not_explain_its_lead() -> None:
    found = KANO.classified(RELEASED, STDDEV)
    assert [CLASSES[each] for each in found.likely] == ["attractive", "must-be", "indifferent"]
    assert found.sure.tolist() == [True, True, False]


@pytest.mark.parametrize("lead", [0.0, 1.0, 2.5])
def test_of_all_that_is_called_sure_hardly_anything_is_wrong(lead: float) -> None:
    # The largest class is ahead of two others by so many deviations; all others are near it, too.
    truth = np.array([lead, 0.0, 0.0, -0.5, -1.0, -4.0]) * STDDEV + 100
    released = np.tile(truth, len(FEATURES))
    generator, wrong = np.random.default_rng(11), 0
    for _ in range(2_000):
        found = KANO.classified(released + generator.normal(0, STDDEV, KANO.size), STDDEV)
        wrong += int((found.sure & (found.likely != 0)).any())
    # Where three are equal, one of those counts as wrong here: the bound holds all the same.
    assert wrong / 2_000 <= 0.05


def test_with_the_deviation_of_one_count_alone_too_much_would_be_called_sure() -> None:
    generator, wrong = np.random.default_rng(12), 0
    for _ in range(500):
        values = generator.normal(0, STDDEV, (len(FEATURES), len(CLASSES)))
        first, second = np.sort(values, axis=1)[:, [-1, -2]].T
        wrong += int((first - second > 1.96 * STDDEV * 0.5).any())
    assert wrong / 500 > 0.3


def test_lines_name_the_class_and_say_nothing_of_a_feature_nobody_answered() -> None:
    counts = COUNTS.copy()
    counts[2] = 0
    lines = {each.label: each for each in lines_of(KANO, counts.ravel() / KANO.bound, STDDEV)}
    assert lines["delivery: pleased with it"].note == "attractive: sure to be the largest class"
    assert lines["receipts: displeased without"].value == pytest.approx(100 * 1220 / 1500)
    silent = lines["parking: pleased with it"]
    assert (silent.value, silent.note) == (None, TOO_SMALL)


def test_the_outlook_is_the_reach_of_a_coefficient_of_a_half() -> None:
    question = Kano("kano", FEATURES, most=3, answering_share=0.25)
    counts = np.tile([256.0, 256, 256, 256, 0, 0], 3)
    found = question.better(counts / question.bound, 2.0)
    reach = 100 * float((found.high - found.low)[0]) / 2
    assert question.outlook(4096, 2.0).half_width == pytest.approx(reach, rel=0.01)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"features": ()}, "no features"),
        ({"features": ("a", "a")}, "two of one name"),
        ({"most": 0}, "bound"),
        ({"answering_share": 0.0}, "bound"),
        ({"answering_share": 1.5}, "bound"),
    ],
)
def test_what_is_no_survey_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Kano(**{"name": "kano", "features": FEATURES, "most": 2, **fields})


def test_classes_are_told_of_one_answer_at_a_time() -> None:
    with pytest.raises(InputError, match="one answer at a time"):
        KANO.classified(np.zeros((2, KANO.size)), STDDEV)
    with pytest.raises(InputError, match="shape"):
        KANO.classified(np.zeros(3), STDDEV)
