"""Runs of questions: what the verifier reckons anew, and every lie in what was published."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import canonical_json
from common.analytics.answers import ARRAYS_NAME, FACTS_NAME
from common.audit.sparse_merkle import SparseMerkleTree, position
from common.audit.verify import verify_bundle
from common.audit.verify.verdict import Verdict
from common.consent import FEDERATED_TRAINING
from common.parameters import arrays_digest, load_arrays, save_arrays
from simulations.attacks.forgery import Forgery
from simulations.run_folder import RunFolder
from tests.support.asked_federation import finish_asked, secure_plan

R1 = "region-1"
Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def run(asked_run: Path) -> RunFolder:
    return RunFolder(asked_run)


@pytest.fixture
def forgery(run: RunFolder) -> Forgery:
    return Forgery(run, R1)


def codes(verdict: Verdict) -> set[str]:
    return {failure.code for failure in verdict.failures}


def forged(forgery: Forgery, folder: Path) -> set[str]:
    return codes(verify_bundle(forgery.write(folder)))


# -- what the coordinator could write, with its own keys -------------------------------------------


def arrays_of(forgery: Forgery) -> Arrays:
    loaded = load_arrays(forgery.artifacts[ARRAYS_NAME], 1 << 20)
    return {name: np.array(each) for name, each in loaded.items()}


def facts_of(forgery: Forgery) -> dict[str, Any]:
    facts = canonical_json.decode(forgery.artifacts[FACTS_NAME])
    assert isinstance(facts, dict)
    return facts


def publish(forgery: Forgery, arrays: Arrays) -> None:
    """Puts other answers in the place of the run's, logged and stated as if they were."""
    digest = arrays_digest(arrays)
    forgery.artifacts[ARRAYS_NAME] = save_arrays(arrays)
    forgery.artifacts[FACTS_NAME] = canonical_json.encode(
        {**facts_of(forgery), "arrays": digest}, max_bytes=1 << 20
    )
    (index,) = forgery.find("server", "answers")
    forgery.change("server", index, lambda record: record.update(answers=digest))


def test_an_honest_copy_verifies(forgery: Forgery, tmp_path: Path) -> None:
    assert verify_bundle(forgery.write(tmp_path / "copy")).verified


def test_another_sum_is_not_the_chains(forgery: Forgery, tmp_path: Path) -> None:
    arrays = arrays_of(forgery)
    arrays["repeat_purchases"][0] += 10
    publish(forgery, arrays)
    assert {"answers-chain", "answers-sum"} <= forged(forgery, tmp_path / "copy")


def test_a_sum_with_its_aggregates_changed_is_still_not_the_regions(
    forgery: Forgery, tmp_path: Path
) -> None:
    """The coordinator can sign another chain, and not what regions signed."""
    arrays = arrays_of(forgery)
    arrays["repeat_purchases"][0] += 10
    publish(forgery, arrays)
    sums = {name: each for name, each in arrays.items() if "/" not in name}
    index = forgery.find("server", "aggregate")[-1]
    out = arrays_digest(sums)
    forgery.change("server", index, lambda record: record.update(model_out=out))
    found = forged(forgery, tmp_path / "copy")
    assert "answers-sum" in found
    assert "answers-chain" not in found


def test_another_answer_of_a_region_is_not_what_it_released(
    forgery: Forgery, tmp_path: Path
) -> None:
    arrays = arrays_of(forgery)
    arrays["region-2/repeat_purchases"][0] += 10
    publish(forgery, arrays)
    assert {"answer-of-region", "answers-sum"} <= forged(forgery, tmp_path / "copy")


def test_an_array_too_many_and_one_too_few_show(forgery: Forgery, tmp_path: Path) -> None:
    arrays = arrays_of(forgery)
    publish(forgery, {**arrays, "region-1/all_purchases": np.ones(3)})
    assert "answers-more" in forged(forgery, tmp_path / "more")
    del arrays["repeat_purchases"]
    publish(forgery, arrays)
    assert "answers-missing" in forged(forgery, tmp_path / "less")


def test_a_file_that_was_not_published_shows(forgery: Forgery, tmp_path: Path) -> None:
    arrays = arrays_of(forgery)
    arrays["repeat_purchases"][0] += 10
    forgery.artifacts[ARRAYS_NAME] = save_arrays(arrays)
    assert "answers-file" in forged(forgery, tmp_path / "copy")


def answer(record: dict[str, Any], number: int = 0) -> dict[str, Any]:
    stated: dict[str, Any] = record["answers"][number]
    return stated


LIES: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("less noise", lambda facts: answer(facts).update(noise_stddev="0.5")),
    ("more noise", lambda facts: answer(facts).update(noise_stddev="50")),
    ("less ε", lambda facts: answer(facts).update(epsilon="0.100000")),
    ("more customers", lambda facts: answer(facts).update(customers_at_least=4096)),
    ("other regions", lambda facts: answer(facts).update(regions=[R1])),
    ("another scope", lambda facts: answer(facts, 1).update(scope="region-2")),
    ("another question", lambda facts: answer(facts)["question"].update(unit="euros")),
    ("other labels", lambda facts: answer(facts)["question"]["labels"].reverse()),
    ("other parameters", lambda facts: answer(facts)["parameters"].update(most=1)),
    ("an answer less", lambda facts: facts["answers"].pop()),
    ("answers in another order", lambda facts: facts["answers"].reverse()),
    ("the whole ε", lambda facts: facts.update(epsilon="0.1")),
    ("another window", lambda facts: facts["window"].update(start="2020-01-01T00:00:00.000Z")),
    ("another mode", lambda facts: facts.update(mode="distributed")),
    ("another field", lambda facts: facts.update(note="trust me")),
]


@pytest.mark.parametrize("lie", [each for _, each in LIES], ids=[name for name, _ in LIES])
def test_every_lie_about_an_answer_shows(
    lie: Callable[[dict[str, Any]], object], forgery: Forgery, tmp_path: Path
) -> None:
    facts = facts_of(forgery)
    lie(facts)
    forgery.artifacts[FACTS_NAME] = canonical_json.encode(facts, max_bytes=1 << 20)
    assert forged(forgery, tmp_path / "copy") == {"answers-facts"}


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"answers":1}', b"\xff"])
def test_facts_that_are_none_are_told_in_words(
    data: bytes, forgery: Forgery, tmp_path: Path
) -> None:
    forgery.artifacts[FACTS_NAME] = data
    assert forged(forgery, tmp_path / "copy") == {"answers-facts"}


def test_values_that_are_no_numbers_are_no_sum(forgery: Forgery, tmp_path: Path) -> None:
    arrays = arrays_of(forgery)
    arrays["repeat_purchases"][0] = np.nan
    publish(forgery, arrays)
    assert "answers-sum" in forged(forgery, tmp_path / "copy")


def test_answers_that_the_manifest_leaves_out_show(forgery: Forgery, tmp_path: Path) -> None:
    del forgery.artifacts[FACTS_NAME]
    assert "model-not-covered" in forged(forgery, tmp_path / "copy")


def test_answers_published_as_a_model_or_before_the_end_show(
    forgery: Forgery, tmp_path: Path
) -> None:
    (index,) = forgery.find("server", "answers")
    record = forgery.record("server", index)
    digest = record.pop("answers")
    as_model = {**record, "v": "fedpref-model/1", "model": digest}
    forgery.entries["server"].append(forgery.sign("server", as_model))
    assert "published-kind" in forged(forgery, tmp_path / "model")
    last = forgery.find("server", "aggregate")[-1]
    entries = forgery.entries["server"]
    entries.insert(last, entries.pop(index))
    assert "answers-early" in forged(forgery, tmp_path / "early")


def test_a_run_without_its_answers_is_unfinished(forgery: Forgery, tmp_path: Path) -> None:
    (index,) = forgery.find("server", "answers")
    del forgery.entries["server"][index]
    assert "run-unfinished" in forged(forgery, tmp_path / "copy")


# -- what a region could write, with its own keys --------------------------------------------------


def test_an_answer_of_those_who_did_not_consent_to_statistics_shows(
    forgery: Forgery, tmp_path: Path
) -> None:
    """Whoever consents to training is counted, as if that were enough."""
    index = forgery.find(R1, "round")[-1]
    size = forgery.record(R1, index)["consent"]["size"]
    sids = {
        forgery.record(R1, each)["sid"]
        for each in forgery.find(R1, "consent")
        if each < size and forgery.record(R1, each)["purposes"].get(FEDERATED_TRAINING) is True
    }

    def widen(record: dict[str, Any]) -> None:
        nonce = bytes.fromhex(record["train"]["nonce"])
        tree = SparseMerkleTree([position(nonce, bytes.fromhex(sid)) for sid in sids])
        record["train"]["root"] = tree.root.hex()

    assert len(sids) == 20
    forgery.change(R1, index, widen)
    assert "eligible-set" in forged(forgery, tmp_path / "copy")


def change_policy(forgery: Forgery, change: Callable[[dict[str, Any]], object]) -> None:
    """The region logs another policy, as if its controller had signed it from the start."""

    def alter(record: dict[str, Any]) -> None:
        change(record["policy"])
        data = canonical_json.encode(record["policy"])
        record["policy_sha256"] = hashlib.sha256(data).hexdigest()

    forgery.change(R1, forgery.find(R1, "policy")[0], alter)


@pytest.mark.parametrize(
    "table", [None, {"purchase-scenes": "8", "repeat-purchases": "8"}], ids=["none", "others"]
)
def test_a_permit_for_what_the_policy_does_not_name_shows(
    table: dict[str, str] | None, forgery: Forgery, tmp_path: Path
) -> None:
    def narrow(policy: dict[str, Any]) -> None:
        del policy["server_queries"]
        if table is not None:
            policy["server_queries"] = table

    change_policy(forgery, narrow)
    assert "permit-beyond-policy" in forged(forgery, tmp_path / "copy")


def test_a_question_for_more_epsilon_than_the_policy_allows_shows(
    forgery: Forgery, tmp_path: Path
) -> None:
    change_policy(
        forgery, lambda policy: policy["server_queries"].update({"repeat-purchases": "0.5"})
    )
    assert "permit-beyond-policy" in forged(forgery, tmp_path / "copy")


def test_a_permit_that_claims_samples_or_steps_shows(forgery: Forgery, tmp_path: Path) -> None:
    (index,) = forgery.find(R1, "permit")

    def sampled(record: dict[str, Any]) -> None:
        record["mechanisms"][0] |= {"sampling_probability": "0.5", "steps": 2}

    forgery.change(R1, index, sampled)
    found = forged(forgery, tmp_path / "copy")
    assert {"permit-plan", "permit-beyond-policy"} <= found


def test_a_permit_for_a_purpose_of_its_own_shows(forgery: Forgery, tmp_path: Path) -> None:
    (index,) = forgery.find(R1, "permit")
    purpose = "dpv:ProvideProductRecommendations"
    forgery.change(R1, index, lambda record: record.update(purpose=purpose))
    assert "permit-purpose" in forged(forgery, tmp_path / "copy")


# -- plans -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"purpose": "fedpref:FederatedTraining"},
        {"questions": []},
        {"v": "fedpref-plan/1"},
        {"strategy": "factors"},
        {"train_from": "never"},
    ],
    ids=str,
)
def test_a_plan_that_is_none_is_refused(
    change: dict[str, Any], forgery: Forgery, tmp_path: Path
) -> None:
    record = canonical_json.decode(forgery.files["plan.json"])
    assert isinstance(record, dict)
    forgery.overrides["plan.json"] = canonical_json.encode({**record, **change})
    assert "plan" in forged(forgery, tmp_path / "copy")


def test_a_plan_whose_mechanisms_are_not_its_questions_is_refused(
    forgery: Forgery, tmp_path: Path
) -> None:
    for field, value in (("clipping_norm", "0.5"), ("steps", 2), ("name", "others")):
        record: Any = canonical_json.decode(forgery.files["plan.json"])
        record["mechanisms"][0][field] = value
        forgery.overrides["plan.json"] = canonical_json.encode(record)
        assert "plan" in forged(forgery, tmp_path / field)


# -- sums that nobody sees the parts of ------------------------------------------------------------


@pytest.mark.slow
def test_a_shared_sums_noise_and_chain_are_reckoned_anew(tmp_path: Path) -> None:
    run = finish_asked(tmp_path / "run", secure_plan("distributed"))
    honest = Forgery(run, R1)
    facts = facts_of(honest)
    answer(facts)["noise_stddev"] = f"{float(answer(facts)['noise_stddev']) * 0.99:.9g}"
    honest.artifacts[FACTS_NAME] = canonical_json.encode(facts, max_bytes=1 << 20)
    assert forged(honest, tmp_path / "noise") == {"answers-facts"}
    other = Forgery(run, R1)
    arrays = arrays_of(other)
    arrays["repeat_purchases"][0] += 1
    publish(other, arrays)
    assert "answers-chain" in forged(other, tmp_path / "sum")
