"""The attacks of the specification that this version withstands, each under its id.

The attacker is the operator: he has every key but the root's. So what he changes he signs anew,
entries, checkpoints and manifest, as far as it helps him. The tests ask for the deep check that
catches him, not for the manifest's digests. (A2 and A6 between readers, and A8, need a witness or
a receipt; A18 is tested with the proofs themselves; A24 is the pseudonyms' matter.)
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common import canonical_json
from common.audit.checkpoint import Checkpoint, Note, parse_note, sign_note
from common.audit.verify import Verdict, verify_bundle
from common.envelope import Envelope, Signature, pae, sign_record
from common.timestamps import format_time, parse_time
from tests.support.bundle_builder import (
    EPOCH_MS,
    REGIONS,
    SERVER,
    Federation,
    JsonRecord,
    MemorySigner,
    digest,
    eligible_root,
    envelope_of,
    file_states,
    record_of,
    tree_root,
    ulid,
)

R1, R2 = REGIONS
Alter = Callable[[str, JsonRecord], None]


@pytest.fixture(scope="module")
def _honest() -> Federation:
    return Federation().run()


@pytest.fixture
def federation(_honest: Federation) -> Federation:
    return _honest.copy()


def judge(federation: Federation, run: Path) -> Verdict:
    return verify_bundle(federation.write(run))


def found(verdict: Verdict) -> set[tuple[int, str, str | None, int | None]]:
    return {(f.step, f.code, f.party, f.index) for f in verdict.failures}


def codes(verdict: Verdict) -> set[tuple[int, str]]:
    return {(failure.step, failure.code) for failure in verdict.failures}


def lie(party: str, kind: str, number: int | None, change: Callable[[JsonRecord], Any]) -> Alter:
    """Changes one party's records of a kind (and round) before they are signed."""

    def alter(whose: str, record: JsonRecord) -> None:
        if (whose, record["v"]) == (party, f"fedpref-{kind}/1") and (
            number is None or record["round"] == number
        ):
            change(record)

    return alter


# -- A1 to A6: the log's shape ---------------------------------------------------------------------


def test_a1_truncated_tail_with_a_round_the_server_used(
    federation: Federation, tmp_path: Path
) -> None:
    del federation.logs[R1][federation.find(R1, "round", 1) :]
    verdict = judge(federation, tmp_path)
    aggregate = federation.find(SERVER, "aggregate", 1)
    assert found(verdict) == {(7, "round-entry-missing", SERVER, aggregate)}


def test_a1_truncated_tail_with_only_the_last_release(
    federation: Federation, tmp_path: Path
) -> None:
    del federation.logs[R1][federation.find(R1, "release", 1) :]
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {(8, "no-release", R1, federation.find(R1, "round", 1))}
    assert verdict.integrity
    assert not verdict.complete


def test_a1_truncated_below_an_earlier_checkpoint(federation: Federation, tmp_path: Path) -> None:
    later = max(federation.checkpoints[R1])
    note = federation.checkpoint(R1, later)
    del federation.logs[R1][later - 1 :]
    federation.files[f"logs/{R1}/checkpoints/{later}"] = note
    verdict = judge(federation, tmp_path)
    assert (2, "log-truncated", R1, None) in found(verdict)
    assert f"logs/{R1}/checkpoints/{later}" in {failure.file for failure in verdict.failures}


def test_a1_truncated_server_log(federation: Federation, tmp_path: Path) -> None:
    del federation.logs[SERVER][federation.find(SERVER, "aggregate", 1) :]
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {
        (7, "round-not-aggregated", R1, federation.find(R1, "round", 1)),
        (7, "round-not-aggregated", R2, federation.find(R2, "round", 1)),
        (8, "rounds-missing", SERVER, None),
        (8, "run-unfinished", SERVER, None),
    }


def test_a3_reordered_entries_under_the_old_checkpoints(
    federation: Federation, tmp_path: Path
) -> None:
    old = federation.log_files()
    first = federation.find(R1, "consent", 0)
    log = federation.logs[R1]
    log[first], log[first + 1] = log[first + 1], log[first]
    federation.files = {name: data for name, data in old.items() if "/checkpoint" in name}
    verdict = judge(federation, tmp_path)
    assert (2, "tree-root", R1, None) in found(verdict)


def test_a3_reordered_entries_under_new_checkpoints(federation: Federation, tmp_path: Path) -> None:
    first = federation.find(R1, "consent", 0)
    log = federation.logs[R1]
    log[first], log[first + 1] = log[first + 1], log[first]
    verdict = judge(federation, tmp_path)
    assert (5, "consent-root", R1, federation.find(R1, "round", 0)) in found(verdict)


def test_a3_a_withdrawal_moved_behind_the_last_round(
    federation: Federation, tmp_path: Path
) -> None:
    log = federation.logs[R1]
    log.append(log.pop(federation.find(R1, "consent", 4)))
    assert (5, "consent-root", R1, federation.find(R1, "round", 1)) in found(
        judge(federation, tmp_path)
    )


def test_a4_replaced_entry_without_the_key(federation: Federation, tmp_path: Path) -> None:
    index = federation.find(R1, "consent", 3)
    honest = Envelope.decode(federation.logs[R1][index])
    record = record_of(federation.logs[R1][index]) | {"state": "dpv:ConsentGiven"}
    forged = Envelope(honest.payload_type, canonical_json.encode(record), honest.signatures)
    federation.logs[R1][index] = forged.encode()
    verdict = judge(federation, tmp_path)
    assert (3, "record", R1, index) in found(verdict)
    assert verdict.first_failure is not None
    assert verdict.first_failure.index == index


def test_a4_replaced_entry_with_the_key(federation: Federation, tmp_path: Path) -> None:
    index = federation.find(R1, "consent", 3)
    federation.resign(R1, index, lambda record: record.update(state="dpv:ConsentGiven"))
    verdict = judge(federation, tmp_path)
    assert (5, "consent-root", R1, federation.find(R1, "round", 0)) in found(verdict)


def test_a4_replaced_round_that_the_server_had_used(federation: Federation, tmp_path: Path) -> None:
    index = federation.find(R1, "round", 1)
    federation.resign(R1, index, lambda record: record["train"].update(n_bucket="1-1"))
    verdict = judge(federation, tmp_path)
    assert (7, "round-entry-missing", SERVER, federation.find(SERVER, "aggregate", 1)) in found(
        verdict
    )
    assert (7, "round-not-aggregated", R1, index) in found(verdict)


def test_a5_inserted_entry(federation: Federation, tmp_path: Path) -> None:
    invented = federation.consent_record(R1, 77, "dpv:ConsentGiven")
    entry = sign_record(invented, federation.keys[R1, "consent"])
    federation.logs[R1].insert(federation.find(R1, "consent", 1), entry)
    assert (5, "consent-root", R1, federation.find(R1, "round", 0)) in found(
        judge(federation, tmp_path)
    )


def test_a6_fork_two_signed_histories_of_one_size(federation: Federation, tmp_path: Path) -> None:
    other = federation.copy()
    index = other.find(R1, "consent", 3)
    other.resign(R1, index, lambda record: record.update(state="dpv:ConsentGiven"))
    federation.files[f"logs/{R1}/checkpoints/{index + 1}"] = other.checkpoint(R1, index + 1)
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {(2, "tree-root", R1, None)}


def test_a6_checkpoint_that_only_witnesses_signed(federation: Federation, tmp_path: Path) -> None:
    name = f"logs/{R1}/checkpoint"
    whole = parse_note(federation.bundle_files()[name])
    federation.files[name] = Note(whole.text, whole.signatures[1:]).encode().encode()
    verdict = judge(federation, tmp_path)
    assert (2, "checkpoint", R1, None) in found(verdict)
    assert any("The log itself did not sign it" in f.message for f in verdict.failures)


def test_a17_checkpoint_of_another_log_signed_with_this_logs_key(
    federation: Federation, tmp_path: Path
) -> None:
    log = federation.logs[R1]
    body = Checkpoint(f"test.example/{R2}", len(log), tree_root(log)).body()
    note = sign_note(body, f"test.example/{R1}", federation.keys[R1, "log"])
    federation.files[f"logs/{R1}/checkpoint"] = note.encode()
    verdict = judge(federation, tmp_path)
    assert (2, "checkpoint", R1, None) in found(verdict)
    assert any(f"It is of the log test.example/{R2}" in f.message for f in verdict.failures)


# -- A7 to A13: consents, clocks and keys ----------------------------------------------------------


def test_a7_old_grant_replayed_after_withdrawal(federation: Federation, tmp_path: Path) -> None:
    federation.logs[R1].append(federation.logs[R1][federation.find(R1, "consent", 2)])
    index = len(federation.logs[R1]) - 1
    verdict = judge(federation, tmp_path)
    assert (4, "consent-chain", R1, index) in found(verdict)


def test_a7_round_bound_to_the_consents_before_the_withdrawal(tmp_path: Path) -> None:
    first: JsonRecord = {}

    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) != (R1, "fedpref-round/1"):
            return
        if record["round"] == 1:
            first.update(record)
            return
        sids = [federation.sid(R1, customer) for customer in range(3)]
        record["consent"] = first["consent"]
        record["train"] |= {"root": eligible_root(record["train"]["nonce"], sids)}

    federation = Federation(alter=alter)
    verdict = judge(federation.run(), tmp_path)
    assert found(verdict) == {(5, "consent-stale", R1, federation.find(R1, "round", 1))}


def _set_back(record: JsonRecord, ms: int) -> None:
    for part, name in ((record["train"], "at"), (record, "start"), (record, "end")):
        part[name] = format_time(parse_time(part[name]) - ms)


def test_a9_clock_set_back_behind_the_regions_own_log(tmp_path: Path) -> None:
    """It would revive consents that have expired; the order of the log gives it away."""
    federation = Federation(pause_ms=300_000, witness_quorum=0)

    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) == (R1, "fedpref-round/1") and record["round"] == 2:
            _set_back(record, 300_000 + 90_000)
        if (party, record["v"]) == (R1, "fedpref-charge/1") and record["round"] == 2:
            record["time"] = format_time(parse_time(record["time"]) - 390_000)

    federation.alter = alter
    federation.run()
    index = federation.find(R1, "round", 1)
    verdict = judge(federation, tmp_path)
    assert (5, "clock-rollback", R1, index) in found(verdict)
    assert {place[1:] for place in found(verdict)} <= {
        ("clock-rollback", R1, index),
        ("permit-not-yet-valid", R1, index),
    }


def test_a9_round_that_ended_before_its_charge(tmp_path: Path) -> None:
    """Customer 1's consent expires between the rounds; round 2 says it was still before."""

    def alter(party: str, record: JsonRecord) -> None:
        if record["v"] == "fedpref-consent/1" and record["expires"] is not None:
            record["expires"] = format_time(EPOCH_MS + 4_200_000)
        if record["v"] == "fedpref-round/1" and record["round"] == 2:
            if party == R1:
                _set_back(record, 3_600_000)
            else:
                root = eligible_root(record["train"]["nonce"], [federation.sid(R2, 0)])
                record["train"] |= {"root": root, "n_bucket": "1-1"}

    federation = Federation(alter=alter, pause_ms=3_600_000, witness_quorum=0)
    index = federation.run().find(R1, "round", 1)
    assert found(judge(federation, tmp_path / "1")) == {(5, "clock-rollback", R1, index)}
    # Those who cosigned its consents just before it began have clocks of their own.
    federation = Federation(alter=alter, pause_ms=3_600_000).run()
    assert found(judge(federation, tmp_path / "2")) == {
        (5, "clock-rollback", R1, index),
        (5, "witness-stale", R1, index),
    }


def test_a9_regions_clock_behind_the_model_it_trained_on(tmp_path: Path) -> None:
    """The region's whole log is set back, so only the server's log gives it away."""

    def alter(party: str, record: JsonRecord) -> None:
        if party != R1 or record["v"] in ("fedpref-notice/1", "fedpref-consent/1"):
            return
        for name in ("in_force_from", "issued_at", "time", "start", "end"):
            if name in record:
                record[name] = format_time(parse_time(record[name]) - 700_000)
        if "train" in record:
            record["train"]["at"] = format_time(parse_time(record["train"]["at"]) - 700_000)
        if record["v"] == "fedpref-release/1":
            record["time"] = format_time(parse_time(record["time"]) + 700_000)

    def consent(party: str, record: JsonRecord) -> None:
        if party == R1 and record["v"] == "fedpref-consent/1":
            record["event_time"] = format_time(parse_time(record["event_time"]) - 700_000)
        alter(party, record)

    federation = Federation(alter=consent, witness_quorum=0)
    verdict = judge(federation.run(), tmp_path)
    assert found(verdict) == {(7, "clocks-apart", R1, federation.find(R1, "round", 1))}


def _revoke(federation: Federation, party: str, role: str, at_ms: int) -> None:
    entries = federation.key_entries()
    for entry in entries:
        if (entry["party"], entry["role"]) == (party, role):
            entry["revoked_at"] = format_time(at_ms)
    federation.publish_registry(entries)


def test_a10_key_used_after_its_revocation(federation: Federation, tmp_path: Path) -> None:
    index = federation.find(R1, "consent", 4)
    when = parse_time(record_of(federation.logs[R1][index])["event_time"])
    _revoke(federation, R1, "consent", when)
    assert found(judge(federation, tmp_path)) >= {(3, "record", R1, index)}


def test_a10_revoked_key_signing_with_a_backdated_time(
    federation: Federation, tmp_path: Path
) -> None:
    _revoke(federation, R1, "consent", federation.clock_ms)
    assert judge(federation, tmp_path).verified
    invented = federation.consent_record(R1, 77, "dpv:ConsentGiven")
    invented["event_time"] = format_time(EPOCH_MS + 1000)
    # A later entry of the same log shows that the clock had passed the revocation.
    permit = record_of(federation.logs[R1][federation.find(R1, "permit")])
    permit |= {"permit_id": ulid("later"), "issued_at": format_time(federation.clock_ms + 1)}
    federation.logs[R1].append(sign_record(permit, federation.keys[R1, "permit"]))
    federation.logs[R1].append(sign_record(invented, federation.keys[R1, "consent"]))
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {(3, "record", R1, len(federation.logs[R1]) - 1)}
    assert "revoked" in verdict.failures[0].message


def test_a10_checkpoint_signed_with_a_revoked_log_key(
    federation: Federation, tmp_path: Path
) -> None:
    _revoke(federation, R1, "log", EPOCH_MS)
    assert (2, "checkpoint-key", R1, None) in found(judge(federation, tmp_path))


def test_a10_a_revocation_is_never_undone(federation: Federation, tmp_path: Path) -> None:
    _revoke(federation, R1, "consent", EPOCH_MS)
    federation.publish_registry(federation.key_entries())
    verdict = judge(federation, tmp_path)
    assert codes(verdict) == {(1, "registry")}
    assert verdict.failures[0].file == "registry/3.json"


# The identity, a point of order 2, and one of order 8: with these, forged signatures verify.
WEAK_KEYS = (
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
)


@pytest.mark.parametrize("weak", WEAK_KEYS)
@pytest.mark.parametrize("place", ["keys", "root"])
def test_a11_weak_key_enrolled(
    federation: Federation, tmp_path: Path, weak: str, place: str
) -> None:
    identity = hashlib.sha256(b"fedpref-key/1" + bytes.fromhex(weak)).hexdigest()
    record = record_of(federation.registry[0])
    keys = record["keys"] if place == "keys" else record["root"]["keys"]
    keys[-1] |= {"public_key": weak, "key_id": identity}
    federation.registry = [sign_record(record, *federation.roots[:2])]
    assert codes(judge(federation, tmp_path)) == {(1, "registry")}


@pytest.mark.parametrize(
    "key", [(R1, "trainer"), (R1, "controller"), (R2, "consent"), (SERVER, "aggregator")]
)
def test_a12_key_of_another_role_or_party(
    federation: Federation, tmp_path: Path, key: tuple[str, str]
) -> None:
    record = federation.consent_record(R1, 77, "dpv:ConsentGiven")
    federation.logs[R1].append(sign_record(record, federation.keys[key]))
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {(3, "record", R1, len(federation.logs[R1]) - 1)}
    assert f"{key[1]} key of {key[0]}" in verdict.failures[0].message


def test_a12_manifest_signed_by_a_region(federation: Federation, tmp_path: Path) -> None:
    run = federation.write(tmp_path)
    manifest = run / "bundle" / "manifest.json"
    manifest.write_bytes(sign_record(record_of(manifest.read_bytes()), federation.keys[R1, "log"]))
    assert codes(verify_bundle(run)) == {(0, "manifest-signature")}


def test_a13_duplicate_record_id(federation: Federation, tmp_path: Path) -> None:
    record = federation.consent_record(R1, 77, "dpv:ConsentGiven")
    record["record_id"] = record_of(federation.logs[R1][federation.find(R1, "consent")])[
        "record_id"
    ]
    federation.logs[R1].append(sign_record(record, federation.keys[R1, "consent"]))
    assert found(judge(federation, tmp_path)) == {
        (3, "record-id", R1, len(federation.logs[R1]) - 1)
    }


@pytest.mark.parametrize("kind", ["charge", "permit"])
def test_a13_duplicate_id_of_other_kinds(federation: Federation, tmp_path: Path, kind: str) -> None:
    federation.logs[R1].append(federation.logs[R1][federation.find(R1, kind)])
    assert found(judge(federation, tmp_path)) == {(3, "record", R1, len(federation.logs[R1]) - 1)}


# -- A14 to A19: bytes -----------------------------------------------------------------------------


def _payloads(record: JsonRecord) -> dict[str, bytes]:
    good = canonical_json.encode(record)
    start = good[:-1]
    return {
        "duplicate key": start + b',"withdrawal":"x"}',
        "not a number": good.replace(b'"seq":1', b'"seq":NaN'),
        "float": good.replace(b'"seq":1', b'"seq":1.0'),
        "exponent": good.replace(b'"seq":1', b'"seq":1e0'),
        "past 2^53": good.replace(b'"seq":1', b'"seq":9007199254740993'),
        "space": good.replace(b'"seq":1', b'"seq": 1'),
        "unsorted": json.dumps(dict(reversed(record.items())), separators=(",", ":")).encode(),
        "escaped": good.replace(b'"lang":"en"', b'"lang":"\\u0065n"'),
        "lone surrogate": good.replace(b'"lang":"en"', b'"lang":"\\ud800"'),
        "byte order mark": b"\xef\xbb\xbf" + good,
        "not UTF-8": good.replace(b'"lang":"en"', b'"lang":"\xff"'),
        "non-ASCII key": good.replace(b'"lang"', '"läng"'.encode()),
        "trailing": good + b"\n",
        "unknown field": canonical_json.encode(record | {"extra": 1}),
        "missing field": canonical_json.encode({k: v for k, v in record.items() if k != "lang"}),
        "bool for a number": good.replace(b'"seq":1', b'"seq":true'),
        "array": b"[]",
        "empty": b"",
        "a19 deep": b"[" * 40_000 + b"]" * 100,
        "a19 deep field": good.replace(b'"data":[', b'"data":[' + b"[" * 60 + b"]" * 60 + b","),
    }


PAYLOADS = sorted(_payloads({"lang": "en", "seq": 1, "v": "x"}))


@pytest.mark.parametrize("name", PAYLOADS)
def test_a14_a19_payload_that_is_signed_but_not_canonical(
    federation: Federation, tmp_path: Path, name: str
) -> None:
    record = federation.consent_record(R1, 77, "dpv:ConsentGiven")
    payload = _payloads(record)[name]
    assert payload != canonical_json.encode(record)
    federation.logs[R1].append(envelope_of(payload, "consent", federation.keys[R1, "consent"]))
    assert found(judge(federation, tmp_path)) == {(3, "record", R1, len(federation.logs[R1]) - 1)}


def test_a14_the_same_record_in_canonical_form_is_accepted(
    federation: Federation, tmp_path: Path
) -> None:
    record = federation.consent_record(R1, 77, "dpv:ConsentGiven")
    payload = canonical_json.encode(record)
    federation.logs[R1].append(envelope_of(payload, "consent", federation.keys[R1, "consent"]))
    assert judge(federation, tmp_path).verified


def _envelopes(federation: Federation) -> dict[str, bytes]:
    """Envelopes over a good record, each wrong in one way."""
    key = federation.keys[R1, "consent"]
    record = federation.consent_record(R1, 77, "dpv:ConsentGiven")
    good = sign_record(record, key)
    fields = json.loads(good)
    stranger = MemorySigner("a stranger")
    message = pae(fields["payloadType"], canonical_json.encode(record))
    own, foreign = fields["signatures"][0], Signature(stranger.key_id, stranger.sign(message))

    def with_(**changes: Any) -> bytes:
        return canonical_json.encode(fields | changes)

    foreign_line = {
        "keyid": foreign.key_id,
        "sig": base64.b64encode(foreign.signature).decode(),
    }
    sig = base64.b64decode(own["sig"])
    return {
        "stripped": with_(signatures=[]),
        "duplicated": with_(signatures=[own, own]),
        "unknown key added": with_(signatures=[own, foreign_line]),
        "unknown key alone": with_(signatures=[foreign_line]),
        "foreign signature under our key id": with_(
            signatures=[own | {"sig": foreign_line["sig"]}]
        ),
        "short signature": with_(signatures=[own | {"sig": base64.b64encode(sig[:63]).decode()}]),
        "long signature": with_(signatures=[own | {"sig": base64.b64encode(sig + b"x").decode()}]),
        "zero signature": with_(signatures=[own | {"sig": base64.b64encode(bytes(64)).decode()}]),
        "algorithm named": with_(alg="none"),
        "algorithm in the signature": with_(signatures=[own | {"alg": "none"}]),
        "payload type swapped": with_(payloadType="application/vnd.fedpref.notice+json"),
        "payload type unknown": with_(payloadType="application/vnd.fedpref.query+json"),
        "payload type foreign": with_(payloadType="application/json"),
        "loose base64": good.replace(b'"payload":"', b'"payload":" '),
        "url-safe base64": with_(
            payload=fields["payload"].replace("/", "_").replace("+", "-") + "_"
        ),
        "trailing byte": good + b" ",
        "empty": b"",
        "not JSON": b"\x00\xff",
    }


@pytest.mark.parametrize("name", sorted(_envelopes(Federation(customers=0, rounds=0).run())))
def test_a15_a16_envelope_that_is_wrong_in_one_way(
    federation: Federation, tmp_path: Path, name: str
) -> None:
    federation.logs[R1].append(_envelopes(federation)[name])
    assert found(judge(federation, tmp_path)) == {(3, "record", R1, len(federation.logs[R1]) - 1)}


def test_a16_record_signed_under_another_kinds_type(federation: Federation, tmp_path: Path) -> None:
    """A permit key signs a consent record as if it were a permit, and the other way round."""
    record = federation.consent_record(R1, 77, "dpv:ConsentGiven")
    payload = canonical_json.encode(record)
    federation.logs[R1].append(envelope_of(payload, "permit", federation.keys[R1, "permit"]))
    assert found(judge(federation, tmp_path)) == {(3, "record", R1, len(federation.logs[R1]) - 1)}


def test_a16_kind_that_belongs_in_another_log(federation: Federation, tmp_path: Path) -> None:
    federation.logs[R1].append(federation.logs[SERVER][0])
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {(3, "record", R1, len(federation.logs[R1]) - 1)}
    assert "does not belong" in verdict.failures[0].message


def test_a17_round_of_another_region_replayed(federation: Federation, tmp_path: Path) -> None:
    federation.logs[R1].append(federation.logs[R2][federation.find(R2, "round", 1)])
    assert found(judge(federation, tmp_path)) == {(3, "record", R1, len(federation.logs[R1]) - 1)}


def test_a17_round_of_another_run_used(tmp_path: Path) -> None:
    federation = Federation(alter=lie(R1, "round", 2, lambda r: r.update(run="run-0"))).run()
    verdict = judge(federation, tmp_path)
    index = federation.find(R1, "round", 1)
    assert {
        (5, "permit-mismatch", R1, index),
        (6, "round-charge", R1, index),
        (7, "round-entry-missing", SERVER, federation.find(SERVER, "aggregate", 1)),
    } <= found(verdict)


def test_a17_whole_bundle_of_another_run(federation: Federation, tmp_path: Path) -> None:
    federation.alter = lie("manifest", "manifest", None, lambda r: r.update(run="run-2"))
    assert {(0, "plan"), (7, "plan-mismatch")} & codes(judge(federation, tmp_path))


def test_a17_log_of_another_federation(federation: Federation, tmp_path: Path) -> None:
    record = record_of(federation.registry[0]) | {"federation": "other.example"}
    federation.registry = [sign_record(record, *federation.roots[:2])]
    assert codes(judge(federation, tmp_path)) == {(1, "registry")}


def test_a19_entry_of_the_greatest_length(federation: Federation, tmp_path: Path) -> None:
    federation.logs[R1].append(b"[" * 65_535)
    assert found(judge(federation, tmp_path)) == {(3, "record", R1, len(federation.logs[R1]) - 1)}


def test_a19_oversized_files(federation: Federation, tmp_path: Path) -> None:
    federation.files["plan.json"] = b'"' + b"a" * (2 << 20) + b'"'
    federation.files[f"logs/{R1}/checkpoint"] = b"a\n" * (1 << 17)
    federation.files["registry/2.json"] = b"[" * (2 << 20)
    verdict = judge(federation, tmp_path)
    assert codes(verdict) == {(1, "registry")}
    del federation.files["registry/2.json"]
    assert {(0, "plan"), (2, "checkpoint")} <= codes(judge(federation, tmp_path))


# -- A20 to A25: budget, rounds, models, files -----------------------------------------------------


@pytest.mark.parametrize("field", ["epsilon_run", "epsilon_total"])
def test_a20_declared_epsilon_that_its_parameters_do_not_give(tmp_path: Path, field: str) -> None:
    federation = Federation(alter=lie(R1, "charge", 2, lambda r: r.update({field: "2.58"}))).run()
    verdict = judge(federation, tmp_path)
    assert codes(verdict) == {(6, "epsilon-understated")}
    assert (6, "epsilon-understated", R1, federation.find(R1, "charge", 1)) in found(verdict)


def test_a20_more_noise_declared_in_the_charge_than_permitted(tmp_path: Path) -> None:
    change = lie(R1, "charge", 2, lambda r: r.update(noise_multiplier="9"))
    federation = Federation(alter=change).run()
    assert {
        (6, "charge-parameters", R1, federation.find(R1, "charge", 1)),
        (6, "round-charge", R1, federation.find(R1, "round", 1)),
    } <= found(judge(federation, tmp_path))


def test_a20_steps_understated(tmp_path: Path) -> None:
    """The round ran the mechanism twice for a charge of one."""
    federation = Federation(alter=lie(R1, "round", 2, lambda r: r["dp"].update(steps=2))).run()
    assert found(judge(federation, tmp_path)) == {
        (6, "round-charge", R1, federation.find(R1, "round", 1))
    }


def test_a21_release_without_charge(federation: Federation, tmp_path: Path) -> None:
    federation.logs[R1].pop(federation.find(R1, "charge", 1))
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {
        (8, "no-charge", R1, federation.find(R1, "round", 1)),
        (8, "no-charge", R1, federation.find(R1, "release", 1)),
    }
    assert verdict.integrity


def test_a21_charge_after_release(federation: Federation, tmp_path: Path) -> None:
    log = federation.logs[R1]
    log.append(log.pop(federation.find(R1, "charge", 1)))
    assert found(judge(federation, tmp_path)) == {
        (6, "charge-after", R1, federation.find(R1, "round", 1)),
        (6, "charge-after", R1, federation.find(R1, "release", 1)),
    }


def test_a21_second_release_for_one_charge(federation: Federation, tmp_path: Path) -> None:
    index = federation.find(R1, "release", 1)
    federation.logs[R1].append(federation.logs[R1][index])
    federation.resign(R1, index + 1, lambda r: r.update(time=format_time(federation.clock_ms)))
    assert found(judge(federation, tmp_path)) == {(6, "second-release", R1, index + 1)}


@pytest.mark.parametrize(
    ("customers", "what"),
    [
        ((0, 1, 2), "one who withdrew"),
        ((0, 1, 3), "one who refused"),
        ((0, 1, 9), "a stranger"),
        ((0, 4), "one replaced"),
    ],
)
def test_a22_wrong_eligible_set(tmp_path: Path, customers: tuple[int, ...], what: str) -> None:
    def change(record: JsonRecord) -> None:
        sids = [federation.sid(R1, customer) for customer in customers]
        record["train"]["root"] = eligible_root(record["train"]["nonce"], sids)

    federation = Federation(alter=lie(R1, "round", 2, change))
    federation.run()
    assert found(judge(federation, tmp_path)) == {
        (5, "eligible-set", R1, federation.find(R1, "round", 1))
    }


def test_a22_expired_consent_in_the_eligible_set(tmp_path: Path) -> None:
    def change(record: JsonRecord) -> None:
        if record["expires"] is not None:
            record["expires"] = format_time(EPOCH_MS + 5)

    federation = Federation(alter=lie(R1, "consent", None, change)).run()
    assert (5, "eligible-set", R1, federation.find(R1, "round", 0)) in found(
        judge(federation, tmp_path)
    )


def test_a23_model_chain_broken_between_rounds(tmp_path: Path) -> None:
    change = lie(SERVER, "aggregate", 1, lambda r: r.update(model_out=digest("another")))
    federation = Federation(alter=change).run()
    assert found(judge(federation, tmp_path)) == {
        (7, "model-chain", SERVER, federation.find(SERVER, "aggregate", 1))
    }


def test_a23_published_model_is_another(tmp_path: Path) -> None:
    change = lie(SERVER, "model", None, lambda r: r.update(model=digest("another")))
    federation = Federation(alter=change).run()
    assert found(judge(federation, tmp_path)) == {
        (7, "model-chain", SERVER, federation.find(SERVER, "model")),
        (7, "model-file", None, None),
    }


def test_a23_model_file_swapped_under_a_new_manifest(
    federation: Federation, tmp_path: Path
) -> None:
    other = Federation(rounds=1).run()
    federation.artifacts["model.safetensors"] = other.artifacts["model.safetensors"]
    verdict = judge(federation, tmp_path)
    assert codes(verdict) == {(7, "model-file")}
    assert verdict.failures[0].file == "model.safetensors"


def test_a23_update_swapped_by_the_server(tmp_path: Path) -> None:
    def change(record: JsonRecord) -> None:
        record["regions"][0]["update"] = digest("another")

    federation = Federation(alter=lie(SERVER, "aggregate", 2, change)).run()
    assert found(judge(federation, tmp_path)) == {
        (7, "aggregate-mismatch", SERVER, federation.find(SERVER, "aggregate", 1))
    }


@pytest.mark.parametrize("place", ["note.txt", f"logs/{R1}/tile/0/000.p/1", "logs/readme"])
@pytest.mark.parametrize("signed", [False, True])
def test_a25_file_added(federation: Federation, tmp_path: Path, place: str, signed: bool) -> None:
    files = federation.bundle_files()
    run = federation.write(tmp_path, files | ({place: b"x"} if signed else {}))
    path = run / "bundle" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    verdict = verify_bundle(run)
    assert (0, "file-unexpected") in codes(verdict)
    assert ((0, "file-added") in codes(verdict)) is not signed
    assert place in {failure.file for failure in verdict.failures}


def test_a25_each_file_removed(federation: Federation, tmp_path: Path) -> None:
    run = federation.write(tmp_path)
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        data = path.read_bytes()
        path.unlink()
        verdict = verify_bundle(run)
        name = path.relative_to(run).as_posix().removeprefix("bundle/")
        assert not verdict.verified
        assert name in {failure.file for failure in verdict.failures}, name
        path.write_bytes(data)
    assert verify_bundle(run).verified


def test_a25_log_removed_under_a_new_manifest(federation: Federation, tmp_path: Path) -> None:
    del federation.logs[R1]
    verdict = judge(federation, tmp_path)
    assert (8, "log-missing", R1, None) in found(verdict)
    assert (7, "round-entry-missing") in codes(verdict)


def test_a25_each_file_removed_under_a_new_manifest(federation: Federation, tmp_path: Path) -> None:
    files = federation.bundle_files()
    for number, name in enumerate(sorted(files)):
        if name.startswith("witnesses/"):
            continue  # Only the witness itself can show what the bundle keeps back.
        rest = {other: data for other, data in files.items() if other != name}
        assert not verify_bundle(federation.write(tmp_path / str(number), rest)).verified, name


def test_a25_logs_swapped_under_a_new_manifest(federation: Federation, tmp_path: Path) -> None:
    logs = federation.logs
    logs[R1], logs[R2] = logs[R2], logs[R1]
    verdict = judge(federation, tmp_path)
    assert (3, "record", R1, 0) in found(verdict)
    assert (3, "record", R2, 0) in found(verdict)


def test_a25_symbolic_link_in_place_of_a_file(federation: Federation, tmp_path: Path) -> None:
    run = federation.write(tmp_path / "run")
    plan = run / "bundle" / "plan.json"
    plan.rename(tmp_path / "elsewhere")
    plan.symlink_to(tmp_path / "elsewhere")
    verdict = verify_bundle(run)
    assert (0, "not-a-file") in codes(verdict)
    assert not verdict.verified


def test_a25_artifact_removed_from_the_manifest(federation: Federation, tmp_path: Path) -> None:
    federation.alter = lie(
        "manifest",
        "manifest",
        None,
        lambda r: r.update(artifacts=file_states({"metrics.json": b"x"})),
    )
    verdict = judge(federation, tmp_path)
    assert (8, "model-not-covered") in codes(verdict)


@pytest.mark.parametrize(
    "name", ["metrics.json", "bundle/plan.json", f"bundle/logs/{R1}/checkpoint"]
)
def test_a25_file_swapped(federation: Federation, tmp_path: Path, name: str) -> None:
    run = federation.write(tmp_path)
    data = (run / name).read_bytes()
    (run / name).write_bytes(data + b"\n")
    verdict = verify_bundle(run)
    assert (0, "file-changed") in codes(verdict)
    assert name.removeprefix("bundle/") in {failure.file for failure in verdict.failures}


@pytest.mark.parametrize("content", [b"", b"x", b"\x08" + bytes(7) + b"12345678"])
def test_a25_model_file_that_is_none_under_a_new_manifest(
    federation: Federation, tmp_path: Path, content: bytes
) -> None:
    federation.artifacts["model.safetensors"] = content
    assert codes(judge(federation, tmp_path)) == {(7, "model-file")}


def test_a25_symbolic_link_in_place_of_a_result(federation: Federation, tmp_path: Path) -> None:
    run = federation.write(tmp_path / "run")
    (run / "metrics.json").rename(tmp_path / "elsewhere")
    (run / "metrics.json").symlink_to(tmp_path / "elsewhere")
    assert codes(verify_bundle(run)) == {(0, "not-a-file")}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../outside", "artifact-name"),
        ("/etc/hostname", "artifact-name"),
        ("..", "artifact-name"),
        ("bundle", "not-a-file"),
        ("a\0b", "file-unreadable"),
        ("missing", "file-missing"),
    ],
)
def test_a25_manifest_that_points_elsewhere(
    federation: Federation, tmp_path: Path, name: str, code: str
) -> None:
    (tmp_path / "outside").write_bytes(b"x")
    federation.alter = lie(
        "manifest", "manifest", None, lambda r: r["artifacts"].update(file_states({name: b"x"}))
    )
    assert codes(judge(federation, tmp_path / "run")) == {(0, code)}
