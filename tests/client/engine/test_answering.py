"""A query's way through the engine: order, crashes at every place, consents, budget, refusals."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.consent_service.registrar import Choice
from client.engine.log_state import DISCARDED, OUTDATED
from client.engine.policy import RegionPolicy
from client.engine.policy_desk import sign_policy
from client.engine.queries import Query
from client.engine.query_desk import QueryDraft, make_query, sign_query
from client.engine.refusals import DiscardedError, OutdatedError
from client.engine.sealed_answers import AnswerStore
from client.engine.service import open_engine
from common import failpoints
from common.audit.log import AuditLog
from common.audit.sparse_merkle import position, sparse_root
from common.catalogue import Catalogue
from common.consent import FEDERATED_TRAINING, RECOMMENDATIONS
from common.envelope import Envelope
from common.errors import BudgetError, PolicyError, StorageError
from common.failpoints import AnswerPoint, Point
from common.parameters import arrays_digest
from common.plan import RunPlan
from common.timestamps import parse_time
from simulations.provision import OpenRegion, RegionSetUp, open_region
from simulations.run_folder import RunFolder
from tests.client.training.test_bounded_sums import Counts
from tests.support.small_federation import N_ITEMS, home_of, make_federation

Federation = tuple[RunFolder, RunPlan, list[RegionSetUp]]
ASKED = [Counts(size=N_ITEMS, name="scenes"), Counts(size=N_ITEMS, name="regional-bias")]


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation") / "run", regions=1, quorum=1)


@pytest.fixture
def federation(provisioned: Federation, tmp_path: Path) -> Federation:
    folder, plan, set_ups = provisioned
    shutil.copytree(folder.root, tmp_path / "run", symlinks=True)
    return RunFolder(tmp_path / "run"), plan, set_ups


@pytest.fixture
def region(federation: Federation) -> Iterator[OpenRegion]:
    folder, _, set_ups = federation
    with open_region(home_of(folder), set_ups[0]) as opened:
        yield opened


@contextmanager
def reopened(federation: Federation) -> Iterator[OpenRegion]:
    folder, _, set_ups = federation
    with open_region(home_of(folder), set_ups[0]) as opened:
        yield opened


def signed(region: OpenRegion, plan: RunPlan, **changes: Any) -> Query:
    options: dict[str, Any] = {
        "statistics": ASKED,
        "epsilon": "1",
        "purpose": RECOMMENDATIONS,
        "also": (FEDERATED_TRAINING,),
        "model": "local-recommender",
        "catalogue": Catalogue.load(region.engine.home.catalogue).digest,
        "start_ms": parse_time(plan.train_from),
        "end_ms": parse_time(plan.train_until),
    }
    query = make_query(
        QueryDraft(**(options | changes)),
        region.engine.policy,
        issued_at_ms=region.engine.queries.now_ms(),
        valid_for_s=3600,
    )
    sign_query(region.engine.home, region.engine.log, query)
    return query


def kinds(log: AuditLog, start: int = 0) -> list[str]:
    return [Envelope.decode(data).kind for _, data in log.entries(start)]


def records(log: AuditLog, kind: str) -> list[dict[str, Any]]:
    envelopes = [Envelope.decode(data) for _, data in log.entries()]
    return [each.record() for each in envelopes if each.kind == kind]


def test_an_answer_is_charged_sealed_and_logged_in_this_order(
    federation: Federation, region: OpenRegion
) -> None:
    query = signed(region, federation[1])
    before = region.engine.log.size
    answers = [region.engine.answer(query.permit_id, each) for each in ASKED]
    assert kinds(region.engine.log, before - 1) == ["query", *["charge", "answer"] * 2]
    for number, (answer, asked) in enumerate(zip(answers, ASKED, strict=True), start=1):
        charge = records(region.engine.log, "charge")[number - 1]
        record = records(region.engine.log, "answer")[number - 1]
        assert record["charge_id"] == charge["charge_id"]
        assert record["permit_id"] == charge["permit_id"] == charge["run"] == query.permit_id
        assert (charge["purpose"], charge["mechanism"]) == (RECOMMENDATIONS, asked.name)
        assert record["values"] == arrays_digest(answer.sealed.arrays)
        assert float(charge["epsilon_run"]) <= 1.0
        ((_, entry),) = region.engine.log.entries(answer.index, answer.index + 1)
        assert entry == answer.sealed.entry


def test_asked_again_it_gives_the_same_values_and_charges_nothing(
    federation: Federation, region: OpenRegion
) -> None:
    query = signed(region, federation[1])
    first = region.engine.answer(query.permit_id, ASKED[0])
    size = region.engine.log.size
    again = region.engine.answer(query.permit_id, ASKED[0])
    np.testing.assert_array_equal(again.sealed.arrays["counts"], first.sealed.arrays["counts"])
    assert (again.index, region.engine.log.size) == (first.index, size)
    assert len(region.engine.ledger.charges) == 1


class KilledError(BaseException):
    """The process ends here."""


@contextmanager
def killed_at(point: failpoints.AnyPoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def kill(at: failpoints.AnyPoint) -> None:
        if at == point:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "hook", kill)
        with pytest.raises(KilledError):
            yield


#: Between two stages; the places within a durable write are tried, too, when there is time.
STAGES = (Point.LEDGER_COMMITTED, AnswerPoint.ANSWER_NOISED, AnswerPoint.ANSWER_SEALED)
WITHIN = (
    AnswerPoint.ANSWER_BEGUN,
    AnswerPoint.ANSWER_CHARGED,
    AnswerPoint.ANSWER_LOGGED,
    Point.LEDGER_ADMITTED,
    Point.LEDGER_WRITTEN,
    Point.LOG_WRITTEN,
    Point.LOG_COMMITTED,
    Point.FILE_OPENED,
    Point.FILE_WRITTEN,
    Point.FILE_SYNCED,
    Point.FILE_RENAMED,
)
POINTS = [
    *(pytest.param(point, id=point.name) for point in STAGES),
    *(pytest.param(point, id=point.name, marks=pytest.mark.slow) for point in WITHIN),
]


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_it_goes_on_with_one_charge_and_one_answer(
    federation: Federation, point: failpoints.AnyPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = federation[1]
    with reopened(federation) as region:
        query = signed(region, plan)
        region.engine.data_quality()  # What is kept of the store is none of a query's.
        with killed_at(point, monkeypatch):
            region.engine.answer(query.permit_id, ASKED[0])
        store = AnswerStore(region.engine.home.queries)
        sealed = store.read(query.run, 1)
    with reopened(federation) as region:
        assert region.engine.queries.open_queries() == [query]
        answer = region.engine.answer(query.permit_id, ASKED[0])
        if sealed is not None:
            # What was fixed before the crash is what comes out: no noise was drawn anew.
            assert answer.sealed.encode() == sealed.encode()
        (charge,) = region.engine.ledger.charges
        assert [each["charge_id"] for each in records(region.engine.log, "charge")] == [
            charge.request.charge_id
        ]
        (record,) = records(region.engine.log, "answer")
        assert record["charge_id"] == charge.request.charge_id


def test_noise_is_never_drawn_twice_for_a_charge_whose_answer_is_gone(
    federation: Federation, region: OpenRegion
) -> None:
    query = signed(region, federation[1])
    region.engine.answer(query.permit_id, ASKED[0])
    AnswerStore(region.engine.home.queries).remove(query.run, 1)
    with pytest.raises(StorageError, match="is gone; the log has it"):
        region.engine.answer(query.permit_id, ASKED[0])
    assert len(records(region.engine.log, "answer")) == 1


def test_a_damaged_answer_is_not_replaced(federation: Federation, region: OpenRegion) -> None:
    query = signed(region, federation[1])
    region.engine.answer(query.permit_id, ASKED[0])
    path = AnswerStore(region.engine.home.queries).path(query.run, 1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError, match="damaged"):
        region.engine.answer(query.permit_id, ASKED[0])


def test_a_charge_pays_for_nothing_but_what_it_was_made_for(
    federation: Federation, region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = signed(region, federation[1])
    with killed_at(AnswerPoint.ANSWER_CHARGED, monkeypatch):
        region.engine.answer(query.permit_id, ASKED[0])
    charging, part = region.engine.queries._parts.charging, query.parts[0]
    for name, other in (
        ("mechanism", replace(part, name="others")),
        ("noise_multiplier", replace(part, noise_multiplier="1.5")),
        ("clipping_norm", replace(part, clipping_norm="2")),
    ):
        with pytest.raises(PolicyError, match=f"was charged with another {name}"):
            charging.charge_query(query, other)
    # Its run is a query's id; a ledger is only a file.
    (found,) = region.engine.ledger.charges
    another = replace(found, request=replace(found.request, permit_id="another"))
    monkeypatch.setattr(region.engine.ledger, "find", lambda *_: another)
    with pytest.raises(PolicyError, match="was charged with another permit_id"):
        charging.charge_query(query, part)
    monkeypatch.undo()
    region.engine.answer(query.permit_id, ASKED[0])
    assert len(region.engine.ledger.charges) == 1


# -- consents --------------------------------------------------------------------------------------


def counted(region: OpenRegion, record: dict[str, Any]) -> str:
    """The root of the customers who consent to both now, under an answer's nonce."""
    consents, grace_s = region.engine.state.consents, region.engine.policy.notice_grace_s
    at_ms = parse_time(record["included"]["at"])
    both = frozenset.intersection(
        *(
            consents.eligible(purpose, at_ms, notice_grace_s=grace_s)
            for purpose in (FEDERATED_TRAINING, RECOMMENDATIONS)
        )
    )
    nonce = bytes.fromhex(record["included"]["nonce"])
    return sparse_root(position(nonce, bytes.fromhex(sid)) for sid in both).hex()


def test_only_who_consents_to_both_is_counted(federation: Federation, region: OpenRegion) -> None:
    one, other = [each for each in region.customers if region.registrar.consents(each)][:2]
    region.registrar.record(
        [
            Choice.give(one, {FEDERATED_TRAINING: True}),
            Choice.give(other, {RECOMMENDATIONS: True}),
        ]
    )
    query = signed(region, federation[1])
    region.engine.answer(query.permit_id, ASKED[0])
    (record,) = records(region.engine.log, "answer")
    assert record["included"]["root"] == counted(region, record)
    consents, now_ms = region.engine.state.consents, region.engine.queries.now_ms()
    for customer, purpose in ((one, FEDERATED_TRAINING), (other, RECOMMENDATIONS)):
        sid = region.engine.subjects.pseudonyms()[customer]
        assert sid in consents.eligible(purpose, now_ms)


def test_someone_who_withdraws_before_it_is_logged_discards_it_if_the_policy_says_so(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_force(federation, withdrawal_in_round="discard")
    with reopened(federation) as region:
        query = signed(region, federation[1])
        with killed_at(AnswerPoint.ANSWER_SEALED, monkeypatch):
            region.engine.answer(query.permit_id, ASKED[0])
    with reopened(federation) as region:
        leaving = next(each for each in region.customers if region.registrar.consents(each))
        region.registrar.record([Choice.withdraw(leaving)])
        with pytest.raises(DiscardedError):
            region.engine.answer(query.permit_id, ASKED[0])
        assert records(region.engine.log, "incident")[-1]["reason"] == DISCARDED
        assert records(region.engine.log, "answer") == []
        assert AnswerStore(region.engine.home.queries).read(query.run, 1) is None
        with pytest.raises(PolicyError, match="was given up"):
            region.engine.answer(query.permit_id, ASKED[0])
        assert region.engine.queries.open_queries() == []
        # Its other part is another mechanism, on who consents now.
        region.engine.answer(query.permit_id, ASKED[1])
        assert len(region.engine.ledger.charges) == 2


def test_what_was_sealed_too_long_ago_is_given_up(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, _ = federation
    with reopened(federation) as region:
        query = signed(region, plan)
        with killed_at(AnswerPoint.ANSWER_SEALED, monkeypatch):
            region.engine.answer(query.permit_id, ASKED[0])
        later_ms = region.engine.queries.now_ms() + 601_000
    with open_engine(home_of(folder), clock_ms=lambda: later_ms) as engine:
        with pytest.raises(OutdatedError):
            engine.answer(query.permit_id, ASKED[0])
        assert records(engine.log, "incident")[-1]["reason"] == OUTDATED


# -- policy and budget -----------------------------------------------------------------------------


def in_force(federation: Federation, **changes: Any) -> None:
    """Puts a changed policy in force."""
    home = home_of(federation[0])
    with reopened(federation) as region:
        policy = RegionPolicy.model_validate({**region.engine.policy.to_record(), **changes})
        sign_policy(home, region.engine.log, policy)


def test_a_query_ends_with_the_policy_that_allowed_it(federation: Federation) -> None:
    with reopened(federation) as region:
        query = signed(region, federation[1])
    in_force(federation, queries={"regional-bias": "1"})
    with reopened(federation) as region:
        with pytest.raises(PolicyError, match="queries = scenes"):
            region.engine.answer(query.permit_id, ASKED[0])
        assert region.engine.ledger.charges == ()


def test_the_budget_pays_for_a_whole_query_or_for_none_of_it(federation: Federation) -> None:
    in_force(federation, epsilon_cap_per_year="0.9")
    with reopened(federation) as region:
        query = signed(region, federation[1])
        with pytest.raises(BudgetError, match="cannot pay"):
            region.engine.answer(query.permit_id, ASKED[0])
        assert kinds(region.engine.log)[-1] == "query"


def test_it_is_booked_on_its_own_purpose_and_model(federation: Federation) -> None:
    in_force(federation, epsilon_caps_per_purpose={FEDERATED_TRAINING: "8"})
    with reopened(federation) as region:
        query = signed(region, federation[1])
        with pytest.raises(BudgetError, match="for purpose dpv:ProvideProductRecommendations"):
            region.engine.answer(query.permit_id, ASKED[0])


def test_another_catalogue_is_refused_before_anything_is_paid(
    federation: Federation, region: OpenRegion
) -> None:
    query = signed(region, federation[1], catalogue="c" * 64)
    with pytest.raises(PolicyError, match="query's catalogue"):
        region.engine.answer(query.permit_id, ASKED[0])
    assert region.engine.ledger.charges == ()
    assert kinds(region.engine.log)[-1] == "query"


def test_what_is_asked_must_be_what_was_signed(federation: Federation, region: OpenRegion) -> None:
    query = signed(region, federation[1])
    for other in (
        replace(ASKED[0], size=N_ITEMS - 1),
        replace(ASKED[0], parameters={"zone": "UTC"}),
    ):
        with pytest.raises(PolicyError, match="is not the scenes that the query"):
            region.engine.answer(query.permit_id, other)
    with pytest.raises(PolicyError, match="does not ask"):
        region.engine.answer(query.permit_id, replace(ASKED[0], name="also-bought"))
    with pytest.raises(PolicyError, match="there is no query"):
        region.engine.answer("none", ASKED[0])
    assert region.engine.ledger.charges == ()


def test_a_query_that_somebody_altered_is_refused(
    federation: Federation, region: OpenRegion
) -> None:
    query = signed(region, federation[1])
    path = AnswerStore(region.engine.home.queries).query_path(query.permit_id)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"sig":"', b'"sig":"A', 1))
    with pytest.raises(PolicyError, match="does not verify"):
        region.engine.answer(query.permit_id, ASKED[0])


def test_the_relay_has_no_way_to_ask(region: OpenRegion) -> None:
    for method in ("answer", "query"):
        reply, arrays = region.engine.call(method, {}, {})
        assert (reply["status"], arrays) == ("refused", {})


def test_what_was_answered_is_found_again_and_nothing_else(
    federation: Federation, region: OpenRegion
) -> None:
    query = signed(region, federation[1])
    given = region.engine.answer(query.permit_id, ASKED[0])
    found = region.engine.queries.answered(query.permit_id, "scenes")
    assert found is not None
    assert found.index == given.index
    assert region.engine.queries.answered(query.permit_id, "regional-bias") is None
