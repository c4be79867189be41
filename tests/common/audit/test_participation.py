"""One customer in a bundle: their records, and why each round has them or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.audit import participation
from common.audit.customer_key import CustomerKey
from common.audit.participation import Participation, Standing, participation_of
from common.audit.verified_bundle import open_verified
from common.errors import InputError, VerificationError
from common.timestamps import format_time
from tests.support.answered_bundle import RECOMMENDATIONS, TRAINING, answering
from tests.support.bundle_builder import EPOCH_MS, FEDERATION, REGIONS, RUN, Federation
from tests.support.customers import CustomersFederation, customer_key

R1, R2 = REGIONS
GIVEN, WITHDRAWN = "dpv:ConsentGiven", "dpv:ConsentWithdrawn"


def part_of(federation: Federation, folder: Path, customer: int, region: str = R1) -> Participation:
    bundle = open_verified(federation.write(folder))
    return participation_of(bundle, customer_key(region, customer))


def standings(federation: Federation, folder: Path, customer: int) -> list[Standing]:
    return [each.standing for each in part_of(federation, folder, customer).rounds()]


def test_records_are_found_and_only_their_own(tmp_path: Path) -> None:
    federation = CustomersFederation(customers=300).run()
    for customer in (0, 2, 3, 299):
        part = part_of(federation, tmp_path, customer)
        sid = customer_key(R1, customer).sid
        assert {each.record["sid"] for each in part.records} == {sid}
        assert [each.record["seq"] for each in part.records] == list(
            range(1, 1 + len(part.records))
        )
        assert len(part.records) == (2 if customer % 4 == 2 else 1)
    assert part_of(federation, tmp_path, 300).records == []


@given(st.binary(max_size=20), st.binary(min_size=1, max_size=20), st.binary(max_size=20))
def test_a_needle_is_in_all_base64_of_what_holds_it(
    before: bytes, wanted: bytes, after: bytes
) -> None:
    import base64

    needles = participation._base64_needles(wanted)
    assert any(needle in base64.b64encode(before + wanted + after) for needle in needles)


def test_the_plain_reasons(tmp_path: Path) -> None:
    federation = CustomersFederation().run()
    assert standings(federation, tmp_path, 0) == [Standing.CONSENTED] * 2
    assert standings(federation, tmp_path, 2) == [Standing.CONSENTED, Standing.WITHDRAWN]
    assert standings(federation, tmp_path, 3) == [Standing.REFUSED] * 2
    assert standings(federation, tmp_path, 77) == [Standing.NO_RECORD] * 2


def test_who_joins_late_was_not_in_before(tmp_path: Path) -> None:
    def join(federation: Federation, number: int) -> None:
        if number == 2:
            federation.consent(R1, 8, GIVEN)

    federation = CustomersFederation(before_round=join).run()
    assert standings(federation, tmp_path, 8) == [Standing.NO_RECORD, Standing.CONSENTED]


def test_an_erasure_is_told_from_a_withdrawal(tmp_path: Path) -> None:
    def alter(party: str, record: dict[str, object]) -> None:
        if record["v"] == "fedpref-consent/1" and record["state"] == WITHDRAWN:
            record["method"] = "erasure"

    federation = CustomersFederation(alter=alter).run()
    assert standings(federation, tmp_path, 2) == [Standing.CONSENTED, Standing.ERASED]
    assert part_of(federation, tmp_path, 2).records[-1].erases


def test_consent_to_other_purposes_only_is_not_for_training(tmp_path: Path) -> None:
    only = {"dpv:ProvideProductRecommendations": True}

    class Narrow(CustomersFederation):
        def consent(self, region: str, customer: int, state: str) -> None:
            super().consent(region, customer, state)
            if (region, customer) == (R1, 0):
                self._granted[region].pop(self.sid(region, customer))

    def alter(party: str, record: dict[str, object]) -> None:
        if record["v"] == "fedpref-consent/1" and record["sid"] == customer_key(R1, 0).sid:
            record["purposes"] = only

    federation = Narrow(alter=alter).run()
    assert standings(federation, tmp_path, 0) == [Standing.NOT_FOR_TRAINING] * 2


def test_consent_that_expires_between_rounds(tmp_path: Path) -> None:
    class Expiring(CustomersFederation):
        def eligible(self, region: str, at_ms: int) -> list[str]:
            gone = customer_key(R1, 1).sid if at_ms >= EPOCH_MS + 20_000 else ""
            return [sid for sid in super().eligible(region, at_ms) if sid != gone]

    def alter(party: str, record: dict[str, object]) -> None:
        if record["v"] == "fedpref-consent/1" and record["sid"] == customer_key(R1, 1).sid:
            record["expires"] = format_time(EPOCH_MS + 20_000)

    federation = Expiring(alter=alter, pause_ms=10_000).run()
    assert standings(federation, tmp_path, 1) == [Standing.CONSENTED, Standing.EXPIRED]


@pytest.mark.parametrize(
    ("grace_s", "second"), [(0, Standing.NOTICE_LAPSED), (3600, Standing.CONSENTED)]
)
def test_consent_to_a_superseded_notice_lapses_after_its_grace(
    tmp_path: Path, grace_s: int, second: Standing
) -> None:
    def supersede(federation: Federation, number: int) -> None:
        if number == 2:
            federation.notice(R1)
            federation.consent(R1, 1, GIVEN)

    federation = CustomersFederation(notice_grace_s=grace_s, before_round=supersede).run()
    assert standings(federation, tmp_path, 0) == [Standing.CONSENTED, second]
    # Who was asked anew, and agreed, stays in.
    assert standings(federation, tmp_path, 1) == [Standing.CONSENTED] * 2


def test_rounds_of_one_run_only(tmp_path: Path) -> None:
    part = part_of(CustomersFederation().run(), tmp_path, 0)
    assert len(list(part.rounds(RUN))) == 2
    assert not list(part.rounds("run-2"))


# -- answers to queries ----------------------------------------------------------------------------


def answers(federation: Federation, folder: Path, customer: int) -> list[Standing]:
    return [each.standing for each in part_of(federation, folder, customer).answers()]


def test_answers_are_judged_by_what_their_query_asks_consent_for(tmp_path: Path) -> None:
    federation = answering().answer_all()
    for customer, standing in (
        (0, Standing.CONSENTED),
        (2, Standing.WITHDRAWN),
        (3, Standing.REFUSED),
        (77, Standing.NO_RECORD),
    ):
        assert answers(federation, tmp_path, customer) == [standing] * 2
    (first, _) = part_of(federation, tmp_path, 0).answers()
    assert first.purposes == (RECOMMENDATIONS, TRAINING)
    assert first.entry.index == federation.find(R1, "answer")
    # Another region answered nothing.
    assert not list(part_of(federation, tmp_path, 0, R2).answers())


def test_consent_to_training_alone_is_not_for_a_query(tmp_path: Path) -> None:
    def alter(party: str, record: dict[str, object]) -> None:
        if record["v"] == "fedpref-consent/1" and record["sid"] == customer_key(R1, 1).sid:
            record["purposes"] = {TRAINING: True, RECOMMENDATIONS: False}

    federation = answering(alter)
    federation.counted = (0,)
    federation.answer_all()
    assert answers(federation, tmp_path, 1) == [Standing.NOT_FOR_PURPOSE] * 2
    assert standings(federation, tmp_path, 1) == [Standing.CONSENTED] * 2


def test_an_answer_whose_set_is_another_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = part_of(answering().answer_all(), tmp_path, 0)
    part.records.clear()
    with pytest.raises(VerificationError, match=r"The answer in log .* bound to other customers"):
        list(part.answers())


# -- what does not fit -----------------------------------------------------------------------------


def test_a_reason_that_contradicts_the_tree_is_an_error(tmp_path: Path) -> None:
    part = part_of(CustomersFederation().run(), tmp_path, 0)
    part.records.clear()
    with pytest.raises(VerificationError, match="bound to other customers"):
        list(part.rounds())


def test_a_tree_that_is_not_the_rounds_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = part_of(CustomersFederation().run(), tmp_path, 0)
    eligible = part.replay.consents.eligible
    monkeypatch.setattr(
        part.replay.consents, "eligible", lambda *asked: [*eligible(*asked), bytes(32)]
    )
    with pytest.raises(VerificationError, match="bound to other customers"):
        list(part.rounds())


def test_a_key_of_another_federation_or_region_is_refused(tmp_path: Path) -> None:
    bundle = open_verified(CustomersFederation().run().write(tmp_path))
    with pytest.raises(InputError, match=r"federation other\.example"):
        participation_of(bundle, CustomerKey("other.example", R1, "c", bytes(32)))
    with pytest.raises(InputError, match="region-9"):
        participation_of(bundle, CustomerKey(FEDERATION, "region-9", "c", bytes(32)))
