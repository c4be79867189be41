"""Runs that asked for keys: what the verifier holds them to, and every lie that it finds."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant

from common import canonical_json
from common.analytics.answers import ARRAYS_NAME, FACTS_NAME, ReleasedAnswers
from common.analytics.key_arrays import packed_keys
from common.analytics.key_questions import SEARCH_TERMS, search_terms
from common.audit.verify import verify_bundle
from common.audit.verify.arrays_file import FileArray
from common.audit.verify.epsilon import composed_epsilon, mechanism_in
from common.audit.verify.key_answers import check_key_questions, problem_of_keys
from common.errors import FormatError, VerificationError
from common.parameters import arrays_digest, load_arrays, save_arrays
from simulations.attacks.forgery import Forgery
from simulations.run_folder import RunFolder
from tests.support.keyed_federation import keyed_plan

R1 = "region-1"
PLAN = keyed_plan()
MECHANISM: Any = PLAN.mechanism_of(1).model_dump(mode="json", exclude_unset=True)
QUESTION: Any = PLAN.to_record()["questions"][0]  # type: ignore[index]
LEAST = search_terms().least_released(PLAN.mechanism_of(1).noise_stddev, -10)
Arrays = dict[str, Any]


@pytest.fixture
def forgery(keyed_run: Path) -> Forgery:
    return Forgery(RunFolder(keyed_run), R1)


def forged(forgery: Forgery, folder: Path) -> set[str]:
    return {failure.code for failure in verify_bundle(forgery.write(folder)).failures}


def arrays_of(forgery: Forgery) -> Arrays:
    loaded = load_arrays(forgery.artifacts[ARRAYS_NAME], 1 << 20)
    return {name: np.array(each) for name, each in loaded.items()}


def publish(forgery: Forgery, arrays: Arrays) -> None:
    """Puts other answers in the place of the run's, logged and stated as if they were."""
    digest, facts = arrays_digest(arrays), canonical_json.decode(forgery.artifacts[FACTS_NAME])
    assert isinstance(facts, dict)
    forgery.artifacts[ARRAYS_NAME] = save_arrays(arrays)
    forgery.artifacts[FACTS_NAME] = canonical_json.encode(
        {**facts, "arrays": digest}, max_bytes=1 << 20
    )
    (index,) = forgery.find("server", "answers")
    forgery.change("server", index, lambda record: record.update(answers=digest))


def test_a_finished_run_verifies_and_its_union_follows_from_the_regions(keyed_run: Path) -> None:
    verdict = verify_bundle(keyed_run)
    assert verdict.verified, verdict.first_failure
    found = ReleasedAnswers.load(keyed_run)
    whole = found.of(SEARCH_TERMS)
    assert whole.keys is not None
    assert whole.keys.keys == ("bread", "milk", "黑麦 面包")
    assert whole.keys.releasing == [2, 3, 1]
    lines = {line.label: line for line in whole.lines()}
    assert lines["milk"].value == pytest.approx(60, abs=6)
    assert lines["bread"].high is None
    # Nobody's own words, whatever the region; and no array but the regions' own.
    for scope in PLAN.regions:
        table = found.of(SEARCH_TERMS, scope).keys
        assert table is not None
        assert not any("customer" in key for key in table.keys)
    assert (
        not {"search_terms", "search_terms_keys"}
        & arrays_of(Forgery(RunFolder(keyed_run), R1)).keys()
    )


# -- what could be written by those who have keys --------------------------------------------------


def test_other_keys_than_a_region_released_show(forgery: Forgery, tmp_path: Path) -> None:
    arrays = arrays_of(forgery)
    arrays["region-2/search_terms"][0] += 8
    publish(forgery, arrays)
    assert "answer-of-region" in forged(forgery, tmp_path / "values")
    arrays["region-2/search_terms"][0] -= 8
    arrays["region-2/search_terms_keys"][0] = arrays["region-2/search_terms_keys"][1]
    publish(forgery, arrays)
    assert "answer-of-region" in forged(forgery, tmp_path / "keys")


def test_keys_too_many_and_too_few_show(forgery: Forgery, tmp_path: Path) -> None:
    arrays = arrays_of(forgery)
    publish(forgery, {**arrays, "search_terms": np.ones(256, np.float32)})
    assert "answers-more" in forged(forgery, tmp_path / "more")
    del arrays["region-2/search_terms_keys"]
    publish(forgery, arrays)
    assert {"answer-of-region", "answer-keys"} <= forged(forgery, tmp_path / "less")


def test_a_region_that_released_somebodys_own_key_shows(forgery: Forgery, tmp_path: Path) -> None:
    """A lowered threshold, with every record that its operator can sign made to agree."""
    arrays = arrays_of(forgery)
    own = packed_keys(
        search_terms(), ["hers alone", "milk"], np.array([LEAST - 1, 30.0], dtype=np.float32)
    )
    arrays |= {f"{R1}/{name}": each for name, each in own.items()}
    digest = arrays_digest(own)
    for kind in ("round", "release"):
        index = forgery.find(R1, kind)[0]
        forgery.change(R1, index, lambda record: record.update(update=digest))
    publish(forgery, arrays)
    assert "answer-keys" in forged(forgery, tmp_path / "copy")


def restate(forgery: Forgery, kind: str, change: Callable[[Any], object]) -> None:
    index = forgery.find(R1, kind)[0]
    forgery.change(R1, index, change)


def test_a_charge_that_hides_its_delta_for_keys_shows(forgery: Forgery, tmp_path: Path) -> None:
    restate(forgery, "charge", lambda record: record.pop("key_delta"))
    found = forged(forgery, tmp_path / "copy")
    assert {"charge-parameters", "ledger-chain", "round-charge"} <= found


def test_a_charge_of_another_delta_for_keys_shows(forgery: Forgery, tmp_path: Path) -> None:
    restate(forgery, "charge", lambda record: record.update(key_delta="0.000000005"))
    assert {"charge-parameters", "ledger-chain"} <= forged(forgery, tmp_path / "copy")


def test_an_epsilon_at_the_whole_of_delta_is_understated(forgery: Forgery, tmp_path: Path) -> None:
    """By a hair, and the verifier's own reckoning finds the hair."""
    noise = PLAN.mechanism_of(1).noise_multiplier
    whole = composed_epsilon({(noise, "1"): 1}, 1e-6)
    stated = f"{math.ceil(whole * 1e6) / 1e6:.6f}"
    restate(forgery, "charge", lambda record: record.update(epsilon_run=stated))
    assert "epsilon-understated" in forged(forgery, tmp_path / "copy")


def test_a_round_that_states_no_delta_for_keys_shows(forgery: Forgery, tmp_path: Path) -> None:
    restate(forgery, "round", lambda record: record["dp"].pop("key_delta"))
    assert "round-charge" in forged(forgery, tmp_path / "copy")


def test_a_permit_without_the_plans_delta_for_keys_shows(forgery: Forgery, tmp_path: Path) -> None:
    restate(forgery, "permit", lambda record: record["mechanisms"][0].pop("key_delta"))
    assert {"permit-plan", "charge-parameters"} <= forged(forgery, tmp_path / "copy")


def test_noise_that_is_not_a_regions_own_is_a_lie(forgery: Forgery, tmp_path: Path) -> None:
    facts: Any = canonical_json.decode(forgery.artifacts[FACTS_NAME])
    assert facts["answers"][0]["question"]["kind"] == "keys"
    noise = float(facts["answers"][0]["noise_stddev"]) * math.sqrt(3)
    facts["answers"][0]["noise_stddev"] = f"{noise:.9g}"
    forgery.artifacts[FACTS_NAME] = canonical_json.encode(facts, max_bytes=1 << 20)
    assert "answers-facts" in forged(forgery, tmp_path / "copy")


# -- its own reckoning -----------------------------------------------------------------------------


def test_epsilon_with_keys_is_another_accountants_at_what_is_left() -> None:
    spent = {("2.0", "1", "0.0000003"): 2, ("3.0", "1"): 1}
    accountant = PLDAccountant()
    for sigma in (2.0, 2.0, 3.0):
        accountant.compose(GaussianDpEvent(sigma))
    assert composed_epsilon(spent, 1e-6) == pytest.approx(accountant.get_epsilon(4e-7), rel=1e-3)
    assert math.isinf(composed_epsilon({("2.0", "1", "0.0000005"): 2}, 1e-6))
    for text in ("0", "0.5", "1e-13"):
        with pytest.raises(VerificationError, match="is not within"):
            composed_epsilon({("2.0", "1", text): 1}, 1e-6)
    assert mechanism_in(MECHANISM)[2:] == ("0.00000001",)


def planned(**changes: Any) -> tuple[Any, Any]:
    question = {**QUESTION, "question": {**QUESTION["question"]}}
    mechanism = {**MECHANISM}
    for name, value in changes.items():
        for where in (mechanism, question["question"], question):
            if name in where:
                where[name] = value
                break
    return question, mechanism


@pytest.mark.parametrize(
    ("changes", "rule", "words"),
    [
        ({"scope": "global"}, "sum", "each region by itself"),
        ({}, "secure-sum", "each region by itself"),
        ({"key_delta": "0.00000002"}, "sum", "not its mechanism's"),
        ({"most": 65}, "sum", "out of range"),
        ({"keys": 0}, "sum", "out of range"),
        ({"key_bytes": True}, "sum", "out of range"),
    ],
)
def test_a_plan_whose_keys_are_not_as_they_must_be_is_refused(
    changes: dict[str, Any], rule: str, words: str
) -> None:
    question, mechanism = planned()
    check_key_questions([question], [mechanism], rule="sum", mode="local")
    question, mechanism = planned(**changes)
    with pytest.raises(FormatError, match=words):
        check_key_questions([question], [mechanism], rule=rule, mode="local")


def test_a_delta_for_keys_of_another_question_is_refused() -> None:
    other: Any = PLAN.to_record()["questions"][1]  # type: ignore[index]
    with pytest.raises(FormatError, match="is for no keys"):
        check_key_questions([other], [MECHANISM], rule="sum", mode="local")
    bare = {name: value for name, value in MECHANISM.items() if name != "key_delta"}
    check_key_questions([other], [bare], rule="sum", mode="local")
    with pytest.raises(FormatError, match="not its mechanism's"):
        check_key_questions([QUESTION], [bare], rule="sum", mode="local")


def file_arrays(**values: float) -> dict[str, FileArray]:
    packed = packed_keys(search_terms(), [*values], np.array([*values.values()], np.float32))
    return {
        f"{R1}/{name}": FileArray(each.dtype.str, each.shape, each.tobytes())
        for name, each in packed.items()
    }


def problem(arrays: dict[str, FileArray]) -> str | None:
    return problem_of_keys(arrays, R1, "search_terms", QUESTION, MECHANISM)


def replaced(name: str, change: Callable[[bytes], bytes]) -> dict[str, FileArray]:
    arrays = file_arrays(milk=30.0, tea=LEAST)
    each = arrays[f"{R1}/{name}"]
    return arrays | {f"{R1}/{name}": each._replace(data=change(each.data))}


def test_keys_are_held_to_their_form_and_to_the_threshold() -> None:
    assert problem(file_arrays()) is None
    assert problem(file_arrays(milk=30.0, tea=LEAST)) is None
    # No character here yet, but perhaps where it was released.
    assert problem(file_arrays(**{"\u0378": LEAST})) is None
    values, keys = "search_terms", "search_terms_keys"
    row = b"milk".ljust(64, b"\0")
    wrong: dict[str, tuple[dict[str, FileArray], str]] = {
        "a step less": (file_arrays(tea=LEAST - 2.0**-10), "too often"),
        "off the grid": (file_arrays(tea=LEAST + 2.0**-11), "too often"),
        "not finite": (
            replaced(values, lambda data: struct.pack("<f", math.nan) + data[4:]),
            "too often",
        ),
        "below zero": (file_arrays(tea=-LEAST), "too often"),
        "twice": (replaced(keys, lambda data: row + row + data[128:]), "order"),
        "no value": (replaced(keys, lambda data: data[:-64] + row), "no value"),
        "a gap": (replaced(values, lambda data: data[4:] + data[:4]), "order|no value"),
        "a zero with a sign": (replaced(values, lambda data: data[:-1] + b"\x80"), "not zero"),
        "no text": (replaced(keys, lambda data: b"\xff" + data[1:]), "order|no text"),
        "a direction": (file_arrays(**{"\u202etea": LEAST}), "no text"),
        "another space": (file_arrays(**{"a\u00a0b": LEAST}), "no text"),
        "a control": (replaced(keys, lambda data: b"\n" + data[1:]), "no text"),
        "another size": (
            {**file_arrays(), f"{R1}/{values}": FileArray("<f4", (1,), bytes(4))},
            "other sizes",
        ),
        "none": ({}, "has not released any"),
    }
    for what, (arrays, words) in wrong.items():
        found = problem(arrays)
        assert found is not None, what
        assert any(each in found for each in words.split("|")), (what, found)


def test_the_digest_of_an_older_plan_is_what_it_was() -> None:
    """A plan without keys has not a byte more."""
    plan = keyed_plan(("repeat-purchases",))
    assert b"key_delta" not in plan.to_bytes()
    assert hashlib.sha256(plan.to_bytes()).hexdigest() == plan.digest
