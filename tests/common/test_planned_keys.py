"""Plans that ask for keys: their δ, where they may be asked, and what else they hold to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant

from common.analytics.asked import Asking
from common.analytics.key_arrays import packed_keys
from common.analytics.key_questions import KEY_DELTA, SEARCH_TERMS
from common.analytics.key_union import KeyUnion
from common.analytics.purchase_questions import REPEATS
from common.errors import FormatError, InputError
from common.plan import RunPlan, epsilon_bound
from common.planned_keys import check_release, keys_of, stated_delta
from common.questions_plan import QuestionsFile, QuestionTable, outlooks
from common.release_bounds import release_norm_bound, release_value_bound
from tests.support.asked_federation import CATALOGUE, WINDOW_MS, asked_plan
from tests.support.local_plan import local_plan

PLAN = asked_plan((SEARCH_TERMS, REPEATS))
TERMS = PLAN.mechanism_of(1)


def altered(**changes: Any) -> RunPlan:
    record: Any = PLAN.to_record()
    for name, value in changes.items():
        record["mechanisms"][0][name] = value
    return RunPlan.from_record(record)


def test_the_run_is_private_at_its_delta_with_the_keys_part_taken_off() -> None:
    """By another accountant, at what is left of δ; and the plan's ε is nearly used up."""
    accountant = PLDAccountant()
    for each in PLAN.mechanisms:
        accountant.compose(GaussianDpEvent(float(each.noise_multiplier)))
    left = float(PLAN.delta) - float(KEY_DELTA)
    spent = epsilon_bound(PLAN.privacy_events(), float(PLAN.delta))
    assert spent == pytest.approx(accountant.get_epsilon(left), rel=1e-3)
    assert 7.99 <= spent <= 8.0
    without = asked_plan((REPEATS,)).mechanism_of(1)
    # Half of the budget each, and a hair more noise for what keys take of δ.
    assert float(TERMS.noise_multiplier) > float(without.noise_multiplier) * 2**0.5


def test_a_plan_states_the_delta_of_keys_and_no_other_question_has_one() -> None:
    assert TERMS.stated_key_delta == {"key_delta": KEY_DELTA}
    assert TERMS.event.key_delta == 1e-8
    assert PLAN.mechanism_of(2).stated_key_delta == {}
    record: Any = PLAN.to_record()
    assert "key_delta" not in record["mechanisms"][1]
    assert RunPlan.from_record(record).digest == PLAN.digest


@pytest.mark.parametrize("key_delta", ["0", "0.2", "1e-13", "-0.1", "nan", "0.00000002"])
def test_another_delta_than_the_questions_is_none(key_delta: str) -> None:
    with pytest.raises(FormatError, match=r"key_delta|δ for keys"):
        altered(key_delta=key_delta)


def test_a_delta_for_keys_where_none_are_asked_for_is_refused() -> None:
    record: Any = PLAN.to_record()
    record["mechanisms"][1]["key_delta"] = KEY_DELTA
    with pytest.raises(FormatError, match="asks for no keys"):
        RunPlan.from_record(record)
    del record["mechanisms"][1]["key_delta"]
    del record["mechanisms"][0]["key_delta"]
    with pytest.raises(FormatError, match="is not its question's"):
        RunPlan.from_record(record)
    training: Any = local_plan().to_record()
    training["mechanisms"][0]["key_delta"] = KEY_DELTA
    with pytest.raises(FormatError, match="training releases no keys"):
        RunPlan.from_record(training)


def test_less_noise_than_the_rest_of_delta_takes_is_refused() -> None:
    """ε at the whole of δ would still be within the plan's: the keys' part makes it too much."""
    record: Any = PLAN.to_record()
    record["mechanisms"][0]["key_delta"] = "0.0000009"
    record["questions"][0]["question"]["key_delta"] = "9e-07"
    record["questions"][0]["parameters"]["key_delta"] = "9e-07"
    with pytest.raises(FormatError, match="the mechanisms spend ε"):
        RunPlan.from_record(record)
    record["mechanisms"][0]["key_delta"] = "0.000001"
    record["questions"][0]["question"]["key_delta"] = "1e-06"
    record["questions"][0]["parameters"]["key_delta"] = "1e-06"
    with pytest.raises(FormatError, match="the mechanisms spend ε = inf"):
        RunPlan.from_record(record)


def test_keys_are_asked_of_each_region_by_itself() -> None:
    record: Any = PLAN.to_record()
    record["questions"][0]["scope"] = "global"
    with pytest.raises(FormatError, match="its scope is regions"):
        RunPlan.from_record(record)
    record = PLAN.to_record()
    record["aggregation"]["rule"], record["quorum"] = "secure-sum", 3
    with pytest.raises(FormatError, match="goes with the rule sum only"):
        RunPlan.from_record(record)


def test_who_declares_questions_is_told_why_keys_go_with_no_secure_sum() -> None:
    with pytest.raises(InputError, match="decided by noise in one place"):
        QuestionsFile.of([SEARCH_TERMS], scope="regions", aggregation="secure-sum")
    with pytest.raises(InputError, match='state scope = "regions"'):
        QuestionsFile.of([SEARCH_TERMS])
    with pytest.raises(ValueError, match="asks for no keys"):
        QuestionTable(name=REPEATS, key_delta="0.0000001")


def test_the_declared_delta_is_the_plans_and_must_leave_something() -> None:
    table = QuestionTable(name=SEARCH_TERMS, scope="regions", key_delta="0.0000005")
    file = QuestionsFile(question=(table,))
    assert file.delta_of_noise("0.000001") == "0.0000005"
    assert table.put_into(Asking(tuple(CATALOGUE.category_names), *WINDOW_MS)).key_delta == (
        "0.0000005"
    )
    for delta in ("0.0000005", "0.0000001", "none"):
        with pytest.raises(InputError, match="leaves nothing beside"):
            file.delta_of_noise(delta)


def test_noise_that_no_threshold_is_found_for_is_refused() -> None:
    with pytest.raises(FormatError, match="threshold of"):
        altered(noise_multiplier="100000")


def test_what_leaves_and_what_rounds_hand_on() -> None:
    specs = PLAN.released_arrays(SEARCH_TERMS)
    assert [(each.name, each.dtype, each.shape) for each in specs] == [
        ("search_terms", "<f4", (256,)),
        ("search_terms_keys", "<i4", (256, 16)),
    ]
    assert PLAN.model_arrays(2) == ()
    assert [each.name for each in PLAN.model_arrays(3)] == ["repeat_purchases"]


def test_a_name_that_is_another_questions_array_is_refused() -> None:
    record: Any = asked_plan((SEARCH_TERMS, REPEATS)).to_record()
    record["questions"][1]["question"]["name"] = "search-terms-keys"
    record["mechanisms"][1]["name"] = "search-terms-keys"
    with pytest.raises(FormatError, match="the same twice"):
        RunPlan.from_record(record)


def test_the_bound_on_values_is_one_on_each_of_those_that_noise_has_chosen() -> None:
    noise = TERMS.noise_stddev
    assert release_norm_bound(PLAN, TERMS) >= 600 + 12 * noise * 256**0.5
    assert release_value_bound(PLAN, TERMS) >= 600 + 12 * noise
    assert release_norm_bound(PLAN, TERMS) <= 700 + 12.1 * noise * 256**0.5


def test_a_release_is_checked_as_what_it_is() -> None:
    question = keys_of(PLAN, TERMS)
    assert isinstance(question, KeyUnion)
    assert keys_of(PLAN, PLAN.mechanism_of(2)) is None
    assert keys_of(local_plan(), local_plan().mechanism_of(1)) is None
    least = question.least_released(TERMS.noise_stddev, TERMS.grid_exponent)
    for value, passes in ((least, True), (least - 2.0**-10, False)):
        arrays = packed_keys(question, ["milk"], np.array([value], dtype=np.float32))
        if passes:
            check_release(arrays, PLAN, TERMS)
        else:
            with pytest.raises(FormatError, match="below the threshold"):
                check_release(arrays, PLAN, TERMS)
    with pytest.raises(FormatError, match="without noise"):
        check_release(
            {"repeat_purchases": np.zeros(4, dtype=np.float32)}, PLAN, PLAN.mechanism_of(2)
        )


def test_what_noise_would_do_is_told_by_region() -> None:
    terms, _ = outlooks(PLAN)
    assert (terms.name, terms.unit, terms.customers) == (SEARCH_TERMS, "of the customers", 20)
    assert terms.swamped


def test_what_of_delta_is_for_keys_is_said_where_a_plan_is_shown() -> None:
    assert stated_delta(PLAN) == "0.000001 (0.00000001 of it for keys)"
    assert stated_delta(asked_plan((REPEATS,))) == "0.000001"
