"""Receipts against a bundle: withheld withdrawals, cut and forked logs (A8)."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.audit import receipt_history
from common.audit.participation import Standing
from common.audit.receipt import FirstExcluded, first_round_above
from common.audit.receipt_history import ReceiptHistory, check_receipt_history
from common.audit.verified_bundle import VerifiedBundle, open_verified
from common.audit.verify import verify_bundle
from common.errors import FedprefError, InputError, VerificationError
from tests.support.answered_bundle import RECOMMENDATIONS, TRAINING, answering
from tests.support.bundle_builder import REGIONS, RUN, Federation, record_of
from tests.support.customers import CustomersFederation, ListedLog, customer_key, receipt_of

R1, R2 = REGIONS
GIVEN = "dpv:ConsentGiven"


@pytest.fixture(scope="module")
def honest() -> Federation:
    return CustomersFederation(rounds=3).run()


@pytest.fixture(scope="module")
def bundle(honest: Federation, tmp_path_factory: pytest.TempPathFactory) -> VerifiedBundle:
    return open_verified(honest.write(tmp_path_factory.mktemp("honest")))


@pytest.fixture(scope="module")
def withdrawal(honest: Federation) -> int:
    return honest.find(R1, "consent", honest.customers)


def check(data: bytes, federation: Federation, folder: Path) -> ReceiptHistory:
    run = federation.write(folder)
    # The bundle by itself is sound: only the receipt gives the operator away.
    verdict = verify_bundle(run)
    assert verdict.verified, verdict.failures
    return check_receipt_history(data, open_verified(run))


def test_an_honest_bundle_bears_a_receipt_out(
    honest: Federation, bundle: VerifiedBundle, withdrawal: int
) -> None:
    first = first_round_above(ListedLog(honest.logs[R1]), withdrawal)
    for size in (withdrawal + 1, len(honest.logs[R1])):
        data = receipt_of(honest, R1, withdrawal, size=size, first_excluded=first)
        history = check_receipt_history(data, bundle)
        assert history.size == len(honest.logs[R1])
        found = [(each.entry.number("round"), each.standing) for each in history.rounds]
        assert found == [(2, Standing.WITHDRAWN), (3, Standing.WITHDRAWN)]


def test_every_customers_receipts_hold(honest: Federation, bundle: VerifiedBundle) -> None:
    for region in REGIONS:
        for number in range(5):
            check_receipt_history(
                receipt_of(honest, region, honest.find(region, "consent", number)), bundle
            )


def test_who_consents_anew_is_in_again(tmp_path: Path) -> None:
    def return_to(federation: Federation, number: int) -> None:
        if number == 3:
            federation.consent(R1, 2, GIVEN)

    federation = CustomersFederation(rounds=3, before_round=return_to).run()
    index = federation.find(R1, "consent", federation.customers)
    history = check(receipt_of(federation, R1, index), federation, tmp_path)
    assert [each.member for each in history.rounds] == [False, True]


# -- A8: a withheld withdrawal ---------------------------------------------------------------------


def test_a8_a_withdrawal_that_was_never_logged_shows_against_the_receipt(
    honest: Federation, withdrawal: int, tmp_path: Path
) -> None:
    data = receipt_of(honest, R1, withdrawal)

    class Withholding(CustomersFederation):
        def consent(self, region: str, customer: int, state: str) -> None:
            if (region, state) != (R1, "dpv:ConsentWithdrawn"):
                super().consent(region, customer, state)

    dishonest = Withholding(rounds=3).run()
    with pytest.raises(VerificationError, match=f"log {R1}, entry {withdrawal}") as caught:
        check(data, dishonest, tmp_path)
    assert "holds another entry in its place" in caught.value.message
    assert caught.value.exit_code == 8


def test_a8_a_log_that_ends_before_the_withdrawal_shows(
    honest: Federation, withdrawal: int, tmp_path: Path
) -> None:
    data = receipt_of(honest, R1, withdrawal)

    class Stopped(CustomersFederation):
        def consent(self, region: str, customer: int, state: str) -> None:
            if state != "dpv:ConsentWithdrawn":
                super().consent(region, customer, state)

    with pytest.raises(VerificationError, match=f"log {R1}, entry {withdrawal}") as caught:
        check(data, Stopped(rounds=1).run(), tmp_path)
    assert "ends before it" in caught.value.message


def test_a8_a_log_cut_after_the_withdrawal_shows(
    honest: Federation, withdrawal: int, tmp_path: Path
) -> None:
    data = receipt_of(honest, R1, withdrawal)
    with pytest.raises(VerificationError, match="cut short, or the bundle is older") as caught:
        check(data, CustomersFederation(rounds=2).run(), tmp_path)
    assert f"log {R1}, entry {withdrawal}" in caught.value.message


def test_a8_a_forked_log_shows(honest: Federation, withdrawal: int, tmp_path: Path) -> None:
    data = receipt_of(honest, R1, withdrawal)

    def alter(party: str, record: dict[str, object]) -> None:
        if party == R1 and record["v"] == "fedpref-policy/1":
            record["in_force_from"] = "2026-01-01T00:00:00.001Z"

    with pytest.raises(VerificationError, match="not what the region signed") as caught:
        check(data, CustomersFederation(rounds=3, alter=alter).run(), tmp_path)
    assert f"log {R1}, entry {withdrawal}" in caught.value.message


def test_a_bundle_that_does_not_verify_proves_nothing(
    honest: Federation, withdrawal: int, tmp_path: Path
) -> None:
    broken = honest.copy()
    broken.resign(R1, withdrawal, lambda record: record.update(state=GIVEN))
    with pytest.raises(VerificationError, match="does not verify") as caught:
        open_verified(broken.write(tmp_path))
    assert f"log {R1}, entry" in caught.value.message


def test_a_round_that_includes_who_withdrew_is_named(
    honest: Federation, bundle: VerifiedBundle, withdrawal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No bundle that verifies has such a round: the second lock is tried without the first.
    part = receipt_history.Participation(bundle, R1, customer_key(R1, 0).sid)
    members = list(part.rounds())
    monkeypatch.setattr(receipt_history.Participation, "rounds", lambda self: iter(members))
    place = members[1].entry.index
    with pytest.raises(VerificationError, match=f"entry {place}") as caught:
        check_receipt_history(receipt_of(honest, R1, withdrawal), bundle)
    assert f"log {R1}, entry {withdrawal}" in caught.value.message


# -- answers to queries ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answered() -> Federation:
    return answering().answer_all()


@pytest.fixture(scope="module")
def of_answers(answered: Federation, tmp_path_factory: pytest.TempPathFactory) -> VerifiedBundle:
    return open_verified(answered.write(tmp_path_factory.mktemp("answered")))


def test_answers_after_a_withdrawal_leave_the_customer_out(
    answered: Federation, of_answers: VerifiedBundle
) -> None:
    index = answered.find(R1, "consent", answered.customers)
    history = check_receipt_history(receipt_of(answered, R1, index), of_answers)
    assert [each.standing for each in history.answers] == [Standing.WITHDRAWN] * 2
    first = check_receipt_history(
        receipt_of(answered, R1, answered.find(R1, "consent")), of_answers
    )
    assert [each.member for each in first.answers] == [True, True]


def test_an_answer_that_includes_who_withdrew_is_named(
    answered: Federation, of_answers: VerifiedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = receipt_history.Participation(of_answers, R1, customer_key(R1, 0).sid)
    members = list(part.answers())
    monkeypatch.setattr(receipt_history.Participation, "answers", lambda self: iter(members))
    index = answered.find(R1, "consent", answered.customers)
    with pytest.raises(VerificationError, match=f"entry {members[0].entry.index}") as caught:
        check_receipt_history(receipt_of(answered, R1, index), of_answers)
    assert caught.value.message.startswith("Part 1 of query")


def test_a_record_that_leaves_recommendations_out_excludes_from_answers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alter(party: str, record: dict[str, object]) -> None:
        if record["v"] == "fedpref-consent/1" and record["sid"] == customer_key(R1, 1).sid:
            record["purposes"] = {TRAINING: True, RECOMMENDATIONS: False}

    federation = answering(alter)
    federation.counted = (0,)
    federation.answer_all()
    receipt = receipt_of(federation, R1, federation.find(R1, "consent", 1))
    opened = open_verified(federation.write(tmp_path))
    history = check_receipt_history(receipt, opened)
    assert [each.member for each in history.rounds] == [True, True]
    assert [each.standing for each in history.answers] == [Standing.NOT_FOR_PURPOSE] * 2
    members = list(receipt_history.Participation(opened, R1, customer_key(R1, 0).sid).answers())
    monkeypatch.setattr(receipt_history.Participation, "answers", lambda self: iter(members))
    with pytest.raises(VerificationError, match="Part 1 of query"):
        check_receipt_history(receipt, opened)


def test_another_first_excluded_round_is_refused(
    honest: Federation, bundle: VerifiedBundle, withdrawal: int
) -> None:
    true = first_round_above(ListedLog(honest.logs[R1]), withdrawal)
    assert true is not None
    for named in (
        FirstExcluded(RUN, 3, true.consent_size),
        FirstExcluded(RUN, 2, true.consent_size + 1),
        FirstExcluded("run-2", 2, true.consent_size),
    ):
        data = receipt_of(honest, R1, withdrawal, first_excluded=named)
        with pytest.raises(VerificationError, match=f"entry {withdrawal}"):
            check_receipt_history(data, bundle)


def test_a_round_named_before_there_was_one_is_refused(
    honest: Federation, withdrawal: int, tmp_path: Path
) -> None:
    federation = CustomersFederation(rounds=1).run()
    index = federation.find(R1, "consent", federation.customers)
    data = receipt_of(federation, R1, index, first_excluded=FirstExcluded(RUN, 2, index + 1))
    with pytest.raises(VerificationError, match="another, or none"):
        check(data, federation, tmp_path)


def test_a_bundle_without_that_regions_log_cannot_answer(
    honest: Federation, bundle: VerifiedBundle
) -> None:
    with pytest.raises(InputError, match="does not hold the consents of region-9"):
        bundle.replay("region-9")
    with pytest.raises(FedprefError):
        bundle.entry(R1, len(honest.logs[R1]))
    assert bundle.entry(R1, 3) == honest.logs[R1][3]
    assert record_of(bundle.entry(R1, 3))["v"] == "fedpref-consent/1"
