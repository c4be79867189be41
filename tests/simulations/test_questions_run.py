"""Runs of questions, from provisioning to the verdict: real engines, real coordinator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.engine.policy import RegionPolicy
from client.engine.policy_desk import sign_policy
from common.analytics.answers import ReleasedAnswers
from common.analytics.purchase_questions import CATEGORIES, REPEATS, SCENES
from common.audit.log import AuditLog
from common.audit.verify.verdict import Verdict
from common.canonical_json import JsonValue
from common.consent import FEDERATED_ANALYTICS
from common.envelope import Envelope
from common.errors import BudgetError, FederationError, FedprefError, PolicyError, UsageError
from common.parameters import load_arrays
from common.plan import RunPlan
from common.questions_plan import QuestionsFile
from server.config import ServerHome
from server.current_model import publish_current
from simulations.analytics_run import QuestionsRun, run_questions
from simulations.customers import CustomerChoices
from simulations.federate import federate
from simulations.provision import OpenRegion, open_regions
from simulations.run_folder import RunFolder
from tests.support.asked_federation import NAMES, asked_plan, make_asked, secure_plan
from tests.support.run_bundle import bundled
from tests.support.small_federation import small_scenario

Header = dict[str, JsonValue]
Arrays = Mapping[str, np.ndarray]
PLANS = {
    "open": asked_plan(),
    "masked": secure_plan("local"),
    "shared": secure_plan("distributed"),
}


class Watched:
    """A region, and every array that leaves it."""

    def __init__(self, region: OpenRegion, seen: list[tuple[str, Arrays]]) -> None:
        self._region = region
        self._seen = seen

    def call(
        self, method: str, header: Header, arrays: Arrays
    ) -> tuple[Header, dict[str, np.ndarray]]:
        reply, answered = self._region.channel.call(method, header, arrays)
        self._seen.append((method, answered))
        return reply, answered


def asked(
    root: Path, plan: RunPlan, *, last_round: int | None = None, **changes: Any
) -> tuple[RunFolder, list[tuple[str, Arrays]]]:
    folder, _, set_ups = make_asked(root, plan, **changes)
    seen: list[tuple[str, Arrays]] = []
    with open_regions(folder, set_ups) as regions:
        for region in regions.values():
            region.engine.preflight(plan)
        channels = {name: Watched(region, seen) for name, region in regions.items()}
        federate("inprocess", folder, plan, channels, last_round=last_round)
    return folder, seen


def verified(folder: RunFolder, plan: RunPlan) -> tuple[ReleasedAnswers, Verdict]:
    verdict = bundled(folder, plan)
    assert verdict.verified, verdict.first_failure
    return ReleasedAnswers.load(folder.root), verdict


def entries(home: Path, kind: str) -> list[Header]:
    with AuditLog.open_read_only(home / "log.sqlite") as log:
        envelopes = [Envelope.decode(data) for _, data in log.entries()]
    return [each.record() for each in envelopes if each.kind == kind]


def check_run(kind: str, folder: RunFolder, seen: list[tuple[str, Arrays]]) -> None:
    """What holds of every finished run, however its answers travel."""
    plan = PLANS[kind]
    found, _ = verified(folder, plan)
    scopes = ["global", *plan.regions] if kind == "open" else ["global"]
    assert [(each.question.name, each.scope) for each in found.answers] == [
        (name, scope) for name in NAMES for scope in scopes
    ]
    # Sixty customers who all bought: the total is right within its noise.
    repeats = found.of(REPEATS)
    assert repeats.customers_at_least == 48
    assert repeats.released.sum() == pytest.approx(60, abs=6 * 2 * repeats.noise_stddev)
    for region in plan.regions:
        charges = entries(folder.region_home(region), "charge")
        assert [each["mechanism"] for each in charges] == [*NAMES]
        assert {each["purpose"] for each in charges} == {FEDERATED_ANALYTICS}
        assert float(str(charges[-1]["epsilon_run"])) <= 8.0
    # Nothing leaves but what the plan says, and masked where it says so.
    carriers = {"open": "train", "masked": "mask", "shared": "execute"}
    left = [(method, arrays) for method, arrays in seen if arrays]
    assert {method for method, _ in left} == {carriers[kind]}
    assert len(left) == 3 * len(NAMES)
    assert {name for _, arrays in left for name in arrays} == {
        each.replace("-", "_") for each in NAMES
    }


def test_a_run_with_answers_of_each_region(tmp_path: Path) -> None:
    plan = PLANS["open"]
    folder, seen = asked(tmp_path / "run", plan)
    check_run("open", folder, seen)
    # Each region's answer is what left it, and the sum is theirs.
    found = ReleasedAnswers.load(folder.root)
    for name in NAMES:
        own = [found.of(name, region).released for region in plan.regions]
        array = name.replace("-", "_")
        left = [arrays[array].astype(np.float64) for _, arrays in seen if array in arrays]
        assert sorted(map(tuple, left)) == sorted(map(tuple, own))
        np.testing.assert_array_equal(found.of(name).released, sum(own))
    # What a later round is sent is sums, and never a region's answer.
    kept = ServerHome(folder.server).checkpoint
    sums = load_arrays((kept / "model-0003.safetensors").read_bytes(), 1 << 20)
    assert set(sums) == {each.replace("-", "_") for each in NAMES}
    # Answers are no model: nobody who serves one can take them for it.
    home = ServerHome(folder.server)
    assert entries(folder.server, "model") == []
    assert len(entries(folder.server, "answers")) == 1
    assert not home.model.exists()
    assert publish_current(home) is None


def test_a_run_whose_noise_is_distributed(tmp_path: Path) -> None:
    folder, seen = asked(tmp_path / "run", PLANS["shared"])
    check_run("shared", folder, seen)


@pytest.mark.slow
def test_a_run_of_masked_answers(tmp_path: Path) -> None:
    folder, seen = asked(tmp_path / "run", PLANS["masked"])
    check_run("masked", folder, seen)


@pytest.mark.slow
def test_only_who_consents_to_statistics_is_counted(tmp_path: Path) -> None:
    def half(customers: Sequence[str]) -> CustomerChoices:
        return CustomerChoices(refusing=frozenset(sorted(customers)[::2]), withdrawing={})

    plan = asked_plan((REPEATS,), epsilon="8")
    folder, _ = asked(tmp_path / "run", plan, choose=half)
    found, _ = verified(folder, plan)
    repeats = found.of(REPEATS)
    assert repeats.customers_at_least == 24
    assert repeats.released.sum() == pytest.approx(30, abs=6 * 2 * repeats.noise_stddev)


@pytest.mark.slow
def test_who_withdraws_in_the_run_is_in_no_later_answer(tmp_path: Path) -> None:
    def leaving(customers: Sequence[str]) -> CustomerChoices:
        return CustomerChoices(refusing=frozenset(), withdrawing={2: tuple(sorted(customers)[:15])})

    plan = PLANS["open"]
    folder, _ = asked(tmp_path / "run", plan, choose=leaving, withdrawal_in_round="discard")
    verified(folder, plan)
    buckets = [
        each["train"]["n_bucket"]  # type: ignore[index, call-overload]
        for each in entries(folder.region_home("region-1"), "round")
    ]
    assert buckets == ["16-31", "4-7", "4-7"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLANS)
def test_a_run_that_paused_goes_on_with_what_it_kept(kind: str, tmp_path: Path) -> None:
    plan = PLANS[kind]
    folder, _, set_ups = make_asked(tmp_path / "run", plan)
    for last_round in (1, 2, None):
        with open_regions(folder, set_ups) as regions:
            channels = {name: region.channel for name, region in regions.items()}
            federate("inprocess", folder, plan, channels, last_round=last_round)
    found, _ = verified(folder, plan)
    assert {each.question.name for each in found.answers} == {*NAMES}
    for region in plan.regions:
        assert len(entries(folder.region_home(region), "charge")) == len(NAMES)


# -- refusals --------------------------------------------------------------------------------------


def alone(*names: str) -> RunPlan:
    """A plan of one region."""
    return asked_plan(names, regions=["region-1"], quorum=1)


def test_a_question_that_the_policy_does_not_name_is_not_permitted(tmp_path: Path) -> None:
    folder, plan, set_ups = make_asked(tmp_path / "run", alone(REPEATS, SCENES))
    for allowed, words in (
        ({}, "server_queries = repeat-purchases; it allows none"),
        ({REPEATS: "8"}, "server_queries = purchase-scenes"),
        ({REPEATS: "8", SCENES: "1"}, "server_queries.purchase-scenes"),
    ):
        with open_regions(folder, set_ups[:1]) as regions:
            engine = regions["region-1"].engine
            record = engine.policy.to_record()
            record.pop("server_queries", None)
            changed = {**record, "server_queries": allowed} if allowed else record
            sign_policy(engine.home, engine.log, RegionPolicy.model_validate(changed))
        with open_regions(folder, set_ups[:1]) as regions:
            engine = regions["region-1"].engine
            with pytest.raises(PolicyError, match=words):
                engine.preflight(plan)
            assert engine.ledger.charges == ()


def test_consent_to_training_is_none_to_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simulations import provision

    chosen = provision.opening_choices
    monkeypatch.setattr(
        provision, "opening_choices", lambda customers, choices, **_: chosen(customers, choices)
    )
    folder, plan, set_ups = make_asked(tmp_path / "run", alone(REPEATS))
    with open_regions(folder, set_ups) as regions:
        with pytest.raises(FedprefError, match="no customer's consent"):
            regions["region-1"].engine.preflight(plan)
        channels = {name: region.channel for name, region in regions.items()}
        with pytest.raises(FederationError):
            federate("inprocess", folder, plan, channels)
        assert all(region.engine.ledger.charges == () for region in regions.values())


def test_a_plan_that_the_budget_does_not_pay_is_not_permitted(tmp_path: Path) -> None:
    with pytest.raises(BudgetError):
        make_asked(tmp_path / "run", alone(REPEATS), epsilon_cap="4")


def test_a_plan_that_the_region_would_answer_otherwise_is_refused_before_a_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, set_ups = make_asked(tmp_path / "run", alone(CATEGORIES))
    from client.analytics import askable
    from client.analytics.purchases import category_customers

    monkeypatch.setattr(
        askable, "category_customers", lambda catalogue: category_customers(catalogue, most=1)
    )
    with open_regions(folder, set_ups) as regions:
        channels = {name: region.channel for name, region in regions.items()}
        with pytest.raises(FederationError):
            federate("inprocess", folder, plan, channels)
        for region in regions.values():
            assert region.engine.ledger.charges == ()
            assert isinstance(region.engine.last_refusal, PolicyError)


# -- the command's run -----------------------------------------------------------------------------


def run_of(**changes: Any) -> QuestionsRun:
    arguments: dict[str, Any] = {
        "scenario": small_scenario(3, customers=60),
        "questions": QuestionsFile.of([REPEATS], scope="regions"),
        "epsilon": "8",
    }
    return QuestionsRun(**(arguments | changes))


@pytest.mark.slow
def test_a_simulated_federation_is_asked_in_one_call(tmp_path: Path) -> None:
    found = run_questions(run_of(), tmp_path / "run")
    assert [each.scope for each in found.answers] == [
        "global",
        "region-1",
        "region-2",
        "region-3",
    ]
    with pytest.raises(UsageError, match="not empty"):
        run_questions(run_of(), tmp_path / "run")


def test_where_noise_would_swamp_an_answer_nothing_is_provisioned(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="Nothing was spent"):
        run_questions(run_of(epsilon="0.1"), tmp_path / "run")
    assert not (tmp_path / "run" / "regions").exists()
