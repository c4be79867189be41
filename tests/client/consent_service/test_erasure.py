"""Erasure: unlinkable for good, the log whole, and whole again after a kill at any step."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.consent_service.erasure import erase_customer
from client.consent_service.region_records import RegionRecords, open_records
from client.consent_service.registrar import Choice
from client.engine.home import RegionHome
from client.engine.storage_key import StorageKeyFile
from common.audit.log import AuditLog
from common.audit.merkle import leaf_hash, verify_consistency, verify_inclusion
from common.consent import ERASURE, FEDERATED_TRAINING, REFUSED, WITHDRAWN
from common.errors import ConsentError, StorageError
from common.timestamps import now_ms
from tests.support.erase_until_killed import STEPS, erase_until_killed
from tests.support.region_home import GRACE_S, make_region_home, open_home

TRAINING = {FEDERATED_TRAINING: True}
REFS = [f"customer-{number}" for number in range(6)]
GONE = "customer-3"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> RegionHome:
    home = make_region_home(tmp_path_factory.mktemp("filled") / "home")
    with open_home(home) as region:
        region.registrar.record(
            [Choice.give(ref, TRAINING, evidence=f"token of {ref}".encode()) for ref in REFS]
        )
        region.registrar.record([Choice.give(GONE, TRAINING, evidence=b"another token")])
    return home


@pytest.fixture
def home(filled: RegionHome, tmp_path: Path) -> RegionHome:
    shutil.copytree(filled.root, tmp_path / "home")
    return replace(filled, root=tmp_path / "home")


def erase(records: RegionRecords, ref: str = GONE) -> object:
    return erase_customer(
        records.log, records.state, records.subjects, records.registrar(), ref
    ).to_record()


def sealed_rows(home: RegionHome) -> dict[str, tuple[bytes, bytes]]:
    with open_records(home) as records:
        rows = records.subjects._connection.execute("SELECT * FROM subjects").fetchall()
        return {ref: (row, records.subjects.secret(ref) or b"") for ref, row in rows}


def every_file(home: RegionHome) -> bytes:
    return b"\0".join(path.read_bytes() for path in home.root.rglob("*") if path.is_file())


def assert_gone(home: RegionHome, rows: Mapping[str, tuple[bytes, bytes]]) -> None:
    """Nothing in the home links the customer's records to them; nobody else lost anything."""
    row, secret = rows[GONE]
    left = every_file(home)
    for trace in (secret, secret.hex().encode(), row, GONE.encode(), b"another token"):
        assert trace not in left
    key = StorageKeyFile(home.stored_key).find(lambda: None)
    for ref, (old, _) in rows.items():
        with pytest.raises(StorageError):
            key.open(old, ref.encode())
    with open_records(home) as records:
        assert sorted(records.subjects.pseudonyms()) == sorted(set(REFS) - {GONE})
        for ref in set(REFS) - {GONE}:
            assert records.subjects.secret(ref) == rows[ref][1]
            assert len(records.registrar().history(ref)) == 1
            assert len(records.subjects.evidence(ref)) == 1


def assert_log_whole(home: RegionHome, size: int, root: bytes) -> None:
    """The log continues what it was, every proof holds, and its own replay accepts it."""
    with AuditLog.open_read_only(home.log) as log:
        proof = log.consistency_proof(size, log.size)
        verify_consistency(size, log.size, proof, root, log.root)
        for index, entry in log.entries():
            way = log.inclusion_proof(index, log.size)
            verify_inclusion(leaf_hash(entry), index, log.size, way, log.root)


def test_afterwards_nothing_links_the_log_to_the_person(home: RegionHome) -> None:
    rows = sealed_rows(home)
    with open_records(home) as records:
        size, root = records.log.size, records.log.root
        sid = records.subjects.pseudonym(GONE)
        assert sid is not None
        found = erase(records)
        assert found == {
            "withdrawal": size,
            "records": 3,
            "rounds": 0,
            "runs": [],
            "evidence": 2,
            "resumed": False,
        }
        latest = records.state.consents.latest(sid)
        assert latest is not None
        assert (latest.state, latest.form.method, latest.evidence) == (WITHDRAWN, ERASURE, None)
        eligible = records.state.consents.eligible(
            FEDERATED_TRAINING, now_ms(), notice_grace_s=GRACE_S
        )
        assert len(eligible) == len(REFS) - 1
        assert sid not in eligible
        # Without closing anything, too.
        assert rows[GONE][1] not in every_file(home)
        with pytest.raises(ConsentError, match="no key"):
            erase(records)
    assert_gone(home, rows)
    assert_log_whole(home, size, root)


def test_whoever_was_never_heard_of_is_not_erased(home: RegionHome) -> None:
    key = home.stored_key.read_bytes()
    with open_records(home) as records:
        size = records.log.size
        with pytest.raises(ConsentError, match="no key"):
            erase(records, "stranger")
        assert records.log.size == size
    assert home.stored_key.read_bytes() == key


def test_who_never_chose_is_erased_without_a_record(home: RegionHome) -> None:
    with open_records(home) as records:
        records.subjects.enrol(["silent"])
        size = records.log.size
        found = erase(records, "silent")
        assert isinstance(found, dict)
        assert (found["withdrawal"], found["records"]) == (None, 0)
        assert records.log.size == size
        assert records.subjects.pseudonym("silent") is None


def test_who_only_refused_can_be_erased(home: RegionHome) -> None:
    with open_home(home) as region:
        region.registrar.record([Choice.refuse("refuser")])
        sid = region.subjects.pseudonym("refuser")
        assert sid
        latest = region.state.consents.latest(sid)
        assert latest is not None
        assert latest.state == REFUSED
    with open_records(home) as records:
        erase(records, "refuser")
        latest = records.state.consents.latest(sid)
        assert latest is not None
        assert latest.form.method == ERASURE


def kill_at(home: RegionHome, step: str) -> None:
    assert erase_until_killed(home.root, GONE, step) == signal.SIGKILL


def erase_again(home: RegionHome) -> str:
    repeated = CliRunner().invoke(app, ["erase", str(home.root), GONE, "--yes"])
    assert repeated.exit_code == 0, repeated.exception
    return repeated.stdout


@pytest.mark.parametrize("step", ["committed", "old-key-overwritten"])
def test_the_command_says_that_it_completed_an_erasure(home: RegionHome, step: str) -> None:
    rows = sealed_rows(home)
    kill_at(home, step)
    said = erase_again(home)
    assert "An erasure that a crash had interrupted is completed" in said
    assert "Replace the copy of the storage key" in said
    assert_gone(home, rows)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_the_same_command_completes_it(home: RegionHome, step: str) -> None:
    rows = sealed_rows(home)
    with AuditLog.open_read_only(home.log) as log:
        size, root = log.size, log.root
    kill_at(home, step)
    # Whatever was done, everybody else's key opens, and the log's owner starts as ever.
    with open_records(home) as records:
        left = records.subjects.pseudonyms()
        assert set(REFS) - {GONE} <= set(left)
        erased = GONE not in left
        assert erased == (step in {"committed", *list(STEPS)[4:]})
        # Either way the log says that they withdrew: training stops at once.
        assert records.log.size == size + 1
    if not erased:
        assert "The customer is erased" in erase_again(home)
    with AuditLog.open_read_only(home.log) as log:
        assert log.size == size + 1, "one withdrawal, however often it was tried"
    assert_gone(home, rows)
    assert_log_whole(home, size, root)
    names = {path.name for path in home.keys.iterdir()}
    assert not {name for name in names if "next" in name}


def test_who_returns_before_an_erasure_is_complete_begins_anew(home: RegionHome) -> None:
    with open_home(home) as region:
        sid = region.subjects.pseudonym(GONE)
        region.registrar.erase_record(GONE)
        assert region.registrar.erase_record(GONE) is None
        region.registrar.record([Choice.give(GONE, TRAINING)])
        assert region.subjects.pseudonym(GONE) not in (None, sid)
        assert len(region.registrar.history(GONE)) == 1
