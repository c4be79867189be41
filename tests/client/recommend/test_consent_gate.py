"""Whose consent stands is asked at every request, and nobody's does while it cannot be asked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from client.consent_service.registrar import Choice
from client.engine.home import RegionHome
from client.engine.incidents import incident_record
from client.engine.subjects import SubjectKeys
from client.recommend import consent_gate
from client.recommend.consent_gate import ConsentGate
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.errors import VerificationError
from common.timestamps import format_time, now_ms
from tests.support.memory_signer import MemorySigner
from tests.support.region_home import (
    ALL,
    DAY_MS,
    GRACE_S,
    make_region_home,
    notice_record,
    open_home,
)
from tests.support.served_region import choose, withdraw, without_recommendations


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    home = make_region_home(tmp_path / "home", lasts_s=30 * 86_400)
    choose(home, Choice.give("ada", ALL), Choice.give("bo", ALL), Choice.refuse("cy"))
    return home


@pytest.fixture
def gate(home: RegionHome) -> Iterator[ConsentGate]:
    gate = ConsentGate(home)
    yield gate
    gate.close()


def test_consent_stands_by_purpose_and_only_for_those_who_gave_it(
    home: RegionHome, gate: ConsentGate
) -> None:
    judged = gate.judge("ada")
    assert judged.refused is None
    assert judged.sid is not None
    assert gate.stands(judged.sid)
    assert (gate.judge("cy").sid, gate.judge("cy").refused) == (None, "no-consent")
    assert (gate.judge("dot").sid, gate.judge("dot").refused) == (None, "unknown-customer")
    without_recommendations(home, "ada")
    assert gate.judge("ada").refused == "no-consent"
    assert gate.judge("bo").refused is None


def test_a_withdrawal_by_another_process_is_in_force_at_the_next_question(
    home: RegionHome, gate: ConsentGate
) -> None:
    before = gate.judge("ada")
    withdraw(home, "ada")
    after = gate.judge("ada")
    assert (after.sid, after.refused) == (None, "no-consent")
    # For what is kept of her to be forgotten.
    assert after.ended == before.sid
    assert after.consent_size == before.consent_size + 1
    choose(home, Choice.give("ada", ALL))
    assert gate.judge("ada").sid == before.sid


def test_an_erased_customer_is_unknown(home: RegionHome, gate: ConsentGate) -> None:
    assert gate.judge("ada").sid is not None
    with open_home(home) as opened:
        opened.registrar.erase_record("ada")
        opened.subjects.erase(["ada"])
    assert gate.judge("ada").refused == "unknown-customer"
    assert gate.judge("bo").refused is None


def test_consent_expires_without_anyone_writing(home: RegionHome) -> None:
    at_ms = [now_ms()]
    gate = ConsentGate(home, clock_ms=lambda: at_ms[0])
    assert gate.judge("ada").refused is None
    at_ms[0] += 31 * DAY_MS
    assert gate.judge("ada").refused == "no-consent"
    gate.close()


def test_a_clock_that_was_set_back_revives_nothing(home: RegionHome) -> None:
    """The log has an entry from after the consents had expired: that time has come."""
    at_ms = [now_ms()]
    gate = ConsentGate(home, clock_ms=lambda: at_ms[0])
    sid = gate.judge("ada").sid
    assert sid is not None
    late_ms = now_ms() + 31 * DAY_MS
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        record = incident_record(
            run="",
            server_round=0,
            region=home.region,
            reason="malformed-request",
            detail="none",
            time_ms=late_ms,
        )
        log.append([make_entry(record, home.signer("trainer"))])
    at_ms[0] -= DAY_MS
    assert gate.judge("ada").refused == "no-consent"
    assert not gate.stands(sid)
    assert gate.eligible().customer_refs == frozenset()
    gate.close()


def test_a_log_that_does_not_verify_closes_the_gate(
    home: RegionHome, gate: ConsentGate, caplog: pytest.LogCaptureFixture
) -> None:
    assert gate.judge("ada").sid is not None
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        # A consent record that the consent key has not signed.
        record = {"v": "fedpref-consent/1", "record_id": "x"}
        log.append([make_entry(record, home.signer("trainer"))])
    for _ in range(2):
        judged = gate.judge("ada")
        assert (judged.sid, judged.refused, judged.consent_size) == (None, "consents-unreadable", 0)
    assert gate.fault is not None
    assert "Nobody's consent counts" in caplog.text
    with pytest.raises(VerificationError):
        gate.eligible()


def test_a_log_that_was_set_back_closes_the_gate(home: RegionHome, gate: ConsentGate) -> None:
    """With an older copy in its place, a withdrawal would be undone."""
    older = home.root / "older.sqlite"
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")):
        pass
    _copy(home.log, older)
    withdraw(home, "ada")
    assert gate.judge("ada").refused == "no-consent"
    for path in home.root.glob("log.sqlite*"):
        path.unlink()
    shutil.copy(older, home.log)
    judged = gate.judge("ada")
    assert (judged.refused, judged.consent_size) == ("consents-unreadable", 0)


def test_what_was_seen_while_another_was_opened_is_not_forgotten(
    home: RegionHome, gate: ConsentGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh opens the log beside the one in use, which is asked and goes on meanwhile."""
    older = home.root / "older.sqlite"
    _copy(home.log, older)
    opened = consent_gate.open_subject_keys

    def meanwhile(path: Path, key: Path) -> SubjectKeys:
        monkeypatch.setattr(consent_gate, "open_subject_keys", opened)
        withdraw(home, "ada")
        assert gate.judge("ada").refused == "no-consent"
        return opened(path, key)

    assert gate._records is not None
    gate._records = replace(gate._records, registry="an older one")
    monkeypatch.setattr(consent_gate, "open_subject_keys", meanwhile)
    gate.refresh()
    for path in home.root.glob("log.sqlite*"):
        path.unlink()
    shutil.copy(older, home.log)
    assert gate.judge("ada").refused == "consents-unreadable"


def _copy(source: Path, target: Path) -> None:
    # By the library that the log is open in: another one's locks end all of this process's.
    with closing(apsw.Connection(str(source))) as one, closing(apsw.Connection(str(target))) as two:
        with two.backup("main", one, "main") as copying:
            copying.step(-1)
        two.pragma("journal_mode", "delete")


def test_a_log_that_is_gone_closes_the_gate_until_it_is_back(
    home: RegionHome, gate: ConsentGate
) -> None:
    away = home.root / "away"
    away.mkdir()
    files = sorted(home.root.glob("log.sqlite*"))
    for path in files:
        path.rename(away / path.name)
    assert gate.judge("ada").refused == "consents-unreadable"
    assert gate.size() == 0
    for path in files:
        (away / path.name).rename(path)
    assert gate.judge("ada").refused is None
    assert gate.fault is None


def test_all_who_consent_are_eligible(home: RegionHome, gate: ConsentGate) -> None:
    eligible = gate.eligible()
    assert eligible.customer_refs == {"ada", "bo"}
    assert eligible.consent_size == gate.size()
    withdraw(home, "bo")
    assert gate.eligible().customer_refs == {"ada"}


def test_a_notice_that_lapses_ends_consents_to_it(home: RegionHome, gate: ConsentGate) -> None:
    with open_home(home) as opened:
        first = opened.state.notices[0].sha256
        newer = notice_record(
            notice_id="pn-2",
            supersedes=first,
            in_force_from=format_time(now_ms() - (GRACE_S + 60) * 1000),
        )
        opened.log.append([make_entry(newer, home.signer("controller"))])
    assert gate.judge("ada").refused == "no-consent"


def test_nothing_is_opened_anew_while_the_registry_is_the_same(
    home: RegionHome, gate: ConsentGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log of a million consents takes minutes to read: a refresh must not begin it again."""

    def never(gate: ConsentGate) -> None:
        raise AssertionError("opened anew")

    monkeypatch.setattr(ConsentGate, "_open", never)
    withdraw(home, "ada")
    gate.refresh()
    assert gate.judge("ada").refused == "no-consent"


def test_a_head_that_the_logs_key_has_not_signed_closes_the_gate(
    home: RegionHome, gate: ConsentGate
) -> None:
    """Whoever can write the file but has not the log's key cannot append to it unseen."""
    assert gate.judge("ada").refused is None
    stranger = MemorySigner("stranger")
    with AuditLog.open(home.log, origin=home.origin, signer=stranger) as log:
        # The entry itself is fine.
        entry = make_entry(notice_record(notice_id="pn-9"), home.signer("controller"))
        log.append([entry])
    assert gate.judge("ada").refused == "consents-unreadable"
    with pytest.raises(VerificationError, match="no signature of a known key"):
        ConsentGate(home)
