"""Questions of several steps: what the verifier reckons anew, and every lie about a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import canonical_json
from common.analytics.answers import ReleasedAnswers
from common.analytics.clusters import Clusters
from common.audit.verify import verify_bundle
from common.parameters import arrays_digest
from simulations.attacks.forgery import Forgery
from simulations.run_folder import RunFolder
from tests.common.audit.test_verify_answers import (
    answer,
    arrays_of,
    change_policy,
    facts_of,
    forged,
    publish,
)

R1, ARRAY = "region-1", "purchase_clusters"


@pytest.fixture
def forgery(clustered_run: Path) -> Forgery:
    return Forgery(RunFolder(clustered_run), R1)


def state_facts(forgery: Forgery, facts: dict[str, Any]) -> None:
    from common.analytics.answers import FACTS_NAME

    forgery.artifacts[FACTS_NAME] = canonical_json.encode(facts, max_bytes=1 << 20)


def test_an_honest_copy_verifies_and_is_read(
    forgery: Forgery, clustered_run: Path, tmp_path: Path
) -> None:
    assert verify_bundle(forgery.write(tmp_path / "copy")).verified
    (found,) = ReleasedAnswers.load(clustered_run).answers
    assert isinstance(found.question, Clusters)
    rows = arrays_of(forgery)[ARRAY]
    assert rows.shape == (3, 6)
    np.testing.assert_array_equal(found.released, rows[-1])
    # Sixty customers and little noise: their centre has moved from where the plan began.
    stated = answer(facts_of(forgery))
    assert stated["centres"] == found.question.centres_record
    assert stated["centres"] != stated["question"]["centres"]
    assert (stated["round"], stated["scope"]) == (3, "global")


@pytest.mark.parametrize("step", [0, 1, 2])
def test_another_sum_of_any_step_is_not_the_chains(
    step: int, forgery: Forgery, tmp_path: Path
) -> None:
    arrays = arrays_of(forgery)
    arrays[ARRAY][step, 0] += 10
    publish(forgery, arrays)
    assert "answers-chain" in forged(forgery, tmp_path / "copy")


def test_a_step_that_a_region_began_elsewhere_shows(forgery: Forgery, tmp_path: Path) -> None:
    """The coordinator signs another chain, with centres of its choice; regions signed the state."""
    arrays = arrays_of(forgery)
    arrays[ARRAY][0, 1] = -arrays[ARRAY][0, 1]
    publish(forgery, arrays)
    for steps, index in enumerate(forgery.find("server", "aggregate"), start=1):
        out = arrays_digest({ARRAY: arrays[ARRAY][:steps]})
        before = arrays_digest({ARRAY: arrays[ARRAY][: steps - 1]} if steps > 1 else {})
        forgery.change(
            "server",
            index,
            lambda record, out=out, before=before: record.update(model_in=before, model_out=out),
        )
    found = forged(forgery, tmp_path / "copy")
    assert "answers-chain" not in found
    # What regions trained on is in their own logs.
    assert "aggregate-mismatch" in found


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[:2],
        lambda rows: rows[-1],
        lambda rows: rows.ravel(),
        lambda rows: rows.astype(np.float32),
    ],
    ids=["a step less", "the last one alone", "no steps", "another type"],
)
def test_sums_of_another_form_are_missing(
    change: Callable[[np.ndarray], np.ndarray], forgery: Forgery, tmp_path: Path
) -> None:
    arrays = arrays_of(forgery)
    publish(forgery, {ARRAY: change(arrays[ARRAY])})
    assert "answers-missing" in forged(forgery, tmp_path / "copy")


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "other centres": lambda facts: answer(facts)["centres"][0].reverse(),
    "the plan's centres": lambda facts: answer(facts).update(
        centres=answer(facts)["question"]["centres"]
    ),
    "no centres": lambda facts: answer(facts).pop("centres"),
    "one step's ε": lambda facts: answer(facts).update(epsilon="3.000000"),
    "fewer steps": lambda facts: answer(facts)["question"].update(steps=1),
    "an earlier round": lambda facts: answer(facts).update(round=1),
    "other coordinates": lambda facts: answer(facts)["question"]["coordinates"].reverse(),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_every_lie_about_steps_shows(
    lie: Callable[[dict[str, Any]], object], forgery: Forgery, tmp_path: Path
) -> None:
    facts = facts_of(forgery)
    lie(facts)
    state_facts(forgery, facts)
    assert forged(forgery, tmp_path / "copy") == {"answers-facts"}


def test_a_policy_that_allows_one_step_allows_no_three(forgery: Forgery, tmp_path: Path) -> None:
    change_policy(
        forgery, lambda policy: policy["server_queries"].update({"purchase-clusters": "5"})
    )
    assert "permit-beyond-policy" in forged(forgery, tmp_path / "copy")


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["questions"][0]["question"].update(steps=2),
        lambda record: record["questions"][0]["question"].update(steps="3"),
        lambda record: record["questions"][0]["question"].pop("steps"),
        lambda record: record["questions"][0].update(scope="regions"),
        lambda record: record["mechanisms"][0].update(rounds=[1]),
        lambda record: record["mechanisms"][0].update(rounds=[1, 2, 4]),
    ],
    ids=range(6),
)
def test_a_plan_whose_rounds_are_not_its_steps_is_refused(
    change: Callable[[Any], object], forgery: Forgery, tmp_path: Path
) -> None:
    record: Any = canonical_json.decode(forgery.files["plan.json"])
    change(record)
    forgery.overrides["plan.json"] = canonical_json.encode(record)
    assert "plan" in forged(forgery, tmp_path / "copy")
