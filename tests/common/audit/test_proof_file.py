"""C2SP tlog-proof files: exact bytes both ways, and forged proofs refused (A18)."""

from __future__ import annotations

import base64
import hashlib

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.audit.checkpoint import (
    COSIGNATURE_V1,
    Checkpoint,
    NoteKey,
    add_cosignature,
    sign_note,
)
from common.audit.merkle import inclusion_proof, leaf_hash, root_hash
from common.audit.proof_file import (
    MAX_EXTRA_BYTES,
    MAX_HASHES,
    MAX_PROOF_BYTES,
    LogProof,
    ProvenInclusion,
    read_base64,
    verify_log_proof,
)
from common.errors import FormatError, InputError, VerificationError
from tests.support.memory_signer import MemorySigner

ORIGIN = "retail-5.example/region-1"
LOG, NEXT, OTHER = MemorySigner("log"), MemorySigner("log, rotated"), MemorySigner("other")
WITNESSES = {name: MemorySigner(name) for name in ("region-2", "server", "witness")}
LOG_KEYS = [NoteKey(ORIGIN, LOG.public_key), NoteKey(ORIGIN, NEXT.public_key)]
WITNESS_KEYS = [
    NoteKey(name, signer.public_key, COSIGNATURE_V1) for name, signer in WITNESSES.items()
]
DATA = [b"entry %d" % number for number in range(11)]
LEAVES = [leaf_hash(data) for data in DATA]
TIME_S = 1_800_000_000


def note_of(size: int = len(LEAVES), signer: MemorySigner = LOG, origin: str = ORIGIN) -> bytes:
    body = Checkpoint(origin, size, root_hash(LEAVES[:size])).body()
    return sign_note(body, origin, signer).encode()


def cosigned(note: bytes, *names: str) -> bytes:
    for number, name in enumerate(names):
        note = add_cosignature(note, name, WITNESSES[name], time_s=TIME_S + number).encode()
    return note


def proof_of(index: int, size: int = len(LEAVES), names: tuple[str, ...] = ()) -> LogProof:
    hashes = tuple(inclusion_proof(LEAVES, index, size))
    return LogProof(index, hashes, cosigned(note_of(size), *names))


def verify(proof: LogProof, leaf: bytes, quorum: int = 0) -> ProvenInclusion:
    return verify_log_proof(
        proof, leaf, log_keys=LOG_KEYS, witness_keys=WITNESS_KEYS, quorum=quorum
    )


def test_the_file_is_what_the_specification_describes() -> None:
    proof = proof_of(6, names=("server",))
    lines = LogProof(6, proof.hashes, proof.checkpoint, b"app data").encode().split(b"\n")
    assert lines[0] == b"c2sp.org/tlog-proof@v1"
    assert lines[1] == b"extra YXBwIGRhdGE="
    assert lines[2] == b"index 6"
    assert [base64.b64decode(line) for line in lines[3:7]] == list(proof.hashes)
    assert lines[7] == b""
    assert b"\n".join(lines[8:]) == proof.checkpoint


def test_every_proof_of_every_small_log_holds_and_reads_back() -> None:
    for size in range(1, len(LEAVES) + 1):
        for index in range(size):
            proof = proof_of(index, size)
            assert LogProof.parse(proof.encode()) == proof
            shown = verify(proof, LEAVES[index])
            assert (shown.index, shown.checkpoint.size) == (index, size)


def test_a_proof_by_an_independent_implementation_holds() -> None:
    oracle = pymerkle.InmemoryTree(algorithm="sha256")
    for data in DATA:
        oracle.append_entry(data)
    for size in (1, 2, 5, 8, 11):
        body = Checkpoint(ORIGIN, size, oracle.get_root(size)).body()
        note = sign_note(body, ORIGIN, LOG).encode()
        for index in range(size):
            path = oracle.prove_inclusion(index + 1, size).serialize()["path"]
            # Its path begins with the leaf itself, and its indices with 1.
            hashes = tuple(bytes.fromhex(step) for step in path[1:])
            assert verify(LogProof(index, hashes, note), bytes.fromhex(path[0])).index == index


@given(
    index=st.integers(0, 2**63 - 1),
    hashes=st.lists(st.binary(min_size=32, max_size=32), max_size=MAX_HASHES),
    extra=st.none() | st.binary(min_size=1, max_size=300),
    names=st.sets(st.sampled_from(sorted(WITNESSES))),
)
def test_what_is_written_reads_back(
    index: int, hashes: list[bytes], extra: bytes | None, names: set[str]
) -> None:
    proof = LogProof(index, tuple(hashes), cosigned(note_of(), *sorted(names)), extra)
    assert LogProof.parse(proof.encode()) == proof


@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_foreign_bytes_are_refused_with_a_clear_error(data: bytes) -> None:
    for candidate in (data, b"c2sp.org/tlog-proof@v1\nindex 0\n" + data):
        with pytest.raises(FormatError):
            LogProof.parse(candidate)


def test_no_byte_can_be_changed() -> None:
    names = tuple(sorted(WITNESSES))
    whole = proof_of(6, names=names).encode()
    verify(LogProof.parse(whole), LEAVES[6], quorum=3)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises((FormatError, VerificationError)):
            verify(LogProof.parse(bytes(changed)), LEAVES[6], quorum=3)


# -- A18: forged proofs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (lambda p: LogProof(p.index, p.hashes[:-1], p.checkpoint), "too short"),
        (lambda p: LogProof(p.index, (), p.checkpoint), "too short"),
        (lambda p: LogProof(p.index, (*p.hashes, bytes(32)), p.checkpoint), "too long"),
        (lambda p: LogProof(p.index, (*p.hashes, p.hashes[-1]), p.checkpoint), "too long"),
        (lambda p: LogProof(len(LEAVES), p.hashes, p.checkpoint), "not in a tree"),
        (lambda p: LogProof(2**40, p.hashes, p.checkpoint), "not in a tree"),
        (lambda p: LogProof(p.index + 1, p.hashes, p.checkpoint), "not in the tree"),
        (lambda p: LogProof(p.index, p.hashes[::-1], p.checkpoint), "not in the tree"),
        (lambda p: LogProof(p.index, p.hashes, note_of(10)), "not in the tree"),
    ],
)
def test_a18_a_forged_proof_is_refused(forge, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        verify(forge(proof_of(6)), LEAVES[6])


def test_a18_an_inner_node_does_not_pass_for_a_leaf() -> None:
    inner = hashlib.sha256(b"\x01" + LEAVES[6] + LEAVES[7]).digest()
    proof = proof_of(6)
    with pytest.raises(VerificationError):
        verify(LogProof(3, proof.hashes[1:], proof.checkpoint), inner)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a18_a_hash_of_another_length_is_refused(length: int) -> None:
    proof = proof_of(6)
    with pytest.raises(FormatError, match="32 bytes"):
        LogProof(6, (*proof.hashes[:-1], bytes(length)), proof.checkpoint)
    line = base64.b64encode(proof.hashes[0])
    with pytest.raises(FormatError):
        LogProof.parse(proof.encode().replace(line, base64.b64encode(bytes(length)), 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"@v1\n", b"@v2\n"),
        (b"@v1\n", b"@v1\r\n"),
        (b"@v1\n", b"@v1\n\n"),
        (b"index 6\n", b""),
        (b"index 6\n", b"index 06\n"),
        (b"index 6\n", b"index +6\n"),
        (b"index 6\n", b"index -6\n"),
        (b"index 6\n", b"index 6 \n"),
        (b"index 6\n", b"index \xd9\xa6\n"),
        (b"index 6\n", b"index 9223372036854775808\n"),
        (b"index 6\n", b"index 6\nindex 6\n"),
        (b"index 6\n", b"index 6\nextra eA==\n"),
        (b"index 6\n", b"extra \nindex 6\n"),
        (b"index 6\n", b"extra eA=\nindex 6\n"),
        (b"index 6\n", b"extra eB==\nindex 6\n"),
        (b"index 6\n", b"extra eA==\nextra eA==\nindex 6\n"),
        (b"=\n\n", b"=\n"),
        (b"=\n\n", b"=\n\n\n"),
        (b"=\n\n", b"= \n\n"),
    ],
)
def test_another_form_is_refused(old: bytes, new: bytes) -> None:
    whole = proof_of(6).encode()
    assert old in whole
    with pytest.raises(FormatError):
        LogProof.parse(whole.replace(old, new, 1))


def test_limits_hold_before_anything_is_decoded() -> None:
    proof = proof_of(6)
    line = base64.b64encode(bytes(32)) + b"\n"
    with pytest.raises(FormatError, match="at most 63"):
        LogProof.parse(proof.encode().replace(b"index 6\n", b"index 6\n" + line * 60))
    with pytest.raises(FormatError, match="too long"):
        LogProof.parse(bytes(MAX_PROOF_BYTES + 1))
    with pytest.raises(FormatError, match="extra data"):
        LogProof(6, proof.hashes, proof.checkpoint, bytes(MAX_EXTRA_BYTES + 1))
    longest = LogProof(6, proof.hashes, proof.checkpoint, bytes(MAX_EXTRA_BYTES))
    assert LogProof.parse(longest.encode()) == longest
    for index in (-1, 1 << 63, True):
        with pytest.raises(FormatError):
            LogProof(index, proof.hashes, proof.checkpoint)
    with pytest.raises(FormatError):
        LogProof(0, (), sign_note("no checkpoint\n", ORIGIN, LOG).encode())


# -- signatures and witnesses ----------------------------------------------------------------------


def test_any_of_the_logs_keys_may_have_signed_and_none_else() -> None:
    hashes = tuple(inclusion_proof(LEAVES, 6, len(LEAVES)))
    assert verify(LogProof(6, hashes, note_of(signer=NEXT)), LEAVES[6])
    with pytest.raises(VerificationError, match="no signature of a known key"):
        verify(LogProof(6, hashes, note_of(signer=OTHER)), LEAVES[6])
    foreign = note_of(origin="other.example/log")
    with pytest.raises(VerificationError):
        verify(LogProof(6, hashes, foreign), LEAVES[6])


def test_a_witness_does_not_stand_for_the_log() -> None:
    body = Checkpoint(ORIGIN, len(LEAVES), root_hash(LEAVES)).body()
    note = sign_note(body, ORIGIN, OTHER).encode()
    hashes = tuple(inclusion_proof(LEAVES, 6, len(LEAVES)))
    with pytest.raises(VerificationError, match="did not sign its checkpoint"):
        verify(LogProof(6, hashes, cosigned(note, "server")), LEAVES[6])


def test_the_logs_key_does_not_sign_for_another_origin() -> None:
    body = Checkpoint("other.example/log", len(LEAVES), root_hash(LEAVES)).body()
    note = sign_note(body, ORIGIN, LOG).encode()
    hashes = tuple(inclusion_proof(LEAVES, 6, len(LEAVES)))
    with pytest.raises(VerificationError, match=r"other\.example"):
        verify(LogProof(6, hashes, note), LEAVES[6])


def test_too_few_witnesses_are_refused() -> None:
    shown = verify(proof_of(6, names=("server", "witness")), LEAVES[6], quorum=2)
    assert shown.cosigned_at_s == {"server": TIME_S, "witness": TIME_S + 1}
    with pytest.raises(VerificationError, match="of 2 witnesses; 3 are needed"):
        verify(proof_of(6, names=("server", "witness")), LEAVES[6], quorum=3)


def test_two_keys_of_one_witness_count_once() -> None:
    rotated = MemorySigner("server, rotated")
    keys = [*WITNESS_KEYS, NoteKey("server", rotated.public_key, COSIGNATURE_V1)]
    note = cosigned(note_of(), "server")
    note = add_cosignature(note, "server", rotated, time_s=TIME_S - 5).encode()
    proof = LogProof(6, tuple(inclusion_proof(LEAVES, 6, len(LEAVES))), note)
    found = verify_log_proof(proof, LEAVES[6], log_keys=LOG_KEYS, witness_keys=keys, quorum=1)
    assert found.cosigned_at_s == {"server": TIME_S - 5}
    with pytest.raises(VerificationError, match="of 1 witnesses; 2"):
        verify_log_proof(proof, LEAVES[6], log_keys=LOG_KEYS, witness_keys=keys, quorum=2)


def test_keys_of_two_logs_are_a_callers_mistake() -> None:
    other = NoteKey("other.example/log", LOG.public_key)
    for keys in ([], [*LOG_KEYS, other]):
        with pytest.raises(InputError, match="one origin"):
            verify_log_proof(proof_of(6), LEAVES[6], log_keys=keys)


@given(st.binary(max_size=64))
def test_base64_has_one_form(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert read_base64(text, "it", max_bytes=64) == data
    for other in (text + "\n", text + "=", " " + text, text.rstrip("=") + "é", 5, None):
        with pytest.raises(FormatError):
            read_base64(other, "it", max_bytes=64)
    with pytest.raises(FormatError):
        read_base64("A" * 96, "it", max_bytes=64)
