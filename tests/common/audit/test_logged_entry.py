"""Single entries with their proof: signer, role, log, witnesses, and when a key counted."""

from __future__ import annotations

import hashlib

import pytest

from common.audit.checkpoint import add_cosignature
from common.audit.federation_keys import FederationKeys, read_federation_keys
from common.audit.logged_entry import LoggedEntry, verify_logged_entry
from common.audit.merkle import inclusion_proof, leaf_hash
from common.audit.proof_file import LogProof
from common.envelope import sign_record
from common.errors import FormatError, InputError, VerificationError
from common.timestamps import format_time
from tests.support.bundle_builder import (
    DAY_MS,
    EPOCH_MS,
    FEDERATION,
    OUTSIDE,
    REGIONS,
    SERVER,
    Federation,
    MemorySigner,
    record_of,
)
from tests.support.customers import CustomersFederation, keys_of

R1, R2 = REGIONS


@pytest.fixture(scope="module")
def honest() -> Federation:
    return CustomersFederation().run()


def prove(
    federation: Federation,
    index: int,
    *,
    party: str = R1,
    size: int | None = None,
    kind: str = "consent",
    keys: FederationKeys | None = None,
    note: bytes | None = None,
) -> LoggedEntry:
    log = federation.logs[party]
    size = len(log) if size is None else size
    note = federation.cosigned(party, size) if note is None else note
    hashes = tuple(inclusion_proof([leaf_hash(entry) for entry in log], index, size))
    return verify_logged_entry(
        log[index],
        LogProof(index, hashes, note),
        keys or keys_of(federation),
        party=party,
        kind=kind,
    )


def with_registry(
    federation: Federation, change: dict[tuple[str, str], dict[str, object]], **fields: object
) -> FederationKeys:
    """The federation's keys after one more registry version with changed entries."""
    federation = federation.copy()
    entries = federation.key_entries()
    for entry in entries:
        entry |= change.get((entry["party"], entry["role"]), {})
    for name, value in fields.items():
        setattr(federation, name, value)
    federation.publish_registry(entries)
    return keys_of(federation)


def test_every_consent_and_round_is_proved_where_it_stands(honest: Federation) -> None:
    for kind in ("consent", "round", "charge", "release"):
        for number in range(2):
            index = honest.find(R1, kind, number)
            logged = prove(honest, index, kind=kind)
            assert logged.record == record_of(honest.logs[R1][index])
            assert logged.place == f"log {R1}, entry {index}"
            assert set(logged.witnesses) == {R2, SERVER, OUTSIDE}
            assert (logged.quorum, logged.witnessed) == (2, True)


def test_a_partys_own_cosignature_counts_for_nothing(honest: Federation) -> None:
    index = honest.find(R1, "consent")
    note = honest.cosign(R1, honest.checkpoint(R1, len(honest.logs[R1])), [SERVER])
    own = honest.keys[R1, "witness"]
    note = add_cosignature(note, R1, own, time_s=honest.clock_ms // 1000).encode()
    logged = prove(honest, index, note=note)
    assert set(logged.witnesses) == {SERVER}
    assert not logged.witnessed


def test_a_record_of_another_kind_party_or_role_is_refused(honest: Federation) -> None:
    index = honest.find(R1, "consent")
    with pytest.raises(FormatError, match="consent record, not a round"):
        prove(honest, index, kind="round")
    stolen = honest.copy()
    stolen.logs[R1][index] = honest.logs[R2][honest.find(R2, "consent")]
    with pytest.raises(VerificationError, match="may not sign"):
        prove(stolen, index)
    misused = honest.copy()
    misused.logs[R1][index] = sign_record(
        record_of(honest.logs[R1][index]), honest.keys[R1, "trainer"]
    )
    with pytest.raises(VerificationError, match="may not sign"):
        prove(misused, index)
    unknown = honest.copy()
    unknown.logs[R1][index] = sign_record(
        record_of(honest.logs[R1][index]), MemorySigner("stranger")
    )
    with pytest.raises(VerificationError, match="may not sign"):
        prove(unknown, index)


def test_a_record_whose_fields_are_not_its_kinds_is_refused() -> None:
    def alter(party: str, record: dict[str, object]) -> None:
        if party == R1 and record["v"] == "fedpref-consent/1":
            record["note"] = "in the small print"

    federation = CustomersFederation(alter=alter).run()
    with pytest.raises(FormatError, match="unknown fields: note"):
        prove(federation, federation.find(R1, "consent"))


def test_a_log_of_no_registered_party_is_refused(honest: Federation) -> None:
    with pytest.raises(VerificationError, match="no log key of region-9"):
        verify_logged_entry(
            honest.logs[R1][2],
            LogProof(2, (), honest.checkpoint(R1, 3)),
            keys_of(honest),
            party="region-9",
            kind="consent",
        )


def test_another_entry_under_the_same_proof_is_refused(honest: Federation) -> None:
    index = honest.find(R1, "consent")
    other = honest.copy()
    other.logs[R1][index] = honest.logs[R1][index + 1]
    note = honest.cosigned(R1, len(honest.logs[R1]))
    with pytest.raises(VerificationError, match="not in the tree"):
        prove(other, index, note=note)


# -- revocation and validity (A10) -----------------------------------------------------------------


def test_a10_a_revoked_key_counts_only_for_what_was_witnessed_before(honest: Federation) -> None:
    index = honest.find(R1, "consent")
    first = honest.sizes(R1)[0]
    seen_ms = honest.cosigned_ms[R1, first]
    late = with_registry(honest, {(R1, "consent"): {"revoked_at": format_time(seen_ms + 2000)}})
    assert prove(honest, index, size=first, keys=late).witnessed
    for revoked_ms in (seen_ms, seen_ms - 5000):
        early = with_registry(honest, {(R1, "consent"): {"revoked_at": format_time(revoked_ms)}})
        with pytest.raises(VerificationError, match=r"consent key .* of region-1 was revoked"):
            prove(honest, index, size=first, keys=early)
    # The same key, and a checkpoint that nobody saw: a thief could have made all of it later.
    with pytest.raises(VerificationError, match="enough witnesses did not see"):
        prove(honest, index, keys=late, note=honest.checkpoint(R1, first), size=first)


def test_a_revoked_log_key_counts_only_before(honest: Federation) -> None:
    index, first = honest.find(R1, "consent"), honest.sizes(R1)[0]
    seen_ms = honest.cosigned_ms[R1, first]
    late = with_registry(honest, {(R1, "log"): {"revoked_at": format_time(seen_ms + 2000)}})
    assert prove(honest, index, size=first, keys=late).witnessed
    early = with_registry(honest, {(R1, "log"): {"revoked_at": format_time(seen_ms)}})
    with pytest.raises(VerificationError, match="log key"):
        prove(honest, index, size=first, keys=early)


def test_a_witness_counts_only_while_its_key_does(honest: Federation) -> None:
    index, first = honest.find(R1, "consent"), honest.sizes(R1)[0]
    seen_ms = honest.cosigned_ms[R1, first] // 1000 * 1000
    revoked = with_registry(honest, {(SERVER, "witness"): {"revoked_at": format_time(seen_ms)}})
    assert set(prove(honest, index, size=first, keys=revoked).witnesses) == {R2, OUTSIDE}
    kept = with_registry(honest, {(SERVER, "witness"): {"revoked_at": format_time(seen_ms + 1000)}})
    assert SERVER in prove(honest, index, size=first, keys=kept).witnesses


@pytest.mark.parametrize("moved_ms", [-2 * DAY_MS, 400 * DAY_MS])
def test_a_key_that_is_not_valid_yet_or_no_longer_is_refused(moved_ms: int) -> None:
    def alter(party: str, record: dict[str, object]) -> None:
        if record["v"] == "fedpref-consent/1" and party == R1:
            record["event_time"] = format_time(EPOCH_MS + moved_ms)

    federation = CustomersFederation(alter=alter).run()
    with pytest.raises(VerificationError, match="not valid when the entry was made"):
        prove(federation, federation.find(R1, "consent"))


def test_without_a_quorum_the_entrys_own_time_decides() -> None:
    federation = CustomersFederation(witness_quorum=0, cosigners=()).run()
    index = federation.find(R1, "consent")
    assert prove(federation, index).witnessed
    at = record_of(federation.logs[R1][index])["event_time"]
    revoked = with_registry(federation, {(R1, "consent"): {"revoked_at": at}})
    with pytest.raises(VerificationError, match="revoked"):
        prove(federation, index, keys=revoked)


# -- the registry ----------------------------------------------------------------------------------


def test_what_was_logged_is_judged_by_the_quorum_of_its_time(honest: Federation) -> None:
    federation = honest.copy()
    record = record_of(federation.registry[0]) | {
        "registry_version": 2,
        "prev": hashlib.sha256(federation.registry[0]).hexdigest(),
        "witness_quorum": 3,
        "issued_at": format_time(federation.clock_ms + 1000),
    }
    federation.registry.append(sign_record(record, *federation.roots[:2]))
    keys = keys_of(federation)
    assert keys.quorum_at(federation.clock_ms) == 2
    assert keys.quorum_at(federation.clock_ms + 1000) == 3
    assert keys.quorum_at(0) == 2
    assert prove(federation, federation.find(R1, "consent"), keys=keys).quorum == 2


def test_root_keys_that_the_reader_names_must_have_signed(honest: Federation) -> None:
    ids = [root.key_id for root in honest.roots]
    assert FederationKeys.from_envelopes(honest.registry, root_key_ids=ids[:2])
    for named in (ids[:1], ids[1:], ["0" * 64]):
        with pytest.raises(VerificationError, match="root keys you named"):
            FederationKeys.from_envelopes(honest.registry, root_key_ids=named)


def test_a_registry_is_read_from_a_bundle_or_a_folder(honest: Federation, tmp_path) -> None:
    run = honest.write(tmp_path / "run")
    for folder in (run / "bundle", run / "bundle" / "registry"):
        assert read_federation_keys(folder).federation == FEDERATION
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="registry"):
            read_federation_keys(folder)
    first = run / "bundle" / "registry" / "1.json"
    first.write_bytes(first.read_bytes().replace(b"A", b"B", 1))
    with pytest.raises((FormatError, VerificationError), match="version 1"):
        read_federation_keys(run / "bundle")
    first.rename(first.with_name("2.json"))
    with pytest.raises(InputError, match="cannot be read"):
        read_federation_keys(run / "bundle")
