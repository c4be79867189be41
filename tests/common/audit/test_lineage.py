"""Lineage: rounds, models, and what a withdrawal means for them."""

from __future__ import annotations

import json
from pathlib import Path

from common.audit.lineage import (
    MEANING_FORWARD,
    MEANING_NONE,
    MEANING_NOT_UNLEARNING,
    Lineage,
    trace_lineage,
)
from common.audit.participation import participation_of
from common.audit.verified_bundle import open_verified
from common.parameters import arrays_digest
from common.privacy import UNIT_AND_RELATION
from tests.support.answered_bundle import (
    BIAS,
    QUERY_ID,
    RECOMMENDATIONS,
    SCENES,
    TRAINING,
    answering,
)
from tests.support.bundle_builder import DELTA, DISCARDED, EPSILONS, REGIONS, RUN, Federation
from tests.support.customers import CustomersFederation, customer_key

R1, R2 = REGIONS


def lineage_of(federation: Federation, folder: Path, customer: int, region: str = R1) -> Lineage:
    bundle = open_verified(federation.write(folder))
    return trace_lineage(participation_of(bundle, customer_key(region, customer)))


def parts(lineage: Lineage) -> list[tuple[int, bool, str]]:
    return [(part.number, part.member, part.reason) for part in lineage.rounds]


def test_who_withdrew_is_in_what_came_before(tmp_path: Path) -> None:
    federation = CustomersFederation(rounds=3).run()
    found = lineage_of(federation, tmp_path, 2)
    assert parts(found) == [
        (1, True, "consent in force"),
        (2, False, "consent withdrawn"),
        (3, False, "consent withdrawn"),
    ]
    assert [each.record["state"] for each in found.records] == [
        "dpv:ConsentGiven",
        "dpv:ConsentWithdrawn",
    ]
    (model,) = found.models
    assert model.model == arrays_digest(federation.model)
    assert model.rounds == (1,)
    assert model.index == federation.find("server", "model")
    assert found.meaning == (MEANING_FORWARD, MEANING_NOT_UNLEARNING)


def test_the_privacy_statement_is_that_of_the_whole_run(tmp_path: Path) -> None:
    found = lineage_of(CustomersFederation(rounds=3).run(), tmp_path, 2)
    # Noise is drawn for all rounds; who reads the model sees them together.
    assert (found.models[0].epsilon, found.models[0].delta) == (EPSILONS[2], DELTA)
    assert f"ε = {EPSILONS[2]}, δ = {DELTA}" in found.models[0].bound
    assert UNIT_AND_RELATION in found.models[0].bound
    assert "if the region's statements about its noise are true" in found.models[0].bound


def test_who_was_in_no_round_has_no_model(tmp_path: Path) -> None:
    federation = CustomersFederation().run()
    for customer, reason in ((3, "consent refused"), (50, "no consent on record then")):
        found = lineage_of(federation, tmp_path, customer)
        assert parts(found) == [(1, False, reason), (2, False, reason)]
        assert found.models == ()
        assert found.meaning == (MEANING_FORWARD, MEANING_NONE)


def test_a_discarded_round_is_listed_with_its_reason(tmp_path: Path) -> None:
    def withdraw(federation: Federation, region: str, number: int) -> None:
        if (region, number) == (R1, 2):
            federation.consent(R1, 1, "dpv:ConsentWithdrawn")

    federation = CustomersFederation(
        rounds=3, quorum=1, withdrawal_in_round="discard", in_round=withdraw
    ).run()
    found = lineage_of(federation, tmp_path, 1)
    assert parts(found) == [
        (1, True, "consent in force"),
        (2, False, f"the region's data took no part ({DISCARDED})"),
        (3, False, "consent withdrawn"),
    ]
    assert found.rounds[1].index is None
    assert found.models[0].rounds == (1,)
    # The other region's customers were in all of it.
    assert [part.member for part in lineage_of(federation, tmp_path, 1, R2).rounds] == [True] * 3


def test_an_update_that_the_server_did_not_use_is_in_no_model(tmp_path: Path) -> None:
    def alter(party: str, record: dict[str, object]) -> None:
        if record["v"] == "fedpref-aggregate/1" and record["round"] == 1:
            record["regions"] = [p for p in record["regions"] if p["region"] != R1]
            record["refused"] = [{"region": R1, "reason": "too-late"}]

    federation = CustomersFederation(quorum=1, alter=alter).run()
    found = lineage_of(federation, tmp_path, 2)
    assert [(part.number, part.member, part.used) for part in found.rounds] == [
        (1, True, False),
        (2, False, True),
    ]
    assert found.models == ()


def test_as_json(tmp_path: Path) -> None:
    found = lineage_of(CustomersFederation().run(), tmp_path, 2)
    record = json.loads(json.dumps(found.to_record()))
    assert record["v"] == "fedpref-lineage/2"
    assert record["answers"] == []
    assert record["sid"] == customer_key(R1, 2).sid
    assert [each["training"] for each in record["records"]] == [True, False]
    assert [each["member"] for each in record["rounds"]] == [True, False]
    assert record["rounds"][0]["run"] == RUN
    assert record["models"][0]["rounds"] == [1]
    assert record["models"][0]["bound"] in found.models[0].bound
    assert list(found.meaning) == record["meaning"]


def test_answers_to_queries_are_part_of_it(tmp_path: Path) -> None:
    federation = answering().answer_all()
    first, second = (lineage_of(federation, tmp_path, customer).to_record() for customer in (0, 2))
    places = [federation.find(R1, "answer", number) for number in (0, 1)]
    for record, member, reason in (
        (first, True, "consent in force"),
        (second, False, "consent withdrawn"),
    ):
        assert record["answers"] == [
            {
                "query": QUERY_ID,
                "mechanism": name,
                "entry": place,
                "purposes": [RECOMMENDATIONS, TRAINING],
                "member": member,
                "reason": reason,
            }
            for name, place in zip((SCENES, BIAS), places, strict=True)
        ]
