"""A question's round in the engine: the order, the refusals, and the guard before the door."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.analytics import askable
from client.analytics.purchases import category_customers
from client.consent_service.participation import participation
from client.consent_service.registrar import Choice
from client.data.tables.declaration import declaration_file
from client.engine import round_release
from client.engine.policy import RegionPolicy
from client.engine.policy_desk import sign_policy
from client.engine.preparation import RegionData
from client.engine.sealed_rounds import SealedRounds
from client.training.noise import SeededNoise, SystemNoise
from common.analytics.further_questions import NPS, RETURNS
from common.analytics.purchase_questions import CATEGORIES, RECENCY, REPEATS
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.consent import FEDERATED_ANALYTICS, FEDERATED_TRAINING
from common.envelope import Envelope
from common.errors import ConsentError, InputError, PolicyError
from common.noisy_grid import NoisyGrid
from common.parameters import arrays_digest, snap_to_grid
from common.plan import RunPlan
from simulations.provision import OpenRegion, RegionSetUp, open_region
from simulations.run_folder import RunFolder
from tests.support.asked_federation import asked_plan, coarsely, make_asked
from tests.support.cosigning import ask, publish
from tests.support.small_federation import home_of

Federation = tuple[RunFolder, RunPlan, list[RegionSetUp]]
Header = dict[str, JsonValue]
PLAN = asked_plan((CATEGORIES, REPEATS), regions=["region-1"], quorum=1)
DISCARD = asked_plan((CATEGORIES, REPEATS), regions=["region-1"], quorum=1, run_id="run-2")


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_asked(tmp_path_factory.mktemp("asked") / "run", PLAN)


@pytest.fixture
def region(provisioned: Federation, tmp_path: Path) -> Iterator[OpenRegion]:
    folder, _, set_ups = provisioned
    shutil.copytree(folder.root, tmp_path / "run", symlinks=True)
    with open_region(home_of(RunFolder(tmp_path / "run")), set_ups[0]) as opened:
        yield opened


@pytest.fixture(scope="module")
def discarding(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    root = tmp_path_factory.mktemp("discarding") / "run"
    return make_asked(root, DISCARD, withdrawal_in_round="discard")


def header(number: int = 1, of: RunPlan = PLAN, **changes: JsonValue) -> Header:
    request: Header = {
        "run": of.run_id,
        "round": number,
        "attempt": 1,
        "mechanism": of.mechanism_of(number).name,
        "plan": of.digest,
        "cosignatures": [],
    }
    return request | changes


def kinds(log: AuditLog) -> list[str]:
    return [Envelope.decode(data).kind for _, data in log.entries()]


def sums(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: each.astype(np.float64) for name, each in arrays.items()}


def test_a_question_is_charged_sealed_and_logged_as_a_round(region: OpenRegion) -> None:
    before = region.engine.log.size
    reply, arrays = ask(region.engine, header(), {})
    assert reply["status"] == "ok"
    assert kinds(region.engine.log)[before:] == ["charge", "round", "release"]
    assert set(arrays) == {"category_customers"}
    (charge,) = region.engine.ledger.charges
    assert (charge.request.purpose, charge.request.mechanism) == (FEDERATED_ANALYTICS, CATEGORIES)
    (_, entry, _) = [Envelope.decode(d).record() for _, d in region.engine.log.entries(before)]
    assert entry["update"] == arrays_digest(arrays)


def test_a_repeated_request_gets_the_same_answer_and_no_second_charge(region: OpenRegion) -> None:
    _, first = ask(region.engine, header(), {})
    _, second = ask(region.engine, header(), {})
    np.testing.assert_array_equal(first["category_customers"], second["category_customers"])
    assert len(region.engine.ledger.charges) == 1


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_zeros_of_a_coarse_grid_are_noise_and_refused_where_nobody_told(
    told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """84 cells, most of them empty, on the coarsest grid: some eight are rounded to zero."""
    if not told:
        monkeypatch.setattr(NoisyGrid, "most_zero_rows", lambda *_: 0)
    plan = coarsely(asked_plan((RECENCY,), regions=["region-1"], quorum=1))
    folder, _, set_ups = make_asked(tmp_path / "run", plan)
    with open_region(home_of(folder), set_ups[0], noise=SeededNoise("coarse")) as region:
        reply, arrays = ask(region.engine, header(of=plan), {})
    if told:
        assert reply["status"] == "ok"
        assert (arrays["recency_cuts"] == 0).sum() > 2
    else:
        assert (reply["status"], arrays) == ("refused", {})


def test_the_next_question_takes_the_sums_before_it_and_nothing_else(region: OpenRegion) -> None:
    _, first = ask(region.engine, header(), {})
    for wrong in (
        {},
        first,
        {"category_customers": np.zeros(3)},
        {"category_customers": np.full(4, np.nan)},
        sums(first) | {"region-2/category_customers": np.zeros(4)},
    ):
        reply, arrays = ask(region.engine, header(2), wrong)
        assert (reply["status"], arrays) == ("refused", {})
    assert len(region.engine.ledger.charges) == 1
    reply, arrays = ask(region.engine, header(2), sums(first))
    assert reply["status"] == "ok"
    assert set(arrays) == {"repeat_purchases"}


def test_what_was_not_permitted_is_not_answered(region: OpenRegion) -> None:
    for changes in (
        {"mechanism": REPEATS},
        {"mechanism": "purchase-scenes"},
        {"mechanism": "popularity"},
        {"round": 3},
        {"plan": "0" * 64},
        {"run": "another"},
    ):
        reply, arrays = region.engine.call("train", header(**changes), {})
        assert (reply["reason"], arrays) == ("not-permitted", {})
    # Nor before the log was published for the round.
    assert region.engine.call("train", header(), {})[1] == {}
    assert region.engine.ledger.charges == ()


def test_consent_to_training_is_none_to_statistics(region: OpenRegion) -> None:
    region.registrar.record(
        [Choice.give(each, {FEDERATED_TRAINING: True}) for each in region.customers]
    )
    with pytest.raises(ConsentError, match="no customer's consent"):
        region.engine.preflight(PLAN)
    assert publish(region.engine, header())["reason"] == "no-consent"
    assert region.engine.ledger.charges == ()


def test_what_a_regions_tables_have_nothing_to_say_to_is_refused_before_a_charge(
    region: OpenRegion,
) -> None:
    plan = asked_plan((NPS, RETURNS), regions=["region-1"], quorum=1)
    home, data = region.engine.home, RegionData(region.engine.home, region.engine.policy)
    with pytest.raises(InputError, match="noise alone: it declares no table feedback"):
        data.statistic(plan, NPS)
    # It is made of the store, which keeps nothing of returns.
    with pytest.raises(InputError, match="noise alone: it declares no table purchases"):
        data.statistic(plan, RETURNS)
    declaration_file(home).write_text(
        '[feedback]\nkind = "files"\npath = "feedback.csv"\n[feedback.columns]\n'
        'customer = "customer"\ntime = "time"\nkind = "kind"\nscore = "score"\n'
    )
    assert data.statistic(plan, NPS).tables == ("feedback",)


def test_what_the_engine_would_answer_otherwise_is_refused_before_a_charge(
    region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        askable, "category_customers", lambda catalogue: category_customers(catalogue, most=1)
    )
    with pytest.raises(PolicyError, match="something else under the name"):
        region.engine.preflight(PLAN)
    reply, arrays = ask(region.engine, header(), {})
    assert (reply["reason"], arrays) == ("not-permitted", {})
    assert region.engine.ledger.charges == ()


def test_who_ends_consent_to_statistics_alone_discards_the_answer(
    discarding: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They still consent to training: endings of that say nothing of it."""
    folder, _, set_ups = discarding
    shutil.copytree(folder.root, tmp_path / "run", symlinks=True)
    with open_region(home_of(RunFolder(tmp_path / "run")), set_ups[0]) as region:
        whole = SealedRounds.log

        def log(self: SealedRounds, *arguments: Any, **named: Any) -> int:
            region.registrar.record([Choice.give(region.customers[0], {FEDERATED_TRAINING: True})])
            return whole(self, *arguments, **named)

        monkeypatch.setattr(SealedRounds, "log", log)
        reply, arrays = ask(region.engine, header(of=DISCARD), {})
        assert (reply["reason"], arrays) == ("discarded-for-withdrawal", {})
        assert "release" not in kinds(region.engine.log)
        assert len(region.engine.ledger.charges) == 1


def test_who_ends_consent_to_training_alone_stays_in_the_answer(
    discarding: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, set_ups = discarding
    shutil.copytree(folder.root, tmp_path / "run", symlinks=True)
    with open_region(home_of(RunFolder(tmp_path / "run")), set_ups[0]) as region:
        whole = SealedRounds.log

        def log(self: SealedRounds, *arguments: Any, **named: Any) -> int:
            region.registrar.record([Choice.give(region.customers[0], {FEDERATED_ANALYTICS: True})])
            return whole(self, *arguments, **named)

        monkeypatch.setattr(SealedRounds, "log", log)
        assert ask(region.engine, header(of=DISCARD), {})[0]["status"] == "ok"


def test_a_customer_is_told_in_which_answers_they_are(region: OpenRegion) -> None:
    only_training, stays = region.customers[:2]
    region.registrar.record([Choice.give(only_training, {FEDERATED_TRAINING: True})])
    ask(region.engine, header(), {})
    region.engine.state.refresh()
    for customer, included in ((only_training, False), (stays, True)):
        history = region.registrar.history(customer)
        (part,) = participation(region.engine.log, region.engine.state, history)
        assert part.included is included


# -- the guard, whatever the engine makes ----------------------------------------------------------


def replaced(monkeypatch: pytest.MonkeyPatch, values: Any) -> None:
    """The engine computes something else for the answer, as a defect would."""
    whole = round_release.answer_release

    def release(*arguments: Any, **named: Any) -> Any:
        return values(whole(*arguments, **named))

    monkeypatch.setattr(round_release, "answer_release", release)


WRONG: dict[str, Any] = {
    "another name": lambda given: {"purchases": given["category_customers"]},
    "more arrays": lambda given: given | {"raw": np.ones(4, np.float32)},
    "another shape": lambda given: {"category_customers": np.ones(5, np.float32)},
    "another type": lambda given: {"category_customers": np.ones(4)},
    "off the grid": lambda given: {"category_customers": np.full(4, 0.3, np.float32)},
    "not finite": lambda given: {"category_customers": np.full(4, np.inf, np.float32)},
    "without noise": lambda given: {"category_customers": np.zeros(4, np.float32)},
}


def test_what_the_plan_does_not_say_leaves_never_leaves(
    region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what, values in WRONG.items():
        with monkeypatch.context() as patch:
            replaced(patch, values)
            reply, arrays = ask(region.engine, header(), {})
            assert (reply["status"], arrays) == ("refused", {}), what
    # Nothing was sealed, so the one charge pays for the answer as it should be.
    assert ask(region.engine, header(), {})[0]["status"] == "ok"
    assert len(region.engine.ledger.charges) == 1


def test_an_answer_beyond_the_bound_never_leaves(
    region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = snap_to_grid(np.full(4, 1e6), -10)
    replaced(monkeypatch, lambda _: {"category_customers": large})
    for _ in range(2):
        reply, arrays = ask(region.engine, header(), {})
        assert (reply["reason"], arrays) == ("egress-refused", {})
    assert len(region.engine.ledger.charges) == 1


def test_an_answer_in_the_place_of_another_is_kept_back(
    region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What leaves must be what was sealed and logged, to the bit."""
    from client.engine.round_training import RoundTraining

    whole = RoundTraining.train

    def train(self: RoundTraining, *arguments: Any) -> Any:
        reply, arrays = whole(self, *arguments)
        noise = SystemNoise().gaussian((4,), 2.0)
        return reply, {name: snap_to_grid(each + noise, -10) for name, each in arrays.items()}

    monkeypatch.setattr(RoundTraining, "train", train)
    reply, arrays = ask(region.engine, header(), {})
    assert (reply["reason"], arrays) == ("egress-refused", {})


@pytest.mark.parametrize(
    ("allowed", "words"),
    [
        (None, "server_queries = category-customers; it allows none"),
        ({REPEATS: "8"}, "server_queries = category-customers"),
        ({CATEGORIES: "8", REPEATS: "1"}, "server_queries.repeat-purchases"),
    ],
    ids=str,
)
def test_a_policy_that_does_not_name_the_question_ends_the_permit(
    allowed: dict[str, str] | None, words: str, provisioned: Federation, tmp_path: Path
) -> None:
    folder, _, set_ups = provisioned
    shutil.copytree(folder.root, tmp_path / "run", symlinks=True)
    home = home_of(RunFolder(tmp_path / "run"))
    with open_region(home, set_ups[0]) as region:
        record = region.engine.policy.to_record()
        del record["server_queries"]
        changed = record if allowed is None else record | {"server_queries": {**allowed}}
        sign_policy(region.engine.home, region.engine.log, RegionPolicy.model_validate(changed))
    with open_region(home, set_ups[0]) as region:
        assert region.engine.call("train", header(), {})[0]["reason"] == "not-permitted"
        with pytest.raises(PolicyError, match=words):
            region.engine.preflight(PLAN)
        assert region.engine.ledger.charges == ()
