"""Membership proofs: alone, exact, unlinkable, and of no use to who guesses pseudonyms (A24)."""

from __future__ import annotations

import base64
import hashlib
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import canonical_json
from common.audit.membership import (
    MAX_MEMBERSHIP_BYTES,
    CheckedMembership,
    MembershipProof,
    check_membership,
    decode_way,
    encode_way,
)
from common.audit.merkle import inclusion_proof, leaf_hash
from common.audit.participation import Participation
from common.audit.proof_file import LogProof
from common.audit.sparse_merkle import (
    SparseMerkleTree,
    SparseProof,
    position,
    verify_absence,
    verify_membership,
)
from common.audit.verified_bundle import VerifiedBundle, open_verified
from common.errors import FedprefError, FormatError, VerificationError
from common.identifiers import subject_id
from tests.support.answered_bundle import answering
from tests.support.bundle_builder import REGIONS, RUN, Federation
from tests.support.customers import CustomersFederation, customer_key, keys_of

R1, R2 = REGIONS


@pytest.fixture(scope="module")
def honest() -> Federation:
    return CustomersFederation(customers=9).run()


@pytest.fixture(scope="module")
def bundle(honest: Federation, tmp_path_factory: pytest.TempPathFactory) -> VerifiedBundle:
    return open_verified(honest.write(tmp_path_factory.mktemp("honest")))


def proofs(bundle: VerifiedBundle, region: str, customer: int) -> list[CheckedMembership]:
    part = Participation(bundle, region, customer_key(region, customer).sid)
    return [part.prove(standing) for standing in part.rounds(RUN)]


def test_each_proof_stands_alone_and_says_what_is_so(
    honest: Federation, bundle: VerifiedBundle
) -> None:
    keys = keys_of(honest)
    # Of each four customers the third withdraws after round 1, and the fourth refuses.
    expected = {0: [True, True], 1: [True, True], 2: [True, False], 3: [False, False]}
    for region in REGIONS:
        for customer in range(honest.customers):
            found = proofs(bundle, region, customer)
            assert [each.member for each in found] == expected[customer % 4]
            for each in found:
                read = MembershipProof.parse(each.proof.encode())
                assert read == each.proof
                alone = check_membership(read, keys)
                assert alone.logged.party == region
                assert alone.logged.witnessed


def test_who_never_consented_is_absent_everywhere(bundle: VerifiedBundle) -> None:
    assert [each.member for each in proofs(bundle, R1, 99)] == [False, False]


def test_a_proof_names_nobody_else(honest: Federation, bundle: VerifiedBundle) -> None:
    for customer in (0, 2, 3):
        for each in proofs(bundle, R1, customer):
            data = each.proof.encode()
            others = [
                customer_key(R1, other).sid
                for other in range(honest.customers)
                if other != customer
            ]
            assert not any(sid.encode() in data for sid in others)
            assert not any(bytes.fromhex(sid) in encode_way(each.proof.way) for sid in others)
            assert not any(sid in json.dumps(each.logged.record) for sid in others)
            assert not any(sid.encode() in each.proof.entry for sid in others)


# -- answers to queries ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answered() -> Federation:
    return answering().answer_all()


@pytest.fixture(scope="module")
def of_answers(
    answered: Federation, tmp_path_factory: pytest.TempPathFactory
) -> list[CheckedMembership]:
    """The first answer, of a customer who was in it and of one who had withdrawn."""
    opened = open_verified(answered.write(tmp_path_factory.mktemp("answered")))
    parts = [Participation(opened, R1, customer_key(R1, customer).sid) for customer in (0, 2)]
    return [part.prove(next(iter(part.answers()))) for part in parts]


def test_an_answer_s_proof_stands_alone_too(
    answered: Federation, of_answers: list[CheckedMembership]
) -> None:
    for each, member in zip(of_answers, (True, False), strict=True):
        assert (each.member, each.proof.what) == (member, "answer")
        read = MembershipProof.parse(each.proof.encode())
        assert read == each.proof
        alone = check_membership(read, keys_of(answered))
        assert alone.logged.record["mechanism"] == "scenes"
        assert alone.logged.witnessed


def test_one_kind_of_proof_is_not_taken_for_the_other(
    answered: Federation, of_answers: list[CheckedMembership]
) -> None:
    record = json.loads(of_answers[0].proof.encode())
    attempts: list[dict[str, object]] = [
        {**record, "v": "fedpref-membership/1"},
        {**record, "v": "fedpref-answer-membership/2"},
        {**record, "v": ["fedpref-membership/1"]},
        {**record, "round_entry": record["answer_entry"]},
    ]
    renamed = {**record, "v": "fedpref-membership/1", "round_entry": record["answer_entry"]}
    del renamed["answer_entry"]
    for attempt in (*attempts, renamed):
        data = canonical_json.encode(attempt, max_bytes=MAX_MEMBERSHIP_BYTES)
        with pytest.raises(FormatError):
            check_membership(MembershipProof.parse(data), keys_of(answered))
    for attempt in ([], None, "fedpref-membership/1"):
        with pytest.raises(FormatError):
            MembershipProof.parse(canonical_json.encode(attempt))


# -- tampering -------------------------------------------------------------------------------------


def changed(proof: MembershipProof, **fields: object) -> bytes:
    record = {**json.loads(proof.encode()), **fields}
    return canonical_json.encode(record, max_bytes=MAX_MEMBERSHIP_BYTES)


def test_no_field_can_be_changed(honest: Federation, bundle: VerifiedBundle) -> None:
    keys = keys_of(honest)
    present, absent = (proofs(bundle, R1, 2)[n].proof for n in (0, 1))
    neighbour, foreign = proofs(bundle, R1, 0)[0].proof, proofs(bundle, R2, 2)[0].proof
    records = {
        name: json.loads(proof.encode())
        for name, proof in (
            ("present", present),
            ("absent", absent),
            ("neighbour", neighbour),
            ("foreign", foreign),
        )
    }
    for proof, own in ((present, "present"), (absent, "absent")):
        mine = records[own]["membership"]
        other_kind = {"member": "absent", "absent": "member"}[mine["kind"]]
        attempts: list[dict[str, object]] = [
            {"v": "fedpref-membership/2"},
            {"sid": customer_key(R1, 4).sid},
            {"sid": customer_key(R1, 7 if own == "present" else 0).sid},
            {"sid": records[own]["sid"].upper()},
            {"nonce": "0" * 64},
            {"membership": {**mine, "kind": other_kind}},
            {"membership": {**mine, "kind": "maybe"}},
            {"membership": {**mine, "way": ""}},
            {"membership": {**mine, "way": mine["way"] + "AAAA"}},
            {"membership": {**mine, "more": 1}},
            {"membership": records["neighbour"]["membership"]},
            {"log_proof": records["foreign"]["log_proof"]},
            {"log_proof": None},
            {"round_entry": records["foreign"]["round_entry"]},
            {"round_entry": records[own]["round_entry"][:-4]},
            {"more": 1},
        ]
        other = records["absent" if own == "present" else "present"]
        attempts += [{name: other[name]} for name in ("membership", "nonce", "round_entry")]
        for attempt in attempts:
            with pytest.raises(FedprefError) as caught:
                check_membership(MembershipProof.parse(changed(proof, **attempt)), keys)
            assert caught.value.exit_code in (3, 8), attempt
        for name in records[own]:
            less = {key: value for key, value in records[own].items() if key != name}
            with pytest.raises(FormatError):
                MembershipProof.parse(canonical_json.encode(less, max_bytes=MAX_MEMBERSHIP_BYTES))


def test_no_byte_of_the_way_can_be_changed(honest: Federation, bundle: VerifiedBundle) -> None:
    keys = keys_of(honest)
    for customer in (0, 3):
        proof = proofs(bundle, R1, customer)[0].proof
        way = encode_way(proof.way)
        kind = json.loads(proof.encode())["membership"]["kind"]
        for place in range(len(way)):
            flipped = bytearray(way)
            flipped[place] ^= 1
            text = base64.b64encode(flipped).decode()
            data = changed(proof, membership={"kind": kind, "way": text})
            with pytest.raises((VerificationError, FormatError)):
                check_membership(MembershipProof.parse(data), keys)


def test_a_fault_names_the_entry(honest: Federation, bundle: VerifiedBundle) -> None:
    proof = proofs(bundle, R1, 0)[1].proof
    data = changed(proof, sid=customer_key(R1, 3).sid)
    with pytest.raises(VerificationError, match=f"log {R1}, entry {proof.log_proof.index}"):
        check_membership(MembershipProof.parse(data), keys_of(honest))


def test_a_round_that_too_few_witnesses_saw_proves_nothing(
    honest: Federation, bundle: VerifiedBundle
) -> None:
    proof = proofs(bundle, R1, 0)[0].proof
    note = honest.cosign(R1, honest.checkpoint(R1, bundle.replay(R1).size), ["server"])
    index = proof.log_proof.index
    leaves = [leaf_hash(entry) for entry in honest.logs[R1]]
    weak = LogProof(index, tuple(inclusion_proof(leaves, index, len(leaves))), note)
    data = changed(proof, log_proof=weak.encode().decode())
    with pytest.raises(VerificationError, match="1 other parties cosigned"):
        check_membership(MembershipProof.parse(data), keys_of(honest))


# -- the way in binary -----------------------------------------------------------------------------


@given(
    leaf=st.binary(min_size=32, max_size=32),
    steps=st.lists(st.tuples(st.integers(0, 255), st.binary(min_size=32, max_size=32))),
)
def test_a_way_reads_back(leaf: bytes, steps: list[tuple[int, bytes]]) -> None:
    proof = SparseProof(leaf, tuple(steps[:256]))
    assert decode_way(encode_way(proof)) == proof


def test_the_empty_trees_way_is_empty() -> None:
    empty = SparseMerkleTree([])
    way = encode_way(empty.prove(bytes(32)))
    assert way == b""
    verify_absence(empty.root, bytes(32), decode_way(way))


@pytest.mark.parametrize("length", [1, 31, 33, 64, 32 + 34, 32 + 33 * 257])
def test_a_way_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(FormatError):
        decode_way(bytes(length))


def test_ways_are_short() -> None:
    """A tree of 2^14 takes 14 branches and a few; a million adds six, each of 33 bytes."""
    rng = random.Random(7)
    tree = SparseMerkleTree(rng.randbytes(32) for _ in range(1 << 14))
    lengths = [len(encode_way(tree.prove(rng.randbytes(32)))) for _ in range(500)]
    assert sum(lengths) / len(lengths) <= 32 + 33 * 16
    assert max(lengths) + 6 * 33 <= 900


# -- A24: guessing, and linking --------------------------------------------------------------------

DICTIONARY = [f"customer-{number}" for number in range(2000)]


def unkeyed_sid(customer_ref: str) -> str:
    """What a pseudonym would be without the customer's own secret."""
    return hashlib.sha256(b"fedpref-sid/1" + customer_ref.encode()).hexdigest()


def guess(sids: set[str], name: object) -> dict[str, str]:
    return {ref: name(ref) for ref in DICTIONARY if name(ref) in sids}


def test_a24_references_cannot_be_found_by_trying_them(honest: Federation) -> None:
    refs = [customer_key(R1, customer).customer_ref for customer in range(honest.customers)]
    assert set(refs) <= set(DICTIONARY)
    keyed = {customer_key(R1, customer).sid for customer in range(honest.customers)}
    unkeyed = {unkeyed_sid(ref) for ref in refs}
    # Undefended, everyone is found; with the secret, nobody: not even with all others' secrets.
    assert set(guess(unkeyed, unkeyed_sid)) == set(refs)
    attempts = [unkeyed_sid, lambda ref: subject_id(bytes(32), ref)]
    for other in range(1, honest.customers):
        secret = customer_key(R1, other).k_subject
        attempts.append(lambda ref, secret=secret: subject_id(secret, ref))
    target = keyed - {customer_key(R1, other).sid for other in range(1, honest.customers)}
    assert target
    assert not any(guess(target, attempt) for attempt in attempts)


def test_a24_a_proofs_neighbour_cannot_be_found_by_trying_references(
    honest: Federation, bundle: VerifiedBundle
) -> None:
    for each in proofs(bundle, R1, 3):
        leaf = each.proof.way.leaf
        nonce = bytes.fromhex(each.proof.nonce)
        tried = {position(nonce, bytes.fromhex(unkeyed_sid(ref))) for ref in DICTIONARY}
        assert leaf not in tried
        # Undefended, the same proof would give the neighbour away.
        names = [customer_key(R1, n).customer_ref for n in range(honest.customers) if n != 3]
        open_tree = SparseMerkleTree(position(nonce, bytes.fromhex(unkeyed_sid(n))) for n in names)
        wanted = position(nonce, bytes.fromhex(unkeyed_sid("customer-3")))
        assert open_tree.prove(wanted).leaf in tried


def test_positions_of_two_rounds_are_linked_by_the_pseudonym_alone(
    honest: Federation, bundle: VerifiedBundle
) -> None:
    first, second = proofs(bundle, R1, 0)
    assert first.proof.nonce != second.proof.nonce
    assert first.proof.way.leaf != second.proof.way.leaf
    nonces = [bytes.fromhex(each.proof.nonce) for each in (first, second)]
    sids = [bytes.fromhex(customer_key(R1, n).sid) for n in range(honest.customers)]
    known = dict.fromkeys(position(nonces[0], sid) for sid in sids)
    later = {position(nonces[1], sid) for sid in sids}
    assert not known.keys() & later
    # What an observer can compute from a position is no position of another round either.
    assert not {position(nonces[1], leaf) for leaf in known} & later
    # With the pseudonym, and with nothing else, the two are found to be one customer's.
    owner = {
        sid
        for sid in sids
        if (position(nonces[0], sid), position(nonces[1], sid))
        == (first.proof.way.leaf, second.proof.way.leaf)
    }
    assert owner == {bytes.fromhex(customer_key(R1, 0).sid)}
    # Undefended, with one nonce for all rounds, everybody who stays would stand at the same place.
    stayed = {sid for n, sid in enumerate(sids) if n % 4 != 2}
    assert {position(nonces[0], sid) for sid in stayed} <= known.keys()


def test_absence_and_presence_exclude_each_other(bundle: VerifiedBundle) -> None:
    for customer in (0, 3):
        for each in proofs(bundle, R1, customer):
            root = bytes.fromhex(each.logged.record["train"]["root"])
            wanted = position(bytes.fromhex(each.proof.nonce), bytes.fromhex(each.proof.sid))
            other = verify_absence if each.member else verify_membership
            with pytest.raises(VerificationError):
                other(root, wanted, each.proof.way)
