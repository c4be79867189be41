"""A question of several steps in the engine: each a round, each at the centres that follow."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.engine import round_release
from client.engine.policy import RegionPolicy
from common.analytics.clusters import Clusters
from common.analytics.purchase_questions import CLUSTERS
from common.canonical_json import JsonValue
from common.cluster_steps import question_in_round
from common.errors import PolicyError
from common.plan import RunPlan
from common.privacy import epsilon_gaussian
from simulations.provision import OpenRegion, RegionSetUp, open_region
from simulations.run_folder import RunFolder
from tests.support.asked_federation import asked_plan, make_asked
from tests.support.cosigning import ask
from tests.support.small_federation import home_of

Federation = tuple[RunFolder, RunPlan, list[RegionSetUp]]
Arrays = dict[str, np.ndarray]
# Twenty customers are few: with so little noise their centres do move.
PLAN = asked_plan((CLUSTERS,), scope="global", regions=["region-1"], quorum=1, epsilon="60")
(MECHANISM,) = PLAN.mechanisms
ARRAY = "purchase_clusters"


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_asked(tmp_path_factory.mktemp("stepped") / "run", PLAN, epsilon_cap="60")


@pytest.fixture
def region(provisioned: Federation, tmp_path: Path) -> Iterator[OpenRegion]:
    folder, _, set_ups = provisioned
    shutil.copytree(folder.root, tmp_path / "run", symlinks=True)
    with open_region(home_of(RunFolder(tmp_path / "run")), set_ups[0]) as opened:
        yield opened


def header(number: int) -> dict[str, JsonValue]:
    return {
        "run": PLAN.run_id,
        "round": number,
        "attempt": 1,
        "mechanism": CLUSTERS,
        "plan": PLAN.digest,
        "cosignatures": [],
    }


def extended(state: Arrays, answer: Arrays) -> Arrays:
    """The state after a step: the one region's answer is the sum."""
    row = answer[ARRAY].astype(np.float64)[None, :]
    return {ARRAY: np.concatenate([*([state[ARRAY]] if state else []), row])}


def test_each_step_is_paid_for_and_counts_where_the_one_before_it_ended(
    region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Clusters] = []
    whole = round_release.answer_release

    def release(parts: Any, statistic: Any, **named: Any) -> Any:
        asked.append(statistic.question)
        return whole(parts, statistic, **named)

    monkeypatch.setattr(round_release, "answer_release", release)
    state: Arrays = {}
    for number in (1, 2, 3):
        expected = question_in_round(PLAN, number, state)
        assert isinstance(expected, Clusters)
        reply, answer = ask(region.engine, header(number), state)
        assert reply["status"] == "ok"
        np.testing.assert_array_equal(asked[-1].centres, expected.centres)
        state = extended(state, answer)
    assert len({each.centres.tobytes() for each in asked}) == 3
    charges = region.engine.ledger.charges
    assert [each.request.server_round for each in charges] == [1, 2, 3]
    # What three rounds have spent is what the question costs.
    precision = sum(float(each.request.noise_multiplier) ** -2 for each in charges)
    spent = epsilon_gaussian(precision**-0.5, float(PLAN.delta))
    assert spent == pytest.approx(float(PLAN.epsilon), rel=1e-4)


def test_a_step_without_the_sums_before_it_is_refused_and_costs_nothing(
    region: OpenRegion,
) -> None:
    _, answer = ask(region.engine, header(1), {})
    for wrong in (
        {},
        {ARRAY: answer[ARRAY].astype(np.float64)},
        {ARRAY: np.zeros((2, 6))},
        {ARRAY: np.full((1, 6), np.nan)},
        extended({}, answer) | {"centres": np.zeros((2, 2))},
    ):
        reply, arrays = ask(region.engine, header(2), wrong)
        assert (reply["status"], arrays) == ("refused", {})
    assert len(region.engine.ledger.charges) == 1


def test_a_policy_allows_a_question_by_what_all_its_steps_spend(region: OpenRegion) -> None:
    """40 is more than one step costs."""
    assert epsilon_gaussian(float(MECHANISM.noise_multiplier), float(PLAN.delta)) < 40
    record = region.engine.policy.to_record()
    narrow, wide = (
        RegionPolicy.model_validate(record | {"server_queries": {CLUSTERS: allowed}})
        for allowed in ("40", "60")
    )
    wide.check_plan(PLAN)
    with pytest.raises(PolicyError, match=r"server_queries\.purchase-clusters"):
        narrow.check_plan(PLAN)
