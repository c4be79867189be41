"""Backups are consistent and hold no key; restoring never goes back or brings a key back."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from typer.testing import CliRunner

from client.cli import app
from client.consent_service.erasure import erase_customer
from client.consent_service.region_records import RegionRecords, open_records
from client.consent_service.registrar import Choice
from client.engine.backup import MANIFEST, make_backup, read_backup
from client.engine.charges import ChargeRequest
from client.engine.home import RegionHome
from client.engine.ledger import open_ledger
from client.engine.ledger_store import read_charges
from client.engine.restore import KEPT, MADE, RESTORED, Outcome, RestoreOptions, restore
from client.engine.seal import Seal, SealStore
from client.engine.spending import EpsilonCaps
from client.recommend.experiment import experiment_key
from client.recommend.local_release import local_path
from client.recommend.settings import recommend_folder
from common.audit.checkpoint import Checkpoint, add_cosignature, sign_note
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.audit.merkle import EMPTY_ROOT
from common.audit.witness.store import WitnessStore
from common.audit.writer_lock import WriterBusyError
from common.consent import FEDERATED_TRAINING, new_ulid
from common.errors import InputError, VerificationError
from common.timestamps import now
from tests.support.erase_until_killed import erase_until_killed
from tests.support.region_home import ALL, SERVER_LOG, make_region_home, open_home

TRAINING = {FEDERATED_TRAINING: True}
WITHOUT_NOTE = RestoreOptions(without_checkpoint=True, witness_key_retires=True)


def charge(home: RegionHome, number: int, *, logged: bool = True, run: str = "run-1") -> None:
    """Charges a round, as the engine does: in the ledger, then in the log."""
    request = ChargeRequest(
        charge_id=new_ulid(),
        run=run,
        model="preference-model",
        purpose="fedpref:FederatedTraining",
        server_round=number,
        attempt=1,
        mechanism="popularity",
        noise_multiplier="10",
        clipping_norm="1",
        sampling_probability="1",
        steps=1,
        permit_id=new_ulid(),
        time=now(),
    )
    with open_ledger(home.ledger, caps=EpsilonCaps(8), delta=1e-6) as ledger:
        made = ledger.charge(request)
    if logged:
        record = {
            **{k: v for k, v in request.to_record(made.seq, "").items() if k != "previous_head"},
            "v": "fedpref-charge/1",
            "ledger_seq": made.seq,
            "ledger_head": made.head,
        }
        with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
            log.append([make_entry(record, home.signer("trainer"))])


def choose(home: RegionHome, *refs: str) -> None:
    with open_home(home) as region:
        region.registrar.record([Choice.give(ref, ALL, evidence=ref.encode()) for ref in refs])


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> RegionHome:
    home = make_region_home(tmp_path_factory.mktemp("filled") / "home")
    choose(home, "anna", "ben", "eve")
    charge(home, 1)
    home.seals.mkdir(mode=0o700)
    home.permits.mkdir(mode=0o700)
    (home.permits / "run-1.json").write_bytes(b"{}")
    return home


@pytest.fixture
def home(filled: RegionHome, tmp_path: Path) -> RegionHome:
    shutil.copytree(filled.root, tmp_path / "home")
    return replace(filled, root=tmp_path / "home")


def lose(home: RegionHome, *names: str) -> None:
    for name in names:
        for path in home.root.glob(f"{name}*"):
            path.unlink()


def outcomes(found: list[Outcome]) -> dict[str, str]:
    return {each.part: each.what for each in found}


def log_facts(home: RegionHome) -> tuple[int, bytes]:
    with AuditLog.open_read_only(home.log) as log:
        return log.size, log.root


def links(home: RegionHome) -> dict[str, str]:
    with open_records(home) as records:
        return records.subjects.pseudonyms()


def checkpoint(home: RegionHome) -> bytes:
    with AuditLog.open_read_only(home.log) as log:
        return log.checkpoint()


# ---- Making one ----


def test_a_backup_holds_everything_but_keys(home: RegionHome, tmp_path: Path) -> None:
    backup = make_backup(home, tmp_path / "backup")
    assert {"log.sqlite", "ledger.sqlite", "subjects.sqlite", "witness.sqlite", "home.json"} <= set(
        backup.files
    )
    assert {"policy.json", "registry/1.json", "permits/run-1.json"} <= set(backup.files)
    assert (backup.region, backup.federation) == (home.region, home.federation)
    assert (backup.log_size, backup.charges) == (log_facts(home)[0], 1)
    everything = b"".join(
        path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file()
    )
    for key in home.keys.iterdir():
        assert key.read_bytes().strip() not in everything, key.name
    assert b"PRIVATE KEY" not in everything
    with open_records(home) as records:
        for ref in ("anna", "ben", "eve"):
            assert (records.subjects.secret(ref) or b"?") not in everything
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "backup").rglob("*")), (
        "its owner's alone"
    )
    with pytest.raises(InputError, match="not an empty folder"):
        make_backup(home, tmp_path / "backup")
    with pytest.raises(InputError, match="inside the home"):
        make_backup(home, home.root / "keys" / ".." / "backup")
    assert not (home.root / "backup").exists()


def test_it_is_of_one_moment_while_the_owner_goes_on_writing(
    home: RegionHome, tmp_path: Path
) -> None:
    """Whatever the copied log says, the copied table and ledger have: nobody is unlinkable."""
    stop, written = threading.Event(), threading.Semaphore(0)

    def work() -> None:
        number = 0
        with open_home(home) as region, open_ledger(home.ledger, caps=EpsilonCaps(8), delta=1e-6):
            while not stop.is_set():
                number += 1
                region.registrar.record([Choice.give(f"new-{number}", ALL)])
                written.release()

    writer = threading.Thread(target=work)
    writer.start()
    grown: list[int] = []
    try:
        for number in range(4):
            while written.acquire(blocking=False):
                pass
            # The first of two may have been logged before the last backup.
            assert all(written.acquire(timeout=60) for _ in range(2))
            backup = make_backup(home, tmp_path / f"backup-{number}")
            fresh = lost_home(home, tmp_path / f"restored-{number}")
            restore(backup.folder, fresh.root, WITHOUT_NOTE)
            with open_records(fresh) as records:
                assert records.log.size == backup.log_size
                sids = set(records.subjects.pseudonyms().values())
                for ref, sid in records.subjects.pseudonyms().items():
                    assert records.state.consents.latest(sid) or ref.startswith("new-")
                given = records.state.consents.eligible(FEDERATED_TRAINING, 1 << 45)
                assert given <= sids
                grown.append(backup.log_size)
        assert grown == sorted(grown)
        assert len(set(grown)) > 1, "the owner did write meanwhile"
    finally:
        stop.set()
        writer.join()


def lost_home(home: RegionHome, root: Path) -> RegionHome:
    """What is left after the disk is lost: the keys, from their own backup."""
    root.mkdir()
    shutil.copytree(home.keys, root / "keys")
    return replace(home, root=root)


@pytest.mark.parametrize(
    "name", ["log.sqlite", "subjects.sqlite", "policy.json", "registry/1.json"]
)
@pytest.mark.parametrize("how", ["changed", "removed"])
def test_an_altered_backup_restores_nothing(
    home: RegionHome, tmp_path: Path, name: str, how: str
) -> None:
    backup = make_backup(home, tmp_path / "backup")
    path = backup.path(name)
    if how == "removed":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    fresh = lost_home(home, tmp_path / "fresh")
    with pytest.raises(VerificationError, match="missing or altered"):
        restore(backup.folder, fresh.root, WITHOUT_NOTE)
    assert {each.name for each in fresh.root.iterdir()} == {"keys"}


def test_a_backup_with_a_file_too_many_or_no_manifest_is_refused(
    home: RegionHome, tmp_path: Path
) -> None:
    backup = make_backup(home, tmp_path / "backup")
    (backup.folder / "seals").mkdir(exist_ok=True)
    (backup.folder / "seals" / "run-1-0001.seal").write_bytes(b"planted")
    with pytest.raises(VerificationError, match="does not list"):
        read_backup(backup.folder)
    (backup.folder / MANIFEST).unlink()
    with pytest.raises(InputError, match="no backup"):
        read_backup(backup.folder)
    (backup.folder / MANIFEST).write_bytes(b"{}")
    with pytest.raises(InputError, match="no manifest"):
        read_backup(backup.folder)


def test_a_manifest_names_files_of_a_home_alone(home: RegionHome, tmp_path: Path) -> None:
    backup = make_backup(home, tmp_path / "backup")
    path = backup.folder / MANIFEST
    for wrong in ("../outside", "seals/../../x", "keys/log.pem", "seals/.hidden", "seals/"):
        named = path.read_bytes().replace(b'"home.json":', f'"{wrong}":'.encode())
        other = tmp_path / "other"
        shutil.copytree(backup.folder, other)
        (other / MANIFEST).write_bytes(named)
        with pytest.raises(InputError, match="manifest"):
            read_backup(other)
        shutil.rmtree(other)


# ---- Restoring the log ----


def test_a_lost_disk_comes_back_against_a_checkpoint_that_others_hold(
    home: RegionHome, tmp_path: Path
) -> None:
    backup = make_backup(home, tmp_path / "backup")
    facts, linked = log_facts(home), links(home)
    fresh = lost_home(home, tmp_path / "fresh")
    with pytest.raises(InputError, match="no sound log"):
        restore(backup.folder, fresh.root, RestoreOptions())
    note = checkpoint(home)
    found = restore(backup.folder, fresh.root, RestoreOptions(at_least=[note]))
    assert set(outcomes(found).values()) == {RESTORED}
    assert log_facts(fresh) == facts
    assert links(fresh) == linked
    assert [c.head for c in read_charges(fresh.ledger)] == [
        c.head for c in read_charges(home.ledger)
    ]
    assert fresh.policy.read_bytes() == home.policy.read_bytes()
    # Again is no change.
    assert set(outcomes(restore(backup.folder, fresh.root, RestoreOptions())).values()) == {KEPT}


def test_a_log_is_not_restored_behind_what_others_have_seen(
    home: RegionHome, tmp_path: Path
) -> None:
    backup = make_backup(home, tmp_path / "backup")
    choose(home, "later")
    fresh = lost_home(home, tmp_path / "fresh")
    options = RestoreOptions(at_least=[checkpoint(home)], without_checkpoint=True)
    with pytest.raises(VerificationError, match="entries would be lost"):
        restore(backup.folder, fresh.root, options)
    assert not fresh.log.exists()


def test_a_checkpoint_must_be_signed_and_of_this_history(home: RegionHome, tmp_path: Path) -> None:
    backup = make_backup(home, tmp_path / "backup")
    fresh = lost_home(home, tmp_path / "fresh")
    forked = Checkpoint(home.origin, 2, b"x" * 32).body()
    for signer, what in [("log", "another history"), ("trainer", "not signed by its log's key")]:
        note = sign_note(forked, home.origin, home.signer(signer)).encode()
        with pytest.raises(VerificationError, match=what):
            restore(backup.folder, fresh.root, RestoreOptions(at_least=[note]))
    # A checkpoint of another log says nothing about this one.
    other = sign_note(
        Checkpoint("small.example/other", 0, EMPTY_ROOT).body(),
        "small.example/other",
        home.signer("log"),
    ).encode()
    with pytest.raises(InputError, match="no sound log"):
        restore(backup.folder, fresh.root, RestoreOptions(at_least=[other]))


def test_what_is_newer_than_the_backup_stays(home: RegionHome, tmp_path: Path) -> None:
    backup = make_backup(home, tmp_path / "backup")
    choose(home, "later")
    charge(home, 2)
    before, linked = log_facts(home), links(home)
    found = restore(backup.folder, home.root, RestoreOptions())
    assert set(outcomes(found).values()) == {KEPT}
    assert log_facts(home) == before
    assert links(home) == linked
    assert len(read_charges(home.ledger)) == 2
    ahead = Checkpoint(home.origin, before[0] + 1, b"y" * 32).body()
    note = sign_note(ahead, home.origin, home.signer("log")).encode()
    with pytest.raises(VerificationError, match="entries would be lost"):
        restore(backup.folder, home.root, RestoreOptions(at_least=[note]))


def test_a_home_on_an_old_disk_is_brought_forward(home: RegionHome, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(home.root, old)
    choose(home, "later")
    charge(home, 2)
    backup = make_backup(home, tmp_path / "backup")
    behind = replace(home, root=old)
    found = outcomes(restore(backup.folder, old, RestoreOptions()))
    assert (found["log.sqlite"], found["ledger.sqlite"]) == (RESTORED, RESTORED)
    assert log_facts(behind) == log_facts(home)
    assert (old / "log.sqlite.replaced-1").is_file()


@pytest.mark.parametrize("part", ["log", "ledger"])
def test_two_histories_are_never_mixed(home: RegionHome, tmp_path: Path, part: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(home.root, other)
    fork = replace(home, root=other)
    if part == "log":
        choose(fork, "mallory")
        choose(home, "later", "latest")
    else:
        charge(fork, 2, logged=False)
        charge(home, 2, logged=False)
    backup = make_backup(fork, tmp_path / "backup")
    before = log_facts(home)
    with pytest.raises(VerificationError, match="two histories"):
        restore(backup.folder, home.root, RestoreOptions())
    assert log_facts(home) == before


@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_damaged_log_counts_as_lost(home: RegionHome, tmp_path: Path, damage: str) -> None:
    backup = make_backup(home, tmp_path / "backup")
    note, facts = checkpoint(home), log_facts(home)
    lose(home, "log.sqlite")
    if damage == "garbage":
        home.log.write_bytes(b"SQLite format 3\x00" + b"x" * 5000)
    with pytest.raises(InputError, match="no sound log"):
        restore(backup.folder, home.root, RestoreOptions())
    restore(backup.folder, home.root, RestoreOptions(at_least=[note]))
    assert log_facts(home) == facts


def test_the_engine_must_not_run(home: RegionHome, tmp_path: Path) -> None:
    backup = make_backup(home, tmp_path / "backup")
    with open_home(home), pytest.raises(WriterBusyError, match="Another process"):
        restore(backup.folder, home.root, RestoreOptions())


def test_another_region_s_backup_is_refused(home: RegionHome, tmp_path: Path) -> None:
    backup = make_backup(home, tmp_path / "backup")
    replace(home, region="region-2").write_identity()
    with pytest.raises(VerificationError, match="region-2"):
        restore(backup.folder, home.root, RestoreOptions())
    keyless = tmp_path / "keyless"
    keyless.mkdir()
    with pytest.raises(InputError, match="holds no keys"):
        restore(backup.folder, keyless, WITHOUT_NOTE)


# ---- The ledger ----


def test_a_lost_ledger_comes_back_from_backup_and_log(home: RegionHome, tmp_path: Path) -> None:
    backup = make_backup(home, tmp_path / "backup")
    charge(home, 2)
    charge(home, 3)
    heads = [each.head for each in read_charges(home.ledger)]
    lose(home, "ledger.sqlite")
    found = restore(backup.folder, home.root, RestoreOptions())
    assert "2 charges taken back from the log" in {each.note for each in found}
    assert [each.head for each in read_charges(home.ledger)] == heads


def test_a_ledger_that_the_log_does_not_continue_is_refused(
    home: RegionHome, tmp_path: Path
) -> None:
    backup = make_backup(home, tmp_path / "backup")
    charge(home, 2, logged=False)
    charge(home, 3)
    lose(home, "ledger.sqlite")
    # Charge 2 was never logged; 3 builds on it, and the backup has only 1.
    with pytest.raises(VerificationError, match="does not continue the ledger"):
        restore(backup.folder, home.root, RestoreOptions())
    assert not home.ledger.exists()


# ---- The subjects ----


def erase(home: RegionHome, ref: str) -> None:
    with open_records(home) as records:
        erase_by(records, ref)


def erase_by(records: RegionRecords, ref: str) -> None:
    erase_customer(records.log, records.state, records.subjects, records.registrar(), ref)


def test_a_lost_table_comes_back(home: RegionHome, tmp_path: Path) -> None:
    backup = make_backup(home, tmp_path / "backup")
    linked = links(home)
    lose(home, "subjects.sqlite")
    found = restore(backup.folder, home.root, RestoreOptions())
    assert outcomes(found)["subjects.sqlite"] == RESTORED
    assert links(home) == linked


def test_a_table_from_before_an_erasure_opens_no_more(home: RegionHome, tmp_path: Path) -> None:
    backup = make_backup(home, tmp_path / "backup")
    erase(home, "ben")
    lose(home, "subjects.sqlite")
    with pytest.raises(InputError, match="another storage key"):
        restore(backup.folder, home.root, RestoreOptions())
    found = restore(backup.folder, home.root, RestoreOptions(without_subjects=True))
    assert outcomes(found)["subjects.sqlite"] == MADE
    assert links(home) == {}
    choose(home, "anna")
    assert set(links(home)) == {"anna"}


def test_an_old_storage_key_does_not_bring_the_erased_back(
    home: RegionHome, tmp_path: Path
) -> None:
    """Should somebody have kept the old storage key, the log still says who was erased."""
    backup = make_backup(home, tmp_path / "backup")
    kept_key = home.stored_key.read_bytes()
    erase(home, "ben")
    lose(home, "subjects.sqlite")
    home.stored_key.write_bytes(kept_key)
    found = restore(backup.folder, home.root, RestoreOptions())
    assert any(each.note.startswith("1 erased again, as logged") for each in found)
    assert set(links(home)) == {"anna", "eve"}
    assert home.stored_key.read_bytes() != kept_key


def test_an_erasure_that_was_killed_is_completed(home: RegionHome, tmp_path: Path) -> None:
    killed = erase_until_killed(home.root, "ben", "withdrawal-logged")
    assert killed == signal.SIGKILL
    backup = make_backup(home, tmp_path / "backup")
    fresh = lost_home(home, tmp_path / "fresh")
    restore(backup.folder, fresh.root, WITHOUT_NOTE)
    assert set(links(fresh)) == {"anna", "eve"}


# ---- What is witnessed ----


def see(home: RegionHome, party: str, size: int, *, fork: bytes = b"r") -> bytes:
    """Lets the region's witness have cosigned a log of that size; gives the note."""
    origin = f"{home.federation}/{party}"
    body = Checkpoint(origin, size, fork * 32).body()
    note = sign_note(body, origin, SERVER_LOG).encode()
    note = add_cosignature(note, home.region, home.signer("witness"), time_s=size).encode()
    with WitnessStore.open(home.witness) as store, store.transaction():
        store.advance(Checkpoint(origin, size, fork * 32), note, size)
    return note


def seen(home: RegionHome, party: str) -> int:
    with WitnessStore.open(home.witness) as store:
        found = store.seen(f"{home.federation}/{party}")
    return 0 if found is None else found.size


def test_a_witness_s_memory_goes_forward_alone(home: RegionHome, tmp_path: Path) -> None:
    see(home, "server", 5)
    older = make_backup(home, tmp_path / "older")
    see(home, "server", 9)
    newer = make_backup(home, tmp_path / "newer")
    restore(older.folder, home.root, RestoreOptions())
    assert seen(home, "server") == 9, "kept"
    shutil.copy(older.path("witness.sqlite"), home.witness)
    restore(newer.folder, home.root, RestoreOptions())
    assert seen(home, "server") == 9, "brought forward"


def test_contradicting_memories_are_both_kept(home: RegionHome, tmp_path: Path) -> None:
    see(home, "server", 5)
    see(home, "region-2", 5)
    copy = tmp_path / "copy.sqlite"
    shutil.copy(home.witness, copy)
    see(home, "server", 9)
    backup = make_backup(home, tmp_path / "backup")
    shutil.copy(copy, home.witness)
    see(home, "region-2", 7)
    with pytest.raises(VerificationError, match="contradict"):
        restore(backup.folder, home.root, RestoreOptions())
    shutil.copy(copy, home.witness)
    see(home, "server", 9, fork=b"f")
    with pytest.raises(VerificationError, match="contradict"):
        restore(backup.folder, home.root, RestoreOptions())


def test_a_lost_memory_needs_proof_or_a_new_key(home: RegionHome, tmp_path: Path) -> None:
    at_five = see(home, "server", 5)
    backup = make_backup(home, tmp_path / "backup")
    at_nine = see(home, "server", 9)
    lose(home, "witness.sqlite")
    text, _ = at_nine.decode().rsplit("\n\n", 1)
    uncosigned = sign_note(f"{text}\n", f"{home.federation}/server", SERVER_LOG).encode()
    for options, error, what in [
        (RestoreOptions(), InputError, "nothing shows"),
        (RestoreOptions(at_least=[at_nine]), VerificationError, "it could cosign another history"),
        (
            RestoreOptions(at_least=[at_nine], witness_key_retires=True),
            VerificationError,
            "it could cosign another history",
        ),
        (RestoreOptions(at_least=[uncosigned]), VerificationError, "not cosigned by this region"),
    ]:
        with pytest.raises(error, match=what):
            restore(backup.folder, home.root, options)
        assert not home.witness.exists()
    restore(backup.folder, home.root, RestoreOptions(at_least=[at_five]))
    assert seen(home, "server") == 5
    lose(home, "witness.sqlite")
    found = restore(backup.folder, home.root, RestoreOptions(witness_key_retires=True))
    (outcome,) = (each for each in found if each.part == "witness.sqlite")
    assert "replace the witness key" in outcome.note


# ---- Files, crashes, the command ----


def test_missing_files_come_back_and_present_ones_stay(home: RegionHome, tmp_path: Path) -> None:
    seals = SealStore(home.seals)
    for number in (1, 2, 3):
        arrays = {"popularity": np.full(3, number, "<f4")}
        seals.write("run-1", number, Seal("0" * 64, b"round", b"release", 3, arrays))
    backup = make_backup(home, tmp_path / "backup")
    seals.remove("run-1", 1)
    damaged = home.seals / "run-1-0002.seal"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (home.permits / "run-1.json").unlink()
    (home.root / "consent-form.json").unlink()
    home.policy.write_bytes(b"changed since")
    found = restore(backup.folder, home.root, RestoreOptions())
    notes = {each.part: each.note for each in found if each.what == RESTORED}
    assert notes == {
        "seals": "2 file(s) that were missing or damaged",
        "permits": "1 file(s) that were missing or damaged",
        "settings": "1 file(s) that were missing or damaged",
    }
    for number in (1, 2, 3):
        seal = seals.read("run-1", number)
        assert seal is not None
        assert seal.arrays["popularity"][0] == number
    assert (home.permits / "run-1.json").read_bytes() == b"{}"
    assert home.policy.read_bytes() == b"changed since"


def test_what_the_recommender_cannot_make_again_comes_back(
    home: RegionHome, tmp_path: Path
) -> None:
    """A region's own answers are paid for once; another key would draw every arm anew."""
    key = experiment_key(home)
    stated = {"settings.toml": b"[history]\nweeks = 26\n", "service.toml": b"idle_s = 60\n"}
    for name, text in stated.items():
        (recommend_folder(home) / name).write_bytes(text)
    answer = local_path(home, "scenes")
    answer.parent.mkdir()
    answer.write_bytes(b"sealed")
    (answer.parent / "within").mkdir()
    (answer.parent / "within" / "more").write_bytes(b"no answer")
    # What can be had again, is of customers, or lets anybody in, stays out.
    (recommend_folder(home) / "exposures.sqlite").write_bytes(b"exposures")
    (recommend_folder(home) / "token").write_bytes(b"token")
    backup = make_backup(home, tmp_path / "backup")
    assert {name for name in backup.files if name.startswith("recommend")} == {
        "recommend/experiment.key",
        "recommend/local/scenes.answer",
        "recommend/service.toml",
        "recommend/settings.toml",
    }
    assert all(path.stat().st_mode & 0o077 == 0 for path in backup.folder.rglob("*"))
    shutil.rmtree(recommend_folder(home))
    found = restore(backup.folder, home.root, RestoreOptions())
    assert outcomes(found)["recommend/local"] == outcomes(found)["settings"] == RESTORED
    assert answer.read_bytes() == b"sealed"
    assert experiment_key(home) == key
    assert {name: (recommend_folder(home) / name).read_bytes() for name in stated} == stated
    assert recommend_folder(home).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["recommend", "recommend/local"])
def test_nothing_behind_a_link_is_copied(home: RegionHome, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "local").mkdir(parents=True)
    (elsewhere / "local" / "scenes.answer").write_bytes(b"another's")
    (home.root / name).parent.mkdir(exist_ok=True)
    (home.root / name).symlink_to(elsewhere / name.removeprefix("recommend").strip("/"))
    assert "recommend/local/scenes.answer" not in make_backup(home, tmp_path / "backup").files


def kill_at(name: str) -> AbstractContextManager[object]:
    original = Path.replace

    def replacing(path: Path, target: Path) -> Path:
        if path.name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path, target)

    return patch.object(Path, "replace", replacing)


@pytest.mark.parametrize("name", ["log.sqlite.restoring", "ledger.sqlite.restoring"])
def test_a_killed_restoration_is_completed_by_the_next(
    home: RegionHome, tmp_path: Path, name: str
) -> None:
    old = tmp_path / "old"
    shutil.copytree(home.root, old)
    choose(home, "later")
    charge(home, 2)
    backup = make_backup(home, tmp_path / "backup")
    child = os.fork()
    if child == 0:
        try:
            with kill_at(name):
                restore(backup.folder, old, RestoreOptions())
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    behind = replace(home, root=old)
    restore(backup.folder, old, RestoreOptions())
    assert log_facts(behind) == log_facts(home)
    assert len(read_charges(behind.ledger)) == 2
    assert set(links(behind)) == {"anna", "ben", "eve"}


def test_the_commands(home: RegionHome, tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["backup", str(home.root), str(tmp_path / "b")])
    assert made.exit_code == 0, made.exception
    assert "no key" in made.stdout
    note = tmp_path / "note"
    note.write_bytes(checkpoint(home))
    fresh = lost_home(home, tmp_path / "fresh")
    command = ["restore", str(tmp_path / "b"), str(fresh.root)]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, InputError)
    done = CliRunner().invoke(app, [*command, "--at-least", str(note)])
    assert done.exit_code == 0, done.exception
    assert "log.sqlite" in done.stdout
    assert log_facts(fresh) == log_facts(home)


def test_a_storage_key_that_is_lost_for_good_gives_way_to_a_new_one(
    home: RegionHome, tmp_path: Path
) -> None:
    backup = make_backup(home, tmp_path / "backup")
    home.stored_key.unlink()
    with pytest.raises(InputError, match="storage key"):
        restore(backup.folder, home.root, RestoreOptions())
    assert not home.stored_key.exists()
    found = restore(backup.folder, home.root, RestoreOptions(without_subjects=True))
    assert outcomes(found)["subjects.sqlite"] == MADE
    assert links(home) == {}
    choose(home, "anna")
    assert set(links(home)) == {"anna"}
