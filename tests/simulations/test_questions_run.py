"""Runs of questions, from provisioning to the verdict: real engines, real coordinator."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.analytics.answers import ReleasedAnswers
from common.analytics.clusters import Clusters
from common.analytics.purchase_questions import CLUSTERS, FREQUENCY, RECENCY, REPEATS, SCENES
from common.audit.log import AuditLog
from common.audit.verify.verdict import Verdict
from common.canonical_json import JsonValue
from common.consent import FEDERATED_ANALYTICS
from common.envelope import Envelope
from common.errors import BudgetError, UsageError
from common.parameters import arrays_digest, load_arrays
from common.plan import RunPlan
from common.questions_plan import QuestionsFile
from server.config import ServerHome
from server.current_model import publish_current
from simulations.analytics_run import QuestionsRun, run_questions
from simulations.customers import CustomerChoices
from simulations.federate import federate
from simulations.provision import OpenRegion, open_regions
from simulations.run_folder import RunFolder
from tests.support.asked_federation import NAMES, asked_plan, coarsely, make_asked, secure_plan
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


def check_answers(kind: str, folder: RunFolder, *, customers: int) -> ReleasedAnswers:
    """What holds of every finished run, however its answers travel."""
    plan = PLANS[kind]
    found, _ = verified(folder, plan)
    scopes = ["global", *plan.regions] if kind == "open" else ["global"]
    assert [(each.question.name, each.scope) for each in found.answers] == [
        (name, scope) for name in NAMES for scope in scopes
    ]
    # All of them bought: the total is right within its noise.
    repeats = found.of(REPEATS)
    assert repeats.customers_at_least == 48
    assert repeats.released.sum() == pytest.approx(customers, abs=6 * 2 * repeats.noise_stddev)
    for region in plan.regions:
        charges = entries(folder.region_home(region), "charge")
        assert [each["mechanism"] for each in charges] == [*NAMES]
        assert {each["purpose"] for each in charges} == {FEDERATED_ANALYTICS}
        assert float(str(charges[-1]["epsilon_run"])) <= 8.0
    return found


def check_left(kind: str, seen: list[tuple[str, Arrays]]) -> None:
    """Nothing leaves but what the plan says, and masked where it says so."""
    carriers = {"open": "train", "masked": "mask", "shared": "execute"}
    left = [(method, arrays) for method, arrays in seen if arrays]
    assert {method for method, _ in left} == {carriers[kind]}
    assert len(left) == 3 * len(NAMES)
    assert {name for _, arrays in left for name in arrays} == {
        each.replace("-", "_") for each in NAMES
    }


def test_a_run_with_answers_of_each_region(asked_run: Path, tmp_path: Path) -> None:
    plan = PLANS["open"]
    shutil.copytree(asked_run, tmp_path / "run", symlinks=True)
    folder = RunFolder(tmp_path / "run")
    # Sixty, less one in each region who consents to training alone.
    found = check_answers("open", folder, customers=57)
    # Each region's answer is what it logged that it released, and the sum is theirs.
    for number, name in enumerate(NAMES, start=1):
        own = [found.of(name, region).released for region in plan.regions]
        for region, values in zip(plan.regions, own, strict=True):
            (release,) = [
                each
                for each in entries(folder.region_home(region), "release")
                if each["round"] == number
            ]
            array = {name.replace("-", "_"): values.astype(np.float32)}
            assert release["update"] == arrays_digest(array)
        np.testing.assert_array_equal(found.of(name).released, sum(own))
    # What rounds hand on is sums, and never a region's answer.
    kept = ServerHome(folder.server).checkpoint
    sums = load_arrays((kept / "model-0003.safetensors").read_bytes(), 1 << 20)
    assert set(sums) == {each.replace("-", "_") for each in NAMES}


def test_answers_are_no_model(asked_run: Path) -> None:
    """Nobody who serves a model can take them for one."""
    home = ServerHome(asked_run / "server")
    assert entries(home.root, "model") == []
    assert len(entries(home.root, "answers")) == 1
    assert not home.model.exists()
    assert publish_current(home) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["open", "shared"])
def test_what_leaves_is_what_the_plan_says(kind: str, tmp_path: Path) -> None:
    folder, seen = asked(tmp_path / "run", PLANS[kind])
    check_answers(kind, folder, customers=60)
    check_left(kind, seen)


@pytest.mark.slow
def test_a_run_of_masked_answers(tmp_path: Path) -> None:
    folder, seen = asked(tmp_path / "run", PLANS["masked"])
    check_answers("masked", folder, customers=60)
    check_left("masked", seen)


@pytest.mark.slow
def test_masked_answers_of_mostly_empty_cells_on_coarse_grids_are_given(tmp_path: Path) -> None:
    """A tenth of the noise in cells that nobody is in is rounded to zero."""
    plan = coarsely(secure_plan("local", (RECENCY, FREQUENCY, REPEATS)))
    folder, _ = asked(tmp_path / "run", plan)
    found, _ = verified(folder, plan)
    repeats = found.of(REPEATS)
    assert repeats.released.sum() == pytest.approx(60, abs=6 * 2 * repeats.noise_stddev)


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


# -- steps -----------------------------------------------------------------------------------------

# Steps in the middle, so that rounds before and after them are told apart.
STEPPED = (SCENES, CLUSTERS, REPEATS)
STEP_PLANS = {
    "open": asked_plan(STEPPED, scope="global"),
    "masked": secure_plan("local", STEPPED),
    "shared": secure_plan("distributed", STEPPED),
}


def test_every_step_is_charged_and_one_answer_is_read(clustered_run: Path) -> None:
    folder = RunFolder(clustered_run)
    (found,) = ReleasedAnswers.load(clustered_run).answers
    assert len(found.lines()) == 2 * (2 + 2)
    for region in ("region-1", "region-2", "region-3"):
        charges = entries(folder.region_home(region), "charge")
        assert [(each["mechanism"], each["round"]) for each in charges] == [
            (CLUSTERS, number) for number in (1, 2, 3)
        ]
        assert float(str(charges[-1]["epsilon_run"])) <= float(found.epsilon) + 1e-6
    # Each round started from the rows of those before it.
    (first, second, third) = entries(folder.server, "aggregate")
    rows = load_arrays((folder.root / "answers.safetensors").read_bytes(), 1 << 20)
    for done, entry in enumerate((first, second, third)):
        state = {name: each[:done] for name, each in rows.items()} if done else {}
        assert entry["model_in"] == arrays_digest(state)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STEP_PLANS)
def test_steps_go_on_where_a_run_paused_in_them(kind: str, tmp_path: Path) -> None:
    plan = STEP_PLANS[kind]
    folder, _, set_ups = make_asked(tmp_path / "run", plan)
    for last_round in (2, 3, None):
        with open_regions(folder, set_ups) as regions:
            for region in regions.values():
                region.engine.preflight(plan)
            channels = {name: region.channel for name, region in regions.items()}
            federate("inprocess", folder, plan, channels, last_round=last_round)
    found, _ = verified(folder, plan)
    clusters = found.of(CLUSTERS)
    assert isinstance(clusters.question, Clusters)
    # All of them bought, and each was counted once.
    counts = clusters.question.counts(clusters.released, clusters.noise_stddev)
    assert counts.value.sum() == pytest.approx(60, abs=6 * 2 * 2**0.5 * clusters.noise_stddev)
    for region in plan.regions:
        charges = entries(folder.region_home(region), "charge")
        assert [each["mechanism"] for each in charges] == [SCENES, *[CLUSTERS] * 3, REPEATS]


@pytest.mark.slow
def test_who_withdraws_between_two_steps_is_in_no_later_one(tmp_path: Path) -> None:
    def leaving(customers: Sequence[str]) -> CustomerChoices:
        return CustomerChoices(refusing=frozenset(), withdrawing={2: tuple(sorted(customers)[:15])})

    plan = asked_plan((CLUSTERS,), scope="global")
    folder, _ = asked(tmp_path / "run", plan, choose=leaving, withdrawal_in_round="discard")
    found, _ = verified(folder, plan)
    assert found.answers[0].customers_at_least == 12


# -- refusals --------------------------------------------------------------------------------------


def alone(*names: str) -> RunPlan:
    """A plan of one region."""
    return asked_plan(names, regions=["region-1"], quorum=1)


def test_a_plan_that_the_budget_does_not_pay_is_not_permitted(tmp_path: Path) -> None:
    with pytest.raises(BudgetError):
        make_asked(tmp_path / "run", alone(REPEATS), epsilon_cap="4")


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
