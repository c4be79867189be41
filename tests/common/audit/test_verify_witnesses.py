"""Cosignatures: who counts, when they count, and what witnesses' own notes bring to light."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.audit.checkpoint import Checkpoint, Note, parse_note, sign_note
from common.audit.verify import Verdict, verify_bundle
from common.envelope import sign_record
from common.timestamps import format_time, parse_time
from tests.support.bundle_builder import (
    DAY_MS,
    EPOCH_MS,
    FEDERATION,
    OUTSIDE,
    REGIONS,
    SERVER,
    Federation,
    record_of,
    tree_root,
)

R1, R2 = REGIONS


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


def told(verdict: Verdict, *words: str) -> bool:
    return any(all(word in note for word in words) for note in verdict.notes)


def consent_size(federation: Federation, number: int) -> int:
    size = record_of(federation.logs[R1][federation.find(R1, "round", number)])["consent"]["size"]
    assert isinstance(size, int)
    return size


def cosigners_of_first_round(federation: Federation, cosigners: list[str]) -> None:
    size = consent_size(federation, 0)
    note = federation.cosign(R1, federation.checkpoint(R1, size), cosigners)
    federation.files[f"logs/{R1}/checkpoints/{size}"] = note


# -- the quorum ------------------------------------------------------------------------------------


def test_the_verdict_names_the_witnesses_and_the_one_outside(
    federation: Federation, tmp_path: Path
) -> None:
    verdict = judge(federation, tmp_path)
    assert verdict.verified
    witnesses = {w["party"]: w for w in verdict.to_record()["witnesses"]}
    assert witnesses[OUTSIDE] == {
        "party": OUTSIDE, "outside": True, "logs": [R1, R2, SERVER], "cosignatures": 7,
    }  # fmt: skip
    assert witnesses[R2] == {
        "party": R2, "outside": False, "logs": [R1, SERVER], "cosignatures": 4,
    }  # fmt: skip
    assert told(verdict, "counts once 2 other parties", f"{R1}, {R2}, {SERVER}, {OUTSIDE}")
    assert told(verdict, f"{OUTSIDE} stands outside", "every log")


def test_without_an_outside_witness_the_verdict_says_so(tmp_path: Path) -> None:
    verdict = judge(Federation(cosigners=(*REGIONS, SERVER)).run(), tmp_path)
    assert verdict.verified
    assert told(verdict, "None of them stands outside")
    assert not told(verdict, "stands outside, without")


def test_an_outside_witness_of_some_logs_only_is_told(
    federation: Federation, tmp_path: Path
) -> None:
    for name, note in federation.log_files().items():
        if name.startswith(f"logs/{R2}/checkpoint"):
            plain = parse_note(note)
            kept = tuple(s for s in plain.signatures if s.name != OUTSIDE)
            federation.files[name] = Note(plain.text, kept).encode().encode()
    size = len(federation.logs[R2])
    federation.files[f"witnesses/{OUTSIDE}/{R2}"] = federation.checkpoint(R2, size)
    verdict = judge(federation, tmp_path)
    assert told(verdict, f"only the logs of {R1}, {SERVER}")
    # Its own note of that log lacks its line, so it is none of its notes.
    assert found(verdict) == {(2, "witness-note", R2, None)}


def test_a_registry_that_asks_for_nobody_is_told(tmp_path: Path) -> None:
    verdict = judge(Federation(witness_quorum=0, cosigners=()).run(), tmp_path)
    assert verdict.verified
    assert told(verdict, "asks for no other party's cosignature")


@pytest.mark.parametrize(
    ("cosigners", "enough"),
    [([R2, SERVER], True), ([OUTSIDE, SERVER], True), ([R2], False), ([], False)],
)
def test_a_rounds_consents_need_the_quorum(
    federation: Federation, tmp_path: Path, cosigners: list[str], enough: bool
) -> None:
    cosigners_of_first_round(federation, cosigners)
    verdict = judge(federation, tmp_path)
    index = federation.find(R1, "round", 0)
    assert found(verdict) == (set() if enough else {(5, "not-witnessed", R1, index)})


def test_a_partys_own_witness_key_does_not_count(federation: Federation, tmp_path: Path) -> None:
    size = consent_size(federation, 0)
    note = federation.cosign(R1, federation.checkpoint(R1, size), [R2])
    # The builder leaves a party's own cosignature out; a dishonest one would not.
    as_other = federation.copy()
    as_other.cosigned_ms[R2, size] = as_other.cosigned_ms[R1, size]
    own = as_other.cosign(R2, note, [R1])
    assert f" {R1} " in own.decode()
    federation.files[f"logs/{R1}/checkpoints/{size}"] = own
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {(5, "not-witnessed", R1, federation.find(R1, "round", 0))}


def test_two_keys_of_one_witness_count_once(tmp_path: Path) -> None:
    federation = Federation()
    federation.keys[OUTSIDE, "witness 2"] = second = type(federation.roots[0])("second")
    federation.run()
    entries = federation.key_entries()
    for entry in entries:
        if entry["role"] == "witness 2":
            entry["role"] = "witness"
    federation.registry.clear()
    federation.publish_registry(entries)
    cosigners_of_first_round(federation, [OUTSIDE])
    name = f"logs/{R1}/checkpoints/{consent_size(federation, 0)}"
    federation.keys[OUTSIDE, "witness"] = second
    note = federation.cosign(R1, federation.files[name], [OUTSIDE])
    assert len(parse_note(note).signatures) == 3
    federation.keys[OUTSIDE, "witness"] = type(second)(f"{OUTSIDE} witness")
    federation.files[name] = note
    assert found(judge(federation, tmp_path)) == {
        (5, "not-witnessed", R1, federation.find(R1, "round", 0))
    }


def test_cosignatures_in_different_files_of_one_size_add_up(
    federation: Federation, tmp_path: Path
) -> None:
    cosigners_of_first_round(federation, [R2])
    size = consent_size(federation, 0)
    note = federation.cosign(R1, federation.checkpoint(R1, size), [OUTSIDE])
    federation.files[f"witnesses/{OUTSIDE}/{R1}"] = note
    assert found(judge(federation, tmp_path)) == set()


def test_a_cosignature_that_does_not_hold_is_refused(
    federation: Federation, tmp_path: Path
) -> None:
    size = consent_size(federation, 0)
    name = f"logs/{R1}/checkpoints/{size}"
    own = parse_note(federation.checkpoint(R1, size))
    others = parse_note(federation.cosigned(R1, size - 1)).signatures[1:]
    mixed = Note(own.text, (*own.signatures, *others))
    federation.files[name] = mixed.encode().encode()
    assert (2, "checkpoint", R1, None) in found(judge(federation, tmp_path))


# -- freshness -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset_ms", "fresh"), [(-600_000, True), (-603_000, False), (60_000, True), (63_000, False)]
)
def test_cosignatures_must_be_made_just_before_the_round(
    federation: Federation, tmp_path: Path, offset_ms: int, fresh: bool
) -> None:
    index = federation.find(R1, "round", 0)
    start_ms = parse_time(record_of(federation.logs[R1][index])["start"])
    federation.cosigned_ms[R1, consent_size(federation, 0)] = start_ms + offset_ms
    verdict = judge(federation, tmp_path)
    assert found(verdict) == (set() if fresh else {(5, "witness-stale", R1, index)})


def test_a_policy_may_ask_for_fresher_cosignatures(tmp_path: Path) -> None:
    federation = Federation(consent_age_max_s=30).run()
    index = federation.find(R1, "round", 0)
    start_ms = parse_time(record_of(federation.logs[R1][index])["start"])
    federation.cosigned_ms[R1, consent_size(federation, 0)] = start_ms - 40_000
    assert found(judge(federation, tmp_path)) == {(5, "witness-stale", R1, index)}


# -- completeness ----------------------------------------------------------------------------------


def test_a_round_that_no_cosigned_checkpoint_covers_is_a_gap(
    federation: Federation, tmp_path: Path
) -> None:
    size = len(federation.logs[R1])
    federation.files[f"logs/{R1}/checkpoint"] = federation.checkpoint(R1, size)
    for witness in (R2, SERVER, OUTSIDE):
        federation.files[f"witnesses/{witness}/{R1}"] = federation.cosign(
            R1, federation.checkpoint(R1, 1), [witness]
        )
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {(8, "not-cosigned", R1, federation.find(R1, "round", 1))}
    assert verdict.integrity
    assert told(verdict, f"Of the log of {R1}, entries 11 to {size - 1}")


def test_what_follows_the_newest_cosigned_checkpoint_is_told_and_no_failure(
    federation: Federation, tmp_path: Path
) -> None:
    covered = len(federation.logs[R1])
    federation.checkpoints[R1].add(covered)
    federation.consent(R1, 0, "dpv:ConsentWithdrawn")
    federation.files[f"logs/{R1}/checkpoint"] = federation.checkpoint(R1, covered + 1)
    for witness in (R2, SERVER, OUTSIDE):
        federation.files[f"witnesses/{witness}/{R1}"] = federation.cosign(
            R1, federation.checkpoint(R1, covered), [witness]
        )
    verdict = judge(federation, tmp_path)
    assert verdict.verified
    assert told(verdict, f"Of the log of {R1}, entries {covered} to {covered}")


def test_a_later_registry_does_not_undo_what_was_logged_under_the_one_before(
    federation: Federation, tmp_path: Path
) -> None:
    federation.witness_quorum = 4
    federation.publish_registry()
    newest = record_of(federation.registry[-1])
    newest["issued_at"] = format_time(federation.clock_ms + 500)
    federation.registry[-1] = sign_record(newest, *federation.roots[:2])
    assert judge(federation, tmp_path / "later").verified
    newest["issued_at"] = format_time(EPOCH_MS)
    federation.registry[-1] = sign_record(newest, *federation.roots[:2])
    codes = {failure.code for failure in judge(federation, tmp_path / "before").failures}
    assert codes == {"not-witnessed", "not-cosigned"}


# -- A10: revocation by cosigned time --------------------------------------------------------------


def revoke(federation: Federation, party: str, role: str, at_ms: int) -> None:
    entries = federation.key_entries()
    for entry in entries:
        if (entry["party"], entry["role"]) == (party, role):
            entry["revoked_at"] = format_time(at_ms)
    federation.publish_registry(entries)


def test_a10_entry_whose_stated_time_is_before_the_revocation_but_no_one_saw_it_then(
    federation: Federation, tmp_path: Path
) -> None:
    """The thief of a consent key can state any time, and his entry is the log's last."""
    revoked_ms = federation.clock_ms
    revoke(federation, R1, "consent", revoked_ms)
    assert judge(federation, tmp_path / "before").verified
    invented = federation.consent_record(R1, 77, "dpv:ConsentGiven")
    invented["event_time"] = format_time(EPOCH_MS + 1000)
    federation.logs[R1].append(sign_record(invented, federation.keys[R1, "consent"]))
    index = len(federation.logs[R1]) - 1
    federation.clock_ms = revoked_ms + DAY_MS
    verdict = judge(federation, tmp_path / "after")
    assert found(verdict) == {(3, "record", R1, index)}
    assert "cosigned by enough other parties before" in verdict.failures[0].message
    # Had enough others seen it before the revocation, it would stand.
    federation.clock_ms = revoked_ms + DAY_MS
    federation.cosigned_ms[R1, index + 1] = revoked_ms - 2000
    assert judge(federation, tmp_path / "seen").verified


def test_a10_cosignatures_of_too_few_before_the_revocation_do_not_settle_an_entry(
    federation: Federation, tmp_path: Path
) -> None:
    size = len(federation.logs[R1])
    revoked_ms = federation.clock_ms + 10_000
    federation.cosigned_ms[R1, size] = revoked_ms - 5000
    early = federation.cosign(R1, federation.checkpoint(R1, size), [R2])
    federation.cosigned_ms[R1, size] = revoked_ms + 5000
    federation.files[f"logs/{R1}/checkpoint"] = federation.cosign(R1, early, [SERVER, OUTSIDE])
    for witness in (R2, SERVER, OUTSIDE):
        federation.files[f"witnesses/{witness}/{R1}"] = federation.cosign(
            R1, federation.checkpoint(R1, 1), [witness]
        )
    revoke(federation, R1, "trainer", revoked_ms)
    federation.clock_ms = revoked_ms + 10_000
    last = max(federation.find(R1, "charge", 1), consent_size(federation, 1))
    assert {place[:3] for place in found(judge(federation, tmp_path))} >= {(3, "record", R1)}
    indexes = {index for step, _, _, index in found(judge(federation, tmp_path)) if step == 3}
    assert indexes == {*range(last, size)}


def test_a10_checkpoint_signed_with_a_stolen_log_key_after_its_revocation(
    federation: Federation, tmp_path: Path
) -> None:
    revoked_ms = federation.clock_ms + 1
    revoke(federation, R1, "log", revoked_ms)
    federation.cosigned_ms[R1, len(federation.logs[R1])] = revoked_ms - 2000
    assert judge(federation, tmp_path / "before").verified
    federation.cosigned_ms[R1, len(federation.logs[R1])] = revoked_ms + 2000
    assert (2, "checkpoint-key", R1, None) in found(judge(federation, tmp_path / "after"))


def test_a10_cosignatures_with_a_revoked_witness_key_do_not_count(
    federation: Federation, tmp_path: Path
) -> None:
    cosigners_of_first_round(federation, [R2, SERVER])
    index = federation.find(R1, "round", 0)
    revoke(federation, R2, "witness", federation.cosigned_ms[R1, consent_size(federation, 0)])
    assert (5, "not-witnessed", R1, index) in found(judge(federation, tmp_path))


# -- A1, A2, A6: what witnesses keep ---------------------------------------------------------------


def note_of(federation: Federation, size: int, witness: str = OUTSIDE) -> bytes:
    return federation.cosign(R1, federation.checkpoint(R1, size), [witness])


def test_a1_a_witness_has_seen_a_longer_log(federation: Federation, tmp_path: Path) -> None:
    """The tail behind the last round goes unnoticed by the log's own checkpoints."""
    federation.consent(R1, 0, "dpv:ConsentWithdrawn")
    size = len(federation.logs[R1])
    seen = note_of(federation, size)
    federation.logs[R1].pop()
    assert judge(federation, tmp_path / "unseen").verified
    name = f"witnesses/{OUTSIDE}/{R1}"
    federation.files[name] = seen
    verdict = judge(federation, tmp_path / "seen")
    assert found(verdict) == {(2, "log-truncated", R1, None)}
    assert verdict.failures[0].file == name
    assert f"had {size} entries" in verdict.failures[0].message


def other_view(federation: Federation) -> Federation:
    """The same log, but for one customer's choice."""
    other = federation.copy()
    index = other.find(R1, "consent", 3)
    other.resign(R1, index, lambda record: record.update(state="dpv:ConsentGiven"))
    return other


def test_a6_a_witness_has_seen_another_history(federation: Federation, tmp_path: Path) -> None:
    size = len(federation.logs[R1]) - 1
    name = f"witnesses/{R2}/{R1}"
    federation.files[name] = note_of(other_view(federation), size, R2)
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {(2, "split-view", R1, None)}
    assert verdict.failures[0].file == name


def conflict(federation: Federation, first: bytes, second: bytes) -> list[str]:
    stem = f"witnesses/{OUTSIDE}/evidence/1-{R1}"
    federation.files |= {f"{stem}-a": first, f"{stem}-b": second}
    return [f"{stem}-a", f"{stem}-b"]


def test_a6_evidence_of_two_histories_of_one_size(federation: Federation, tmp_path: Path) -> None:
    size = len(federation.logs[R1]) - 1
    files = conflict(
        federation, federation.checkpoint(R1, size), other_view(federation).checkpoint(R1, size)
    )
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {(2, "split-view", R1, None)}
    failure = verdict.failures[0]
    assert all(name in failure.message for name in [*files, f"{FEDERATION}/{R1}", OUTSIDE])


def test_a6_evidence_whose_notes_are_of_two_sizes(federation: Federation, tmp_path: Path) -> None:
    size = len(federation.logs[R1]) - 1
    first, second = conflict(
        federation,
        federation.checkpoint(R1, size - 1),
        other_view(federation).checkpoint(R1, size),
    )
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {(2, "split-view", R1, None)}
    assert verdict.failures[0].file == second
    assert told(verdict, first, "could not reconcile")


def test_notes_that_agree_with_the_log_are_no_conflict(
    federation: Federation, tmp_path: Path
) -> None:
    size = len(federation.logs[R1]) - 1
    first, _ = conflict(
        federation, federation.checkpoint(R1, size - 1), federation.checkpoint(R1, size)
    )
    verdict = judge(federation, tmp_path)
    assert verdict.verified
    assert told(verdict, first, "could not reconcile")


def forged(federation: Federation, size: int) -> bytes:
    origin = f"{FEDERATION}/{R1}"
    body = Checkpoint(origin, size, bytes(32)).body()
    return sign_note(body, origin, federation.keys[R2, "log"]).encode()


def test_evidence_that_the_log_did_not_sign_shows_nothing(
    federation: Federation, tmp_path: Path
) -> None:
    size = len(federation.logs[R1]) - 1
    files = conflict(federation, federation.checkpoint(R1, size), forged(federation, size))
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {(2, "witness-note", R1, None)}
    assert [failure.file for failure in verdict.failures] == files[1:]


def test_half_a_conflict_is_named(federation: Federation, tmp_path: Path) -> None:
    for half, missing in (("a", "b"), ("b", "a")):
        stem = f"witnesses/{OUTSIDE}/evidence/1-{R1}"
        federation.files = {f"{stem}-{half}": federation.checkpoint(R1, 3)}
        verdict = judge(federation, tmp_path / half)
        assert f"{stem}-{missing}" in {failure.file for failure in verdict.failures}


def test_evidence_made_with_a_key_that_was_taken_back_shows_nothing(
    federation: Federation, tmp_path: Path
) -> None:
    """Whoever stole a log's key could otherwise spoil that log's good name for ever."""
    stolen = federation.keys[R1, "log"]
    revoke(federation, R1, "log", federation.clock_ms + 1)
    size = len(federation.logs[R1])
    federation.cosigned_ms[R1, size] = federation.clock_ms - 2000
    origin = f"{FEDERATION}/{R1}"
    root = tree_root(other_view(federation).logs[R1])
    forged = sign_note(Checkpoint(origin, size, root).body(), origin, stolen).encode()
    conflict(federation, federation.checkpoint(R1, size), forged)
    verdict = judge(federation, tmp_path)
    assert verdict.verified
    assert told(verdict, "revoked key")


@pytest.mark.parametrize(
    "name",
    [
        f"witnesses/{R1}/{R1}x",
        f"witnesses/stranger/{R1}",
        f"witnesses/{OUTSIDE}/evidence/x-{R1}-a",
        f"witnesses/{OUTSIDE}/evidence/1-{R1}-c",
        f"witnesses/{OUTSIDE}/{OUTSIDE}",
        "witnesses/readme",
    ],
)
def test_a25_files_of_witnesses_that_have_no_place(
    federation: Federation, tmp_path: Path, name: str
) -> None:
    federation.files[name] = b"x"
    verdict = judge(federation, tmp_path)
    assert (0, "file-unexpected", None, None) in found(verdict)
    assert name in {failure.file for failure in verdict.failures}


def test_a_witnesss_note_of_another_log_is_refused(federation: Federation, tmp_path: Path) -> None:
    note = federation.cosign(R2, federation.checkpoint(R2, 3), [OUTSIDE])
    federation.files[f"witnesses/{OUTSIDE}/{R1}"] = note
    assert found(judge(federation, tmp_path)) == {(2, "witness-note", R1, None)}
