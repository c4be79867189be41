"""Targets: checkpoints, proofs, receipts and what a witness is asked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from common.audit.checkpoint import (
    COSIGNATURE_V1,
    Checkpoint,
    NoteKey,
    cosignature_time_s,
    open_note,
    parse_note,
)
from common.audit.customer_key import CustomerKey
from common.audit.membership import MembershipProof, check_membership
from common.audit.participation import Participation
from common.audit.proof_file import LogProof
from common.audit.receipt import Receipt, check_receipt
from common.audit.tiles import Tile, decode_bundle, encode_bundle
from common.audit.verified_bundle import open_verified
from common.audit.witness.request import AddCheckpoint
from common.audit.witness.store import WitnessStore
from common.audit.witness.witness import Witness
from common.errors import FormatError
from tests.fuzz.record_targets import entries, federation, scratch
from tests.fuzz.target import Target, same
from tests.support.branching_log import BranchingLog
from tests.support.bundle_builder import FEDERATION, REGIONS, RUN
from tests.support.customers import CustomersFederation, customer_key, keys_of, receipt_of
from tests.support.memory_signer import MemorySigner

_LOG = BranchingLog()
_WITNESS = MemorySigner("witness")


@cache
def _keys() -> list[NoteKey]:
    made = [
        NoteKey(f"{FEDERATION}/{party}", signer.public_key)
        for (party, role), signer in federation().keys.items()
        if role == "log"
    ]
    return made + [
        NoteKey(party, signer.public_key, COSIGNATURE_V1)
        for (party, role), signer in federation().keys.items()
        if role == "witness"
    ]


def _notes() -> Iterator[bytes]:
    for party, log in federation().logs.items():
        yield federation().checkpoint(party, len(log))
        yield federation().cosigned(party, 3)


def _note(data: bytes) -> None:
    note = parse_note(data)
    same(note.encode().encode(), data)
    for line in open_note(data, _keys()).verified:
        if line.name in REGIONS:
            cosignature_time_s(line)


def _checkpoint(data: bytes) -> None:
    text = _text(data)
    same(Checkpoint.parse(text).body(), text)


def _note_key(data: bytes) -> None:
    text = _text(data)
    same(NoteKey.parse(text).verifier_key, text)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("It is not UTF-8.") from error


def _bundle(data: bytes) -> None:
    """An entry bundle of as many entries as its first byte says."""
    same(encode_bundle(decode_bundle(data[1:], data[0] if data else 0)), data[1:])


def _tile(data: bytes) -> None:
    same(Tile.decode(data).encode(), data)


def _log_proof(data: bytes) -> None:
    same(LogProof.parse(data).encode(), data)


def _log_proofs() -> Iterator[bytes]:
    for region, log in federation().logs.items():
        note = federation().cosigned(region, len(log))
        proof = LogProof.parse(Receipt.parse(_receipts()[0]).proof.encode())
        yield LogProof(1, proof.hashes, note).encode()
        yield LogProof(0, (), note, extra=b"more").encode()


@cache
def _customers() -> CustomersFederation:
    made = CustomersFederation(customers=4)
    made.run()
    return made


@cache
def _receipts() -> list[bytes]:
    """A grant's and a withdrawal's, in both languages."""
    known, region = _customers(), REGIONS[0]
    places = [known.find(region, "consent", number) for number in (0, known.customers)]
    return [
        receipt_of(known, region, place, lang=lang) for place in places for lang in ("en", "zh")
    ]


def _receipt(data: bytes) -> None:
    same(Receipt.parse(data).encode(), data)
    same(check_receipt(data, keys_of(_customers())).receipt.encode(), data)


def _membership(data: bytes) -> None:
    proof = MembershipProof.parse(data)
    same(proof.encode(), data)
    check_membership(proof, keys_of(_customers()))


@cache
def _memberships() -> list[bytes]:
    bundle = open_verified(_customers().write(scratch() / "members"))
    return [
        Participation(bundle, REGIONS[0], customer_key(REGIONS[0], customer).sid)
        .prove(standing)
        .proof.encode()
        for customer in (0, 3)
        for standing in Participation(
            bundle, REGIONS[0], customer_key(REGIONS[0], customer).sid
        ).rounds(RUN)
    ]


def _customer_key(data: bytes) -> None:
    same(CustomerKey.parse(data).encode(), data)


def _witness_request(data: bytes) -> None:
    same(AddCheckpoint.parse(data).encode(), data)


@cache
def _witness_memory() -> Path:
    """A witness's store that has cosigned size 5 of the log."""
    path = scratch() / "witness.sqlite"
    with WitnessStore.open(path, create=True) as store:
        _witness(store).cosign(_LOG.note(5), 0, [])
    return path


def _witness(store: WitnessStore) -> Witness:
    keys = {_LOG.origin: [_LOG.key]}
    return Witness(
        store, name="witness", signer=_WITNESS, log_keys=keys, clock_s=lambda: 1_800_000_000
    )


def _cosign(data: bytes) -> None:
    """Asks a witness that knows size 5; where the first byte is odd, the log signs what it says."""
    request = AddCheckpoint.parse(data[1:])
    note = request.note
    if data[0] & 1:
        text = parse_note(note).text
        key = NoteKey(_LOG.origin, _LOG.signer.public_key)
        line = parse_note(_LOG.note(5)).signatures[0]
        raw = _LOG.signer.sign(text.encode())
        note = f"{text}\n".encode() + type(line)(key.name, key.id, raw).line.encode()
    path = scratch() / "asked.sqlite"
    for left in scratch().glob("asked.sqlite*"):
        left.unlink()
    shutil.copyfile(_witness_memory(), path)
    with WitnessStore.open(path) as store:
        witness = _witness(store)
        line_text = witness.cosign(note, request.old_size, request.proof)
        kept = witness.notes()[_LOG.origin]
        same(kept.decode().endswith(line_text), True)
        opened = open_note(kept, [_LOG.key, witness.key])
        same(len(opened.verified), 2)
        if Checkpoint.parse(opened.text).size < 5:
            raise AssertionError("the witness went back")


def _requests() -> Iterator[bytes]:
    for size in (5, 6, 8, 40):
        yield AddCheckpoint(_LOG.note(size), 5, tuple(_LOG.proof(5, size))).encode()


TARGETS = (
    Target("note", _note, _notes, runs=500),
    Target(
        "checkpoint",
        _checkpoint,
        lambda: [parse_note(note).text.encode() for note in _notes()],
        runs=5000,
    ),
    Target(
        "note-key", _note_key, lambda: [key.verifier_key.encode() for key in _keys()], runs=5000
    ),
    Target(
        "entry-bundle",
        _bundle,
        lambda: [
            bytes([3]) + encode_bundle(entries()[:3]),
            bytes([2]) + encode_bundle([b"", b"x"]),
        ],
        head_bytes=1,
        runs=5000,
    ),
    Target("hash-tile", _tile, lambda: [bytes(32), bytes(64), bytes(range(256)) * 32], runs=1000),
    Target("log-proof", _log_proof, _log_proofs, runs=1500),
    Target("receipt", _receipt, _receipts, runs=200),
    Target("membership", _membership, _memberships, runs=200),
    Target(
        "customer-key", _customer_key, lambda: [customer_key(REGIONS[0], 1).encode()], runs=2000
    ),
    Target("witness-request", _witness_request, _requests, runs=4000),
    Target(
        "witness",
        _cosign,
        lambda: [bytes([number % 2]) + each for number, each in enumerate(_requests())],
        head_bytes=1,
        runs=50,
    ),
)
