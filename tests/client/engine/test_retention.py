"""What is over goes in time; what somebody may still need stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pytest

from client import cli
from client.consent_service.evidence import Evidence
from client.consent_service.registrar import Choice
from client.engine import retention as retention_module
from client.engine.home import RegionHome
from client.engine.policy import RegionPolicy, read_policy
from client.engine.policy_desk import sign_policy
from client.engine.policy_fields import Retention
from client.engine.retention import DAY_MS, Outdated, find_outdated, remove_outdated
from common.audit.log import AuditLog
from common.envelope import sign_record
from common.errors import StorageError
from common.timestamps import format_time, now_ms
from tests.support.memory_signer import MemorySigner
from tests.support.region_home import ALL, OpenHome, make_region_home, open_home

PERMIT = MemorySigner("permit")


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    return make_region_home(tmp_path / "home")


def put_permit(home: RegionHome, run: str, *, ended_days_ago: float, rounds: int = 2) -> None:
    """A run whose permit has ended, with its seals; of their contents nothing is read."""
    home.permits.mkdir(exist_ok=True)
    home.seals.mkdir(exist_ok=True)
    ended_ms = now_ms() - round(ended_days_ago * DAY_MS)
    record = {
        "v": "fedpref-permit/1",
        "run": run,
        "app": "a" * 64,
        "issued_at": format_time(ended_ms - 5 * DAY_MS),
        "expires": format_time(ended_ms),
    }
    (home.permits / f"{run}.json").write_bytes(sign_record(record, PERMIT))
    (home.permits / f"{run}.plan.json").write_bytes(b"{}")
    for number in range(1, rounds + 1):
        (home.seals / f"{run}-{number:04d}.seal").write_bytes(b"sealed")


def found(opened: OpenHome, *, later_days: float = 0.0, **days: Any) -> Outdated:
    return find_outdated(
        opened.home,
        Retention(**days),
        opened.log,
        opened.subjects,
        at_ms=now_ms() + round(later_days * DAY_MS),
    )


def names(paths: tuple[Path, ...]) -> list[str]:
    return sorted(path.name for path in paths)


def test_seals_go_once_their_run_s_permit_has_been_over_for_so_long(home: RegionHome) -> None:
    put_permit(home, "old", ended_days_ago=31)
    put_permit(home, "old-2", ended_days_ago=29)
    put_permit(home, "now", ended_days_ago=-1)
    with open_home(home) as opened:
        outdated = found(opened, seals=30)
        assert names(outdated.seals) == ["old-0001.seal", "old-0002.seal"]
        assert (outdated.permits, outdated.evidence) == ((), frozenset())
        remove_outdated(home, outdated, opened.subjects)
        assert not found(opened, seals=30)
    assert names(tuple(home.seals.iterdir())) == [
        "now-0001.seal",
        "now-0002.seal",
        "old-2-0001.seal",
        "old-2-0002.seal",
    ]


def test_a_seal_without_its_permit_stays(home: RegionHome) -> None:
    """It may belong to a run that is being restored; nothing says that it is over."""
    put_permit(home, "old", ended_days_ago=400)
    (home.permits / "old.json").unlink()
    (home.seals / "notes.txt").write_text("mine")
    with open_home(home) as opened:
        assert not found(opened, seals=1)


def test_permits_go_with_their_plans_and_never_before_their_seals(home: RegionHome) -> None:
    put_permit(home, "old", ended_days_ago=101)
    put_permit(home, "new", ended_days_ago=99)
    with open_home(home) as opened:
        outdated = found(opened, seals=100, permits=100)
        assert names(outdated.permits) == ["old.json", "old.plan.json"]
        assert names(outdated.seals) == ["old-0001.seal", "old-0002.seal"]
        remove_outdated(home, outdated, opened.subjects)
    assert names(tuple(home.permits.iterdir())) == ["new.json", "new.plan.json"]


def test_what_is_not_stated_is_kept_for_good(home: RegionHome) -> None:
    put_permit(home, "old", ended_days_ago=4000)
    with open_home(home) as opened:
        assert not found(opened, evidence=1)
        assert names(found(opened, seals=1).permits) == []


def choose(opened: OpenHome, customer: str, *states: str) -> None:
    """Choices of a customer, one after another, each with evidence."""
    for number, state in enumerate(states):
        evidence = f"token {customer} {number}".encode()
        make = {"give": lambda e: Choice.give(customer, ALL, evidence=e)}.get(
            state, lambda e: Choice.withdraw(customer, evidence=e)
        )
        opened.registrar.record([make(evidence)])


def test_evidence_goes_once_its_choice_was_replaced_or_has_ended(home: RegionHome) -> None:
    with open_home(home) as opened:
        choose(opened, "stays", "give")
        choose(opened, "withdrew", "give", "withdraw")
        choose(opened, "again", "give", "withdraw", "give")
        # Nothing is old enough yet.
        assert not found(opened, evidence=10)
        outdated = found(opened, evidence=10, later_days=11)
        # The first two of each who changed their mind, and the withdrawal itself.
        assert len(outdated.evidence) == 4
        remove_outdated(home, outdated, opened.subjects)
        left = {
            customer: [Evidence.read(row).token for row in opened.subjects.evidence(customer)]
            for customer in ("stays", "withdrew", "again")
        }
        assert left == {"stays": [b"token stays 0"], "withdrew": [], "again": [b"token again 2"]}
        assert not found(opened, evidence=10, later_days=11)
        # Their pseudonyms and the log are as they were.
        assert set(opened.subjects.pseudonyms()) == {"stays", "withdrew", "again"}


def test_evidence_of_a_consent_that_expired_goes_after_its_expiry(tmp_path: Path) -> None:
    home = make_region_home(tmp_path / "home", lasts_s=5 * 24 * 3600)
    with open_home(home) as opened:
        choose(opened, "customer", "give")
        assert not found(opened, evidence=10, later_days=14)
        assert len(found(opened, evidence=10, later_days=16).evidence) == 1


def test_dropped_evidence_is_in_no_page_of_the_table(home: RegionHome) -> None:
    with open_home(home) as opened:
        choose(opened, "customer", "give", "withdraw")
        connection = apsw.Connection(str(home.subjects), flags=apsw.SQLITE_OPEN_READONLY)
        sealed = [row[0] for row in connection.execute("SELECT encrypted FROM evidence")]
        connection.close()
        assert len(sealed) == 2
        remove_outdated(home, found(opened, evidence=1, later_days=2), opened.subjects)
        stored = b"".join(
            path.read_bytes() for path in home.root.glob("subjects.sqlite*") if path.is_file()
        )
    assert not any(each in stored for each in sealed)


def test_a_file_that_cannot_be_removed_is_named(
    home: RegionHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_permit(home, "old", ended_days_ago=31)

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with open_home(home) as opened:
        outdated = found(opened, seals=30)
        monkeypatch.setattr(retention_module.Path, "unlink", refuse)
        with pytest.raises(StorageError, match=r"old-0001\.seal cannot be removed: Permission"):
            remove_outdated(home, outdated, opened.subjects)


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    monkeypatch.setattr("sys.argv", ["fedpref-region", "tidy", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_command_keeps_to_the_policy_that_is_in_force(
    home: RegionHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_permit(home, "old", ended_days_ago=31)
    assert "sets no retention_days: all is kept" in run(monkeypatch, capsys, home.root)
    policy = {**read_policy(home.policy).to_record(), "retention_days": {"seals": 30}}
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        sign_policy(home, log, RegionPolicy.model_validate(policy))
    shown = run(monkeypatch, capsys, home.root, "--dry-run")
    assert "2 seals, 0 files of permits and plans, evidence of 0 choices would be removed" in shown
    assert len(list(home.seals.iterdir())) == 2
    assert "2 seals" in run(monkeypatch, capsys, home.root)
    assert list(home.seals.iterdir()) == []
