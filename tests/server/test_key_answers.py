"""Regions' keys at the coordinator: kept one by one, in no sum, in files of a known size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common import canonical_json
from common.analytics.key_arrays import packed_keys
from common.analytics.key_questions import SEARCH_TERMS, search_terms
from common.analytics.purchase_questions import REPEATS
from common.errors import FormatError, InputError
from common.parameters import array_file_parts
from server.answers import (
    answer_arrays,
    answers_file,
    customers_kept,
    facts_bytes_at_most,
    head_bytes_at_most,
)
from server.audit_trail import Aggregate, UsedRound
from server.key_answers import KeptKeys
from server.parameter_step import model_after
from server.reply_checks import ReplyRefusedError
from server.rounds import aggregator_of
from server.validation import ReplyValidator
from tests.support.asked_federation import asked_plan

PLAN = asked_plan((SEARCH_TERMS, REPEATS))
TERMS = PLAN.mechanism_of(1)


def keys(**values: float) -> dict[str, Any]:
    return packed_keys(search_terms(), [*values], np.array([*values.values()], dtype=np.float32))


def kept() -> KeptKeys:
    made = aggregator_of(PLAN, TERMS)
    assert isinstance(made, KeptKeys)
    return made


def test_each_regions_keys_are_kept_and_the_sums_stay_as_they_are() -> None:
    whole, given = kept(), keys(milk=40.0)
    whole.add("region-2", given)
    whole.add("region-1", keys(tea=30.0))
    total = whole.total()
    assert total.n_regions == 2
    assert model_after(1, {}, total, PLAN, {}) == ({}, {})
    assert set(whole.kept) == {
        f"region-{n}/{name}" for n in (1, 2) for name in ("search_terms", "search_terms_keys")
    }
    np.testing.assert_array_equal(whole.kept["region-2/search_terms"], given["search_terms"])
    given["search_terms"][:] = 0
    assert whole.kept["region-2/search_terms"].any()


def test_what_is_not_the_plans_is_not_kept() -> None:
    whole = kept()
    with pytest.raises(InputError, match="no release"):
        whole.total()
    whole.add("region-1", keys())
    with pytest.raises(InputError, match="taken already"):
        whole.add("region-1", keys())
    for wrong in (
        {"search_terms": np.zeros(256, np.float32)},
        keys() | {"search_terms": np.zeros(255, np.float32)},
        keys() | {"raw": np.zeros(2, np.float32)},
    ):
        with pytest.raises(FormatError, match="other arrays"):
            whole.add("region-2", wrong)


def test_what_is_published_says_the_noise_of_each_regions_values_and_fits_its_files() -> None:
    regions = [*PLAN.regions]
    whole, state = kept(), {}
    for region in regions:
        whole.add(region, keys(milk=40.0))
    sums = {"repeat_purchases": np.zeros(4)}
    for name in (SEARCH_TERMS, REPEATS):
        state |= customers_kept(name, dict.fromkeys(regions, "16-31"))
    state |= whole.kept | {f"{each}/repeat_purchases": np.zeros(4) for each in regions}
    aggregates = {
        number: Aggregate(
            number,
            1,
            PLAN.mechanism_of(number).name,
            tuple(UsedRound(region, "e" * 64, "d" * 64) for region in regions),
            (),
            "a" * 64,
            "b" * 64,
            "start",
            "end",
        )
        for number in (1, 2)
    }
    arrays = answer_arrays(sums, state)
    assert {name for name in arrays if "/" not in name} == {"repeat_purchases"}
    data = answers_file(PLAN, aggregates, arrays, state)
    facts: Any = canonical_json.decode(data)
    stated = [
        (each["question"]["name"], each["scope"], each["noise_stddev"]) for each in facts["answers"]
    ]
    own = {noise for name, _, noise in stated if name == SEARCH_TERMS}
    assert len(own) == 1
    assert len({noise for name, _, noise in stated if name == REPEATS}) == 2
    assert len(data) <= facts_bytes_at_most(PLAN)
    assert len(array_file_parts({**arrays, **state})[1]) <= head_bytes_at_most(PLAN)


# -- what a region may reply -----------------------------------------------------------------------

LEAST = search_terms().least_released(TERMS.noise_stddev, TERMS.grid_exponent)
NO_REGISTRY: Any = None
DP = {
    "noise_multiplier": TERMS.noise_multiplier,
    "clipping_norm": "1",
    "sampling_probability": "1",
    "mode": "local",
    "honest_survivors_min": 0,
    "key_delta": "0.00000001",
}


def judged(arrays: dict[str, Any]) -> str | None:
    """Why the coordinator does not take a region's values; None if it does."""
    try:
        ReplyValidator(PLAN, NO_REGISTRY)._check_values(arrays, TERMS)
    except ReplyRefusedError as error:
        return error.reason
    return None


def test_only_keys_that_may_have_passed_are_taken_in() -> None:
    assert judged(keys()) is None
    assert judged(keys(milk=40.0, tea=LEAST)) is None
    assert judged(keys(tea=LEAST - 2.0**-10)) == "wrong-arrays"
    assert judged(keys(milk=1e6)) == "norm-too-large"
    assert judged(keys(milk=40.0001)) == "off-grid"
    assert judged(keys(milk=float("inf"))) == "not-finite"
    noise = np.random.default_rng(1).integers(-9, 9, (256, 16)).astype("<i4")
    assert judged(keys(milk=40.0) | {"search_terms_keys": noise}) == "wrong-arrays"


@pytest.mark.parametrize("stated", [None, "0.0000001", "0"])
def test_a_round_that_states_another_delta_for_keys_is_refused(stated: str | None) -> None:
    validator = ReplyValidator(PLAN, NO_REGISTRY)
    validator._check_noise(DP, TERMS)
    with pytest.raises(ReplyRefusedError, match="another noise"):
        validator._check_noise({**DP, "key_delta": stated}, TERMS)
    bare = {name: value for name, value in DP.items() if name != "key_delta"}
    with pytest.raises(ReplyRefusedError, match="another noise"):
        validator._check_noise(bare, TERMS)
    # Nor may one that releases no keys state one.
    other = {**DP, "noise_multiplier": PLAN.mechanism_of(2).noise_multiplier}
    validator._check_noise({**other, "key_delta": None} | bare, PLAN.mechanism_of(2))
    with pytest.raises(ReplyRefusedError, match="another noise"):
        validator._check_noise(other, PLAN.mechanism_of(2))
