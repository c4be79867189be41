"""Receipts by themselves: made from a log, exact both ways, and no field that can be changed."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import canonical_json
from common.audit.receipt import (
    MAX_RECEIPT_BYTES,
    CheckedReceipt,
    FirstExcluded,
    Receipt,
    check_receipt,
    first_round_above,
    make_receipt,
)
from common.audit.receipt_text import receipt_language
from common.errors import FedprefError, FormatError, InputError, VerificationError
from tests.support.bundle_builder import FEDERATION, REGIONS, RUN, Federation, record_of
from tests.support.customers import (
    CustomersFederation,
    ListedLog,
    customer_key,
    keys_of,
    receipt_of,
)

R1, R2 = REGIONS


@pytest.fixture(scope="module")
def honest() -> Federation:
    return CustomersFederation().run()


@pytest.fixture(scope="module")
def withdrawal(honest: Federation) -> int:
    return honest.find(R1, "consent", honest.customers)


def check(federation: Federation, data: bytes) -> CheckedReceipt:
    return check_receipt(data, keys_of(federation))


def test_a_withdrawal_receipt_states_its_rule_and_first_excluded_round(
    honest: Federation, withdrawal: int
) -> None:
    first = first_round_above(ListedLog(honest.logs[R1]), withdrawal)
    size = record_of(honest.logs[R1][honest.find(R1, "round", 1)])["consent"]["size"]
    assert first == FirstExcluded(RUN, 2, size)
    checked = check(honest, receipt_of(honest, R1, withdrawal, first_excluded=first))
    assert checked.ends_consent
    assert checked.receipt.first_excluded == first
    assert checked.logged.record["sid"] == customer_key(R1, 2).sid
    assert checked.receipt.rule.startswith(
        f"Every round whose consent size is above this entry's index ({withdrawal}) excludes"
    )
    assert "cannot take it back unnoticed" in checked.strength


def test_before_the_next_round_none_is_named(honest: Federation, withdrawal: int) -> None:
    log = honest.logs[R1][: withdrawal + 1]
    assert first_round_above(ListedLog(log), withdrawal) is None
    assert first_round_above(ListedLog(honest.logs[R1]), len(honest.logs[R1]) - 1) is None
    data = receipt_of(honest, R1, withdrawal, size=withdrawal + 1)
    assert check(honest, data).receipt.first_excluded is None


def test_a_grants_receipt_says_what_it_allows(honest: Federation) -> None:
    index = honest.find(R1, "consent")
    checked = check(honest, receipt_of(honest, R1, index))
    assert not checked.ends_consent
    assert f"No round whose consent size is {index} or less" in checked.receipt.rule


def test_a_refusals_receipt_ends_consent(honest: Federation) -> None:
    assert check(honest, receipt_of(honest, R1, honest.find(R1, "consent", 3))).ends_consent


def test_too_few_cosignatures_are_told_and_are_no_fault(
    honest: Federation, withdrawal: int
) -> None:
    size = len(honest.logs[R1])
    for names in ([], ["server"]):
        note = honest.cosign(R1, honest.checkpoint(R1, size), names)
        checked = check(honest, receipt_of(honest, R1, withdrawal, note=note))
        assert not checked.logged.witnessed
        assert "cannot deny it" in checked.strength
        assert "not shown yet" in checked.strength
    chinese = check(honest, receipt_of(honest, R1, withdrawal, note=note, lang="zh-Hans-CN"))
    assert chinese.receipt.lang == "zh"
    assert "不能否认" in chinese.strength


def test_where_nobody_need_cosign_nobody_is_said_to_have() -> None:
    alone = CustomersFederation(witness_quorum=0, cosigners=()).run()
    checked = check(alone, receipt_of(alone, R1, alone.find(R1, "consent")))
    assert checked.logged.witnessed
    assert "not shown yet" in checked.strength


@pytest.mark.parametrize(
    ("lang", "spoken"), [("zh", "zh"), ("zh-CN", "zh"), ("de", "en"), ("zha", "en"), ("en", "en")]
)
def test_receipts_speak_english_and_chinese(lang: str, spoken: str) -> None:
    assert receipt_language(lang) == spoken


@given(
    run=st.text(st.characters(categories=["Ll", "Nd"]), min_size=1, max_size=20),
    number=st.integers(1, 2**53 - 1),
    size=st.integers(1, 2**53 - 1),
    lang=st.sampled_from(["en", "zh"]),
)
def test_what_is_written_reads_back(
    honest: Federation, withdrawal: int, run: str, number: int, size: int, lang: str
) -> None:
    plain = Receipt.parse(receipt_of(honest, R1, withdrawal, lang=lang))
    named = Receipt(
        **{**vars(plain), "first_excluded": FirstExcluded(run, number, size)},
    )
    assert Receipt.parse(named.encode()) == named


# -- tampering -------------------------------------------------------------------------------------


def changed(data: bytes, **fields: object) -> bytes:
    return canonical_json.encode({**json.loads(data), **fields}, max_bytes=MAX_RECEIPT_BYTES)


def test_no_field_can_be_changed(honest: Federation, withdrawal: int) -> None:
    first = first_round_above(ListedLog(honest.logs[R1]), withdrawal)
    data = receipt_of(honest, R1, withdrawal, first_excluded=first)
    check(honest, data)
    record = json.loads(data)
    other = json.loads(receipt_of(honest, R2, honest.find(R2, "consent")))
    grant = json.loads(receipt_of(honest, R1, honest.find(R1, "consent")))
    attempts: list[dict[str, object]] = [
        {"v": "fedpref-receipt/2"},
        {"federation": "other.example"},
        {"region": R2},
        {"region": "Region 1"},
        {"entry": other["entry"]},
        {"entry": grant["entry"]},
        {"entry": record["entry"] + "="},
        {"proof": other["proof"]},
        {"proof": grant["proof"]},
        {"proof": record["proof"] + "\n"},
        {"proof": 7},
        {"rule": grant["rule"]},
        {"rule": record["rule"].replace(str(withdrawal), str(withdrawal - 1))},
        {"rule": None},
        {"lang": "zh"},
        {"lang": "de"},
        {"first_excluded": {**record["first_excluded"], "consent_size": withdrawal}},
        {"first_excluded": {**record["first_excluded"], "round": 0}},
        {"first_excluded": {**record["first_excluded"], "more": 1}},
        {"first_excluded": []},
        {"issued_at": "yesterday"},
        {"more": 1},
    ]
    for attempt in attempts:
        with pytest.raises(FedprefError) as caught:
            check(honest, changed(data, **attempt))
        assert caught.value.exit_code in (3, 8), attempt
    for name in record:
        without = {key: value for key, value in record.items() if key != name}
        with pytest.raises(FormatError):
            check(honest, canonical_json.encode(without, max_bytes=MAX_RECEIPT_BYTES))


def test_no_bit_of_entry_or_proof_can_be_flipped(honest: Federation, withdrawal: int) -> None:
    data = receipt_of(honest, R1, withdrawal)
    entry = base64.b64decode(json.loads(data)["entry"])
    for place in range(0, len(entry), 7):
        flipped = bytearray(entry)
        flipped[place] ^= 1
        with pytest.raises(FedprefError):
            check(honest, changed(data, entry=base64.b64encode(flipped).decode()))


def test_a_fault_names_the_entry(honest: Federation, withdrawal: int) -> None:
    data = receipt_of(honest, R1, withdrawal)
    grant = json.loads(receipt_of(honest, R1, honest.find(R1, "consent")))
    with pytest.raises(VerificationError, match=f"log {R1}, entry {withdrawal}"):
        check(honest, changed(data, entry=grant["entry"]))


def test_a_grant_excludes_from_no_round(honest: Federation) -> None:
    data = receipt_of(honest, R1, honest.find(R1, "consent"))
    excluded = {"run": RUN, "round": 1, "consent_size": 100}
    with pytest.raises(VerificationError, match="does not exclude"):
        check(honest, changed(data, first_excluded=excluded))


def test_another_federations_keys_do_not_vouch(honest: Federation, withdrawal: int) -> None:
    stranger = CustomersFederation()
    stranger.roots = stranger.roots[::-1]
    stranger.keys[R1, "consent"] = stranger.keys[R2, "consent"]
    del stranger.keys[R2, "consent"]
    stranger.publish_registry()
    with pytest.raises(VerificationError, match="may not sign"):
        check(stranger, receipt_of(honest, R1, withdrawal))


# -- making ----------------------------------------------------------------------------------------


def test_receipts_are_made_of_consents_under_checkpoints_that_cover_them(
    honest: Federation, withdrawal: int
) -> None:
    with pytest.raises(InputError, match="is a notice record"):
        receipt_of(honest, R1, 0)
    with pytest.raises(InputError, match="does not cover"):
        receipt_of(honest, R1, withdrawal, size=withdrawal)
    with pytest.raises(InputError, match="does not exclude"):
        receipt_of(
            honest, R1, honest.find(R1, "consent"), first_excluded=FirstExcluded(RUN, 1, 100)
        )
    with pytest.raises(InputError, match="does not exclude"):
        receipt_of(honest, R1, withdrawal, first_excluded=FirstExcluded(RUN, 1, withdrawal))


def test_a_receipt_from_the_real_log_holds(honest: Federation, tmp_path) -> None:
    from common.audit.log import AuditLog

    origin = f"{FEDERATION}/{R1}"
    path, key = tmp_path / "log.sqlite", honest.keys[R1, "log"]
    with AuditLog.open(path, origin=origin, signer=key, create=True) as log:
        log.append(honest.logs[R1])
        index = honest.find(R1, "consent", honest.customers)
        record = make_receipt(
            log,
            index,
            honest.cosign(R1, log.checkpoint()),
            federation=FEDERATION,
            region=R1,
            issued_at="2026-01-01T00:00:00.000Z",
            lang="en",
            first_excluded=first_round_above(log, index),
        )
    data = canonical_json.encode(record, max_bytes=MAX_RECEIPT_BYTES)
    assert check(honest, data).receipt.first_excluded.round == 2
