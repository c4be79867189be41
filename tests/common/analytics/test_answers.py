"""Reading what a run of questions published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import canonical_json
from common.analytics.answers import (
    ARRAYS_NAME,
    FACTS_NAME,
    ReleasedAnswers,
    answers_bytes,
    region_array,
)
from common.errors import FormatError, InputError, VerificationError
from common.parameters import arrays_digest, save_arrays
from server.answers import answer_arrays, answers_file
from server.audit_trail import Aggregate, UsedRound
from tests.support.asked_federation import asked_plan

PLAN = asked_plan(("repeat-purchases",))
SUM = np.array([30.0, 20.0, 10.0, 5.5])
OWN = {
    "region-1": np.array([10.0, 12.0, 4.0, 5.0], dtype=np.float32),
    "region-3": np.array([20.0, 8.0, 6.0, 0.5], dtype=np.float32),
}


def kept() -> dict[str, np.ndarray]:
    own: dict[str, np.ndarray] = {
        region_array(region, "repeat-purchases"): values for region, values in OWN.items()
    }
    return {**own, "#customers/repeat_purchases": np.array([16, 8])}


def write(folder: Path) -> Path:
    used = tuple(UsedRound(region, "e" * 64, "d" * 64) for region in sorted(OWN))
    aggregate = Aggregate(1, 1, "repeat-purchases", used, (), "a" * 64, "b" * 64, "s", "e")
    arrays = answer_arrays({"repeat_purchases": SUM}, kept())
    (folder / ARRAYS_NAME).write_bytes(save_arrays(arrays))
    (folder / FACTS_NAME).write_bytes(answers_file(PLAN, {1: aggregate}, arrays, kept()))
    return folder


def test_answers_are_read_with_their_question_noise_and_customers(tmp_path: Path) -> None:
    found = ReleasedAnswers.load(write(tmp_path))
    assert (found.run, found.epsilon, found.delta) == ("run-1", "8", "0.000001")
    assert found.unit == "one customer; add-or-remove-one-customer"
    assert [each.scope for each in found.answers] == ["global", "region-1", "region-3"]
    whole, first, _ = found.answers
    sigma = PLAN.mechanisms[0].noise_stddev
    assert whole.noise_stddev == pytest.approx(np.sqrt(2) * sigma, rel=1e-6)
    assert first.noise_stddev == pytest.approx(sigma, rel=1e-6)
    assert whole.customers_at_least == 24
    assert first.customers_at_least == 16
    assert float(whole.epsilon) == pytest.approx(8, rel=1e-4)
    np.testing.assert_array_equal(whole.released, SUM)
    np.testing.assert_array_equal(
        found.of("repeat-purchases", "region-1").released, OWN["region-1"]
    )
    # What it says is what the question says of such values and such noise.
    assert len(whole.lines()) == 7
    assert whole.question.size == 4


def test_what_was_not_answered_is_not_there(tmp_path: Path) -> None:
    found = ReleasedAnswers.load(write(tmp_path))
    for name, scope in (("nps", "global"), ("repeat-purchases", "region-2")):
        with pytest.raises(InputError, match="no answer to"):
            found.of(name, scope)


@pytest.mark.parametrize("name", [ARRAYS_NAME, FACTS_NAME])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    (write(tmp_path) / name).unlink()
    with pytest.raises(InputError, match=name):
        ReleasedAnswers.load(tmp_path)


def test_other_values_than_the_facts_are_about_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    other = answer_arrays({"repeat_purchases": SUM + 1}, kept())
    (tmp_path / ARRAYS_NAME).write_bytes(save_arrays(other))
    with pytest.raises(VerificationError, match="not the file"):
        ReleasedAnswers.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"v": "fedpref-answers-file/2"},
        {"window": []},
        {"answers": [7]},
        {"answers": [{}]},
        {"regions": None},
    ],
    ids=str,
)
def test_malformed_facts_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path)
    record = canonical_json.decode((tmp_path / FACTS_NAME).read_bytes())
    assert isinstance(record, dict)
    (tmp_path / FACTS_NAME).write_bytes(answers_bytes(record | change))
    with pytest.raises(FormatError, match="malformed"):
        ReleasedAnswers.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"noise_stddev": "0"}, {"noise_stddev": "NaN"}, {"customers_at_least": 0}, {"scope": "x"}],
    ids=str,
)
def test_an_answer_without_noise_or_customers_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path)
    record = canonical_json.decode((tmp_path / FACTS_NAME).read_bytes())
    assert isinstance(record, dict)
    answers: Any = record["answers"]
    answers[0] |= change
    assert record["arrays"] == arrays_digest(answer_arrays({"repeat_purchases": SUM}, kept()))
    (tmp_path / FACTS_NAME).write_bytes(answers_bytes(record))
    with pytest.raises(FormatError, match="malformed"):
        ReleasedAnswers.load(tmp_path)
