"""The rules of C2SP tlog-witness, one by one, and what holds whatever is asked."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.audit.checkpoint import (
    COSIGNATURE_V1,
    Checkpoint,
    NoteKey,
    add_cosignature,
    cosignature_time_s,
    open_checkpoint,
    open_note,
    parse_note,
    sign_note,
)
from common.audit.merkle import EMPTY_ROOT
from common.audit.witness.store import SPLIT_VIEW, UNPROVEN, WitnessStore
from common.audit.witness.witness import (
    ConflictError,
    OldSizeError,
    ProofError,
    StaleSizeError,
    Submission,
    UnknownLogError,
    UnsignedError,
    Witness,
)
from common.errors import FormatError, StorageError
from tests.support.branching_log import BranchingLog
from tests.support.memory_signer import MemorySigner

LOG = BranchingLog()
KEY = MemorySigner("witness")
TIME_S = 1_800_000_000


class Clock:
    def __init__(self, time_s=TIME_S):
        self.time_s = time_s

    def __call__(self):
        return self.time_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path):
    with WitnessStore.open(tmp_path / "witness.sqlite", create=True) as store:
        yield store


@pytest.fixture
def witness(store, clock):
    return witness_on(store, clock)


def witness_on(store, clock=None, keys=None, signer=KEY):
    keys = {LOG.origin: [LOG.key]} if keys is None else keys
    return Witness(store, name="witness", signer=signer, log_keys=keys, clock_s=clock or Clock())


def ask(witness, size, old=0, branch="true", proof=None):
    proof = LOG.proof(old, size, branch) if proof is None else proof
    return witness.cosign(LOG.note(size, branch), old, proof)


def test_a_first_checkpoint_and_one_that_continues_it_are_cosigned(witness):
    for old, size in ((0, 3), (3, 8), (8, 8), (8, 21)):
        line = ask(witness, size, old)
        cosigned = open_checkpoint(LOG.note(size) + line.encode(), LOG.key, [witness.key])
        assert cosigned.cosigned_at_s == {"witness": TIME_S}
        (note,) = witness.notes().values()
        assert open_checkpoint(note, LOG.key, [witness.key]).checkpoint == LOG.checkpoint(size)
        assert note.endswith(line.encode())


def test_the_cosignature_is_one_line_of_the_witness_over_text_and_time(witness):
    line = ask(witness, 3)
    assert line.startswith("\u2014 witness ")
    assert line.endswith("\n")
    assert line.count("\n") == 1
    (signature,) = parse_note(f"x\n\n{line}".encode()).signatures
    assert signature.key_id == NoteKey("witness", KEY.public_key, COSIGNATURE_V1).id
    assert cosignature_time_s(signature) == TIME_S
    assert len(signature.signature) == 8 + 64


def test_an_unknown_log_is_404(witness):
    other = BranchingLog("small.example/region-9")
    with pytest.raises(UnknownLogError, match="region-9") as refusal:
        witness.cosign(other.note(3), 0, [])
    assert refusal.value.status == 404


@pytest.mark.parametrize(
    "note",
    [
        LOG.note(3, signer=MemorySigner("someone")),
        LOG.note(3).replace(b"region-1\n3\n", b"region-1\n2\n"),
        sign_note(LOG.checkpoint(3).body(), "small.example/region-2", LOG.signer).encode(),
    ],
    ids=["other key", "altered text", "other name"],
)
def test_no_valid_signature_of_the_log_is_403(witness, note):
    with pytest.raises(UnsignedError) as refusal:
        witness.cosign(note, 0, [])
    assert refusal.value.status == 403
    assert witness.notes() == {}


def test_a_false_signature_of_one_log_key_is_403_though_another_holds(store):
    second = MemorySigner("second key of the log")
    keys = [LOG.key, NoteKey(LOG.origin, second.public_key)]
    true, false = LOG.note(3), LOG.note(4, signer=second).split(b"\n\n")[1]
    with pytest.raises(UnsignedError):
        witness_on(store, keys={LOG.origin: keys}).cosign(true + false, 0, [])


def test_signatures_by_unknown_keys_are_ignored_and_not_kept(witness):
    stranger = MemorySigner("stranger")
    note = add_cosignature(LOG.note(3), "stranger", stranger, time_s=1).encode()
    witness.cosign(note, 0, [])
    assert b"stranger" not in witness.notes()[LOG.origin]


def test_a_log_whose_keys_are_all_out_of_force_is_403(store):
    with pytest.raises(UnsignedError):
        ask(witness_on(store, keys={LOG.origin: []}), 3)


@pytest.mark.parametrize("old", [4, 1 << 62, -1])
def test_an_old_size_beyond_the_checkpoint_is_400(witness, old):
    with pytest.raises(OldSizeError) as refusal:
        witness.cosign(LOG.note(3), old, [])
    assert refusal.value.status == 400


def test_an_old_size_that_is_not_the_known_one_is_409_with_the_known(witness):
    ask(witness, 3)
    ask(witness, 8, 3)
    for old, size in ((0, 8), (3, 8), (7, 9), (0, 3), (3, 3)):
        with pytest.raises(StaleSizeError) as refusal:
            ask(witness, size, old)
        assert refusal.value.status == 409
        assert refusal.value.known_size == 8
        assert not refusal.value.split_view
    assert witness.evidence() == []


def test_an_unknown_log_size_is_zero(witness):
    with pytest.raises(StaleSizeError) as refusal:
        ask(witness, 8, 3)
    assert refusal.value.known_size == 0


def test_a_rollback_is_409_and_the_head_stays(witness):
    ask(witness, 8)
    with pytest.raises(StaleSizeError) as refusal:
        ask(witness, 5, 5)
    assert refusal.value.known_size == 8
    assert open_note(witness.notes()[LOG.origin], [LOG.key]).text == LOG.checkpoint(8).body()


def test_another_root_of_the_known_size_is_422_and_both_notes_are_kept(witness):
    ask(witness, 8)
    with pytest.raises(ConflictError) as refusal:
        ask(witness, 8, 8, "forked")
    assert refusal.value.status == 422
    (kept,) = witness.evidence()
    assert (kept.origin, kept.kind, kept.found_at_s) == (LOG.origin, SPLIT_VIEW, TIME_S)
    for note, branch in ((kept.known, "true"), (kept.other, "forked")):
        assert open_checkpoint(note, LOG.key).checkpoint == LOG.checkpoint(8, branch)
    assert open_checkpoint(kept.known, LOG.key, [witness.key]).cosigned_at_s


def test_another_root_of_an_earlier_cosigned_size_is_409_and_kept_too(witness):
    ask(witness, 8)
    ask(witness, 20, 8)
    with pytest.raises(StaleSizeError) as refusal:
        ask(witness, 8, 0, "forked")
    assert refusal.value.split_view
    (kept,) = witness.evidence()
    assert kept.kind == SPLIT_VIEW
    assert parse_note(kept.known).text == LOG.checkpoint(8).body()


@pytest.mark.parametrize(
    "proof",
    [[], LOG.proof(7, 12)[:-1], [*LOG.proof(7, 12), bytes(32)], LOG.proof(7, 12)[::-1]],
    ids=["none", "short", "long", "order"],
)
def test_a_proof_that_does_not_hold_is_422(witness, proof):
    ask(witness, 7)
    with pytest.raises(ConflictError) as refusal:
        ask(witness, 12, 7, proof=proof)
    assert refusal.value.status == 422
    (kept,) = witness.evidence()
    assert kept.kind == UNPROVEN
    assert ask(witness, 12, 7)


def test_a_branch_is_422_and_kept(witness):
    ask(witness, 8)
    with pytest.raises(ConflictError):
        ask(witness, 12, 8, "forked")
    (kept,) = witness.evidence()
    assert kept.kind == UNPROVEN
    assert parse_note(kept.other).text == LOG.checkpoint(12, "forked").body()


def test_a_branch_is_convicted_once_the_true_checkpoint_of_its_size_is_known(witness):
    ask(witness, 8)
    with pytest.raises(ConflictError):
        ask(witness, 12, 8, "forked")
    ask(witness, 12, 8)
    (kept,) = witness.evidence()
    assert kept.kind == SPLIT_VIEW
    assert parse_note(kept.known).text == LOG.checkpoint(12).body()
    assert parse_note(kept.other).text == LOG.checkpoint(12, "forked").body()


def test_a_true_checkpoint_handed_in_with_a_false_proof_is_cleared_by_the_proof(witness):
    ask(witness, 8)
    with pytest.raises(ConflictError):
        ask(witness, 12, 8, proof=[bytes(32)])
    assert witness.evidence()
    ask(witness, 12, 8)
    assert witness.evidence() == []


@pytest.mark.parametrize("old", [0, 8])
def test_a_proof_where_none_is_due_is_422_and_says_nothing_of_the_log(witness, old):
    if old:
        ask(witness, old)
    with pytest.raises(ProofError) as refusal:
        ask(witness, 8, old, proof=[bytes(32)])
    assert refusal.value.status == 422
    assert not isinstance(refusal.value, ConflictError)
    assert witness.evidence() == []


def test_a_log_without_entries_is_cosigned_only_with_the_empty_root(witness):
    bad = sign_note(Checkpoint(LOG.origin, 0, bytes(32)).body(), LOG.origin, LOG.signer).encode()
    with pytest.raises(ProofError) as refusal:
        witness.cosign(bad, 0, [])
    assert refusal.value.status == 422
    good = sign_note(Checkpoint(LOG.origin, 0, EMPTY_ROOT).body(), LOG.origin, LOG.signer).encode()
    assert witness.cosign(good, 0, [])
    assert witness.cosign(good, 0, [])
    with pytest.raises(ConflictError):
        witness.cosign(bad, 0, [])
    assert ask(witness, 3)
    with pytest.raises(StaleSizeError):
        witness.cosign(bad, 0, [])


@pytest.mark.parametrize(
    "proof", [[bytes(31)], [bytes(33)], [b""], [bytes(32)] * 64], ids=["31", "33", "0", "64 lines"]
)
def test_a_malformed_proof_is_refused_before_anything_is_looked_at(witness, proof):
    with pytest.raises(FormatError):
        ask(witness, 8, 0, proof=proof)


@pytest.mark.parametrize(
    "text",
    [
        f"{LOG.origin}\n3\n",
        f"{LOG.origin}\n03\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{LOG.origin}\n-1\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{LOG.origin}\n0\nAAAA\n",
        f"{LOG.origin}\n{1 << 63}\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{LOG.origin}\n3\n{base64.b64encode(bytes(31)).decode()}\n",
        LOG.checkpoint(3).body() + "extension\n",
    ],
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(witness, text):
    with pytest.raises(FormatError):
        witness.cosign(sign_note(text, LOG.origin, LOG.signer).encode(), 0, [])
    assert witness.notes() == {}


@pytest.mark.parametrize("note", [b"", b"\n\n", b"\xff", b"x\n\n", b"x\n\n\xe2\x80\x94 x\n"])
def test_what_is_no_note_is_refused(witness, note):
    with pytest.raises(FormatError):
        witness.cosign(note, 0, [])


def test_times_of_cosignatures_never_go_back(witness, clock):
    times = []
    for old, size, time_s in ((0, 3, 0), (3, 3, 100), (3, 8, 40), (8, 8, 100), (8, 9, 101)):
        clock.time_s = time_s
        line = ask(witness, size, old)
        (signature,) = parse_note(f"x\n\n{line}".encode()).signatures
        times.append(cosignature_time_s(signature))
    # The protocol forbids the time 0.
    assert times == [1, 100, 100, 100, 101]


def test_a_key_that_does_not_sign_changes_nothing(store):
    class Broken(MemorySigner):
        def sign(self, message):
            raise StorageError("The key is out of reach.")

    with pytest.raises(StorageError):
        ask(witness_on(store, signer=Broken("broken")), 3)
    assert store.seen(LOG.origin) is None
    assert ask(witness_on(store), 3)


def test_logs_are_apart(store):
    other = BranchingLog("small.example/region-2")
    witness = witness_on(store, keys={LOG.origin: [LOG.key], other.origin: [other.key]})
    ask(witness, 8)
    assert witness.cosign(other.note(3, "forked"), 0, [])
    assert {origin: seen.size for origin, seen in witness.heads().items()} == {
        LOG.origin: 8,
        other.origin: 3,
    }


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["true", "forked"]),
        st.integers(0, 14),
        st.one_of(st.integers(0, 14), st.just("known")),
        st.sampled_from(["right", "right", "right", "other branch", "none", "long"]),
        st.booleans(),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(requests=REQUESTS)
def test_whatever_is_asked_all_that_is_cosigned_is_one_growing_tree(requests):
    cosigned = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "witness.sqlite"
        store = WitnessStore.open(path, create=True)
        for branch, size, old, kind, restart in requests:
            if restart:
                store.close()
                store = WitnessStore.open(path)
            seen = store.seen(LOG.origin)
            old = (seen.size if seen else 0) if old == "known" else old
            other = {"true": "forked", "forked": "true"}[branch]
            proof = {
                "right": LOG.proof(old, size, branch),
                "other branch": LOG.proof(old, size, other),
                "none": [],
                "long": [*LOG.proof(old, size, branch), bytes(32)],
            }[kind]
            try:
                witness_on(store).cosign(LOG.note(size, branch), old, proof)
            except (OldSizeError, ProofError, StaleSizeError):
                continue
            cosigned.append((size, LOG.root(size, branch)))
        evidence = store.evidence()
        store.close()
    assert [size for size, _ in cosigned] == sorted(size for size, _ in cosigned)
    branches = [
        all(LOG.root(size, branch) == root for size, root in cosigned)
        for branch in ("true", "forked")
    ]
    assert any(branches)
    for each in evidence:
        known, other = (open_checkpoint(n, LOG.key).checkpoint for n in (each.known, each.other))
        if each.kind == SPLIT_VIEW:
            assert known.size == other.size
            assert known.root != other.root
        else:
            assert known.size < other.size


# Several at once.


def test_several_are_judged_each_by_itself_and_committed_at_once(
    store: WitnessStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = BranchingLog("other.example/log")
    witness = witness_on(store, keys={LOG.origin: [LOG.key], other.origin: [other.key]})
    commits = count_commits(store, monkeypatch)
    stranger = BranchingLog("stranger.example/log")
    answers = witness.cosign_all(
        [
            Submission(LOG.note(3), 0, ()),
            Submission(stranger.note(3), 0, ()),
            Submission(other.note(4), 0, ()),
            Submission(LOG.note(5), 3, tuple(LOG.proof(3, 5))),
            Submission(LOG.note(8), 4, ()),
            Submission(LOG.note(5, "forked"), 5, ()),
            Submission(b"nonsense", 0, ()),
        ]
    )
    assert [type(each) for each in answers] == [
        str,
        UnknownLogError,
        str,
        str,
        StaleSizeError,
        ConflictError,
        FormatError,
    ]
    assert commits == [1]
    heads = {origin: seen.size for origin, seen in witness.heads().items()}
    assert heads == {LOG.origin: 5, other.origin: 4}
    assert [each.kind for each in witness.evidence()] == ["split-view"]


def test_nothing_to_judge_is_no_commit(
    store: WitnessStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = count_commits(store, monkeypatch)
    (answer,) = witness_on(store).cosign_all([Submission(b"nonsense", 0, ())])
    assert isinstance(answer, FormatError)
    assert witness_on(store).cosign_all([]) == []
    assert commits == [0]


def test_what_is_not_durable_is_given_to_nobody(
    store: WitnessStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = witness_on(store)

    def full(_: Checkpoint, __: bytes, ___: int) -> None:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(store, "advance", full)
    with pytest.raises(StorageError):
        witness.cosign_all([Submission(LOG.note(3), 0, ())])
    assert witness.heads() == {}


def count_commits(store: WitnessStore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a transaction was left, in a list of one number."""
    counted, plain = [0], store.transaction

    @contextmanager
    def transaction() -> Iterator[None]:
        with plain():
            yield
        counted[0] += 1

    monkeypatch.setattr(store, "transaction", transaction)
    return counted
