"""The subjects' table: keys and evidence, and that nothing of an erased customer is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from client.engine import subjects as subjects_module
from client.engine.storage_key import StorageKey, StorageKeyFile, make_storage_key
from client.engine.subjects import EvidenceRow, SubjectKeys, open_subject_keys
from common.consent import subject_id
from common.errors import InputError, StorageError

REFS = [f"customer-{number:03d}" for number in range(50)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_storage_key(tmp_path / "storage.key")
    return tmp_path


@pytest.fixture
def table(folder: Path) -> Iterator[SubjectKeys]:
    with open_subject_keys(folder / "subjects.sqlite", folder / "storage.key") as opened:
        yield opened


def evidence(ref: str, number: int, giver: str = "subject") -> EvidenceRow:
    return EvidenceRow(f"record-{ref}-{number}", giver, ref, f"token {number} of {ref}".encode())


def sealed(folder: Path) -> dict[str, bytes]:
    connection = apsw.Connection(str(folder / "subjects.sqlite"))
    try:
        rows = dict(connection.execute("SELECT * FROM subjects").fetchall())
        # What was written lies in the file itself from here on, not only in its write-ahead log.
        connection.wal_checkpoint()
        return rows
    finally:
        connection.close()


def all_bytes(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_each_customer_has_one_key_for_good(table: SubjectKeys) -> None:
    drawn = table.enrol(REFS)
    assert len(set(drawn.values())) == len(REFS)
    assert table.enrol([*REFS, "newcomer"]) | {"newcomer": ""} == drawn | {"newcomer": ""}
    assert table.pseudonym(REFS[0]) == drawn[REFS[0]]
    assert table.pseudonym("stranger") is None
    assert table.secret("stranger") is None
    everyone = table.pseudonyms()
    assert list(everyone) == sorted([*REFS, "newcomer"])
    for ref, sid in everyone.items():
        secret = table.secret(ref)
        assert secret is not None
        assert subject_id(secret, ref) == sid


def test_what_was_answered_before_is_not_decrypted_again(
    table: SubjectKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.enrol(REFS)
    table.pseudonyms()
    monkeypatch.setattr(SubjectKeys, "_open", None)
    table.enrol(["newcomer"])
    assert len(table.pseudonyms()) == len(REFS) + 1
    assert table.pseudonym(REFS[3]) is not None


def test_an_answer_is_the_callers_own(table: SubjectKeys) -> None:
    table.enrol(REFS)
    table.pseudonyms().clear()
    assert len(table.pseudonyms()) == len(REFS)


def test_another_process_s_enrolments_are_seen(table: SubjectKeys, folder: Path) -> None:
    table.enrol(REFS[:1])
    assert len(table.pseudonyms()) == 1
    with open_subject_keys(folder / "subjects.sqlite", folder / "storage.key") as other:
        drawn = other.enrol(REFS[1:2])
    assert table.pseudonym(REFS[1]) == drawn[REFS[1]]
    with open_subject_keys(folder / "subjects.sqlite", folder / "storage.key") as other:
        other.erase([REFS[1]])
    assert table.pseudonym(REFS[1]) is None
    assert list(table.pseudonyms()) == REFS[:1]


def test_keys_lie_encrypted_each_bound_to_its_customer(table: SubjectKeys, folder: Path) -> None:
    table.enrol(REFS)
    secrets = [table.secret(ref) for ref in REFS]
    assert not any(secret in all_bytes(folder) for secret in secrets if secret)
    connection = apsw.Connection(str(folder / "subjects.sqlite"))
    other = sealed(folder)[REFS[1]]
    connection.execute("UPDATE subjects SET encrypted_key = ? WHERE customer_ref = ?", (other, "x"))
    connection.execute(
        "UPDATE subjects SET encrypted_key = ? WHERE customer_ref = ?", (other, REFS[0])
    )
    connection.close()
    with pytest.raises(StorageError, match="does not decrypt"):
        table.pseudonym(REFS[0])
    with pytest.raises(StorageError, match="does not decrypt"):
        table.pseudonyms()


def test_a_table_is_never_begun_without_its_key(folder: Path) -> None:
    (folder / "storage.key").unlink()
    with pytest.raises(InputError, match="storage key"):
        with open_subject_keys(folder / "subjects.sqlite", folder / "storage.key"):
            pass
    assert not (folder / "subjects.sqlite").exists()


def test_nothing_of_an_erased_customer_is_left(
    table: SubjectKeys, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More rows than one chunk: what is encrypted anew is every one of them.
    monkeypatch.setattr(subjects_module, "_CHUNK_ROWS", 7)
    table.enrol(REFS)
    table.keep_evidence([evidence(ref, number) for ref in REFS for number in range(3)])
    table.keep_evidence([evidence(REFS[5], 0, giver="guardian")])
    secret, before = table.secret(REFS[5]), table.pseudonyms()
    old_rows, old_key = sealed(folder), (folder / "storage.key").read_bytes()
    old_file = (folder / "subjects.sqlite").read_bytes()
    assert secret
    assert old_rows[REFS[5]] in all_bytes(folder)
    table.erase([REFS[5]])

    left = all_bytes(folder)
    for gone in (secret, secret.hex().encode(), old_rows[REFS[5]], REFS[5].encode(), old_key):
        assert gone not in left
    assert not any(row in left for row in old_rows.values()), "all was encrypted anew"
    assert table.pseudonym(REFS[5]) is None
    assert table.evidence(REFS[5]) == []
    # An older copy of the table opens with no key that there still is.
    new_key = StorageKeyFile(folder / "storage.key").find(lambda: None)
    for ref, row in old_rows.items():
        with pytest.raises(StorageError):
            new_key.open(row, ref.encode())
    (folder / "backup.sqlite").write_bytes(old_file)
    with pytest.raises(StorageError, match="another storage key"):
        with open_subject_keys(folder / "backup.sqlite", folder / "storage.key"):
            pass
    # Nobody else lost anything.
    others = {ref: sid for ref, sid in before.items() if ref != REFS[5]}
    assert table.pseudonyms() == others
    assert [row.value for row in table.evidence(REFS[6])] == [
        f"token {number} of {REFS[6]}".encode() for number in range(3)
    ]
    with open_subject_keys(folder / "subjects.sqlite", folder / "storage.key") as again:
        assert again.pseudonyms() == others
        assert not again.finished_erasure


def test_who_comes_back_after_erasure_has_another_pseudonym(table: SubjectKeys) -> None:
    before = table.enrol(["returning"])
    table.erase(["returning"])
    assert table.enrol(["returning"]) != before


def test_a_failing_disk_leaves_the_state_before(
    table: SubjectKeys, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = table.enrol(REFS)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(SubjectKeys, "_encrypt_anew", fail)
        with pytest.raises(StorageError, match="No space"):
            table.erase([REFS[0]])
    assert table.pseudonyms() == before
    with monkeypatch.context() as patched:
        patched.setattr(StorageKeyFile, "activate_next", fail)
        with pytest.raises(StorageError, match="No space"):
            table.erase([REFS[0]])
    # The table is under the next key already; the next use finishes the change.
    assert table.pseudonym(REFS[0]) is None
    assert len(table.pseudonyms()) == len(REFS) - 1
    assert not (folder / "storage.key.next").exists()


def test_threads_share_a_table(table: SubjectKeys) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(20):
                table.enrol([f"{number}-{step}"])
                table.pseudonyms()
                table.keep_evidence([evidence(f"{number}-{step}", 0)])
        except BaseException as error:  # noqa: BLE001 # shown below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(table.pseudonyms()) == 60


def test_who_enrols_during_an_erasure_is_under_the_new_key(
    table: SubjectKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.enrol(REFS)
    encrypt, under_way = SubjectKeys._encrypt_anew, threading.Event()

    def slowly(self: SubjectKeys, following: StorageKey) -> None:
        encrypt(self, following)
        under_way.set()
        time.sleep(0.1)

    monkeypatch.setattr(SubjectKeys, "_encrypt_anew", slowly)
    erasing = threading.Thread(target=table.erase, args=([REFS[0]],))
    erasing.start()
    assert under_way.wait(60)
    drawn = table.enrol(["newcomer"])
    erasing.join()
    secret = table.secret("newcomer")
    assert secret is not None
    assert subject_id(secret, "newcomer") == drawn["newcomer"]
    assert len(table.pseudonyms()) == len(REFS)


def test_who_enrols_while_all_are_read_is_not_forgotten(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = (folder / "subjects.sqlite", folder / "storage.key")
    with open_subject_keys(*where) as table:
        table.enrol(REFS)
    opening, under_way = SubjectKeys._open, threading.Event()

    def slowly(self: SubjectKeys, ref: str, sealed: bytes) -> bytes:
        under_way.set()
        time.sleep(0.005)
        return opening(self, ref, sealed)

    with open_subject_keys(*where) as table:
        monkeypatch.setattr(SubjectKeys, "_open", slowly)
        reading = threading.Thread(target=table.pseudonyms)
        reading.start()
        assert under_way.wait(60)
        # First in order: the reading is past the place.
        table.enrol(["a newcomer"])
        reading.join()
        assert table.pseudonym("a newcomer") is not None
        assert len(table.pseudonyms()) == len(REFS) + 1


def test_files_are_their_owner_s_alone(table: SubjectKeys, folder: Path) -> None:
    table.enrol(REFS)
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name


def test_a_finished_import_is_remembered(table: SubjectKeys) -> None:
    assert table.imported("a" * 64) is None
    table.finish_import("a" * 64, 12)
    assert table.imported("a" * 64) == 12
