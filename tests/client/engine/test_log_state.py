"""The region's own reading of its log: in step with it, whoever appends."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from client.consent_service.registrar import Choice
from client.engine.home import RegionHome
from client.engine.log_state import LogState
from common.audit.entry import make_entry
from common.consent import FEDERATED_TRAINING, ConsentRecord, new_ulid, parse_consent
from common.errors import VerificationError
from common.keys import generate_key
from common.timestamps import format_time, now_ms
from tests.support.consent_records import consent_record
from tests.support.region_home import DAY_MS, GRACE_S, make_region_home, notice_record, open_home

TRAINING = {FEDERATED_TRAINING: True}


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    return make_region_home(tmp_path / "home")


def test_what_was_just_signed_is_taken_as_reading_it_back_would(home: RegionHome) -> None:
    with open_home(home) as region:
        region.registrar.record([Choice.give("a", TRAINING), Choice.refuse("b")])
        region.log_round(1)
        region.registrar.record([Choice.withdraw("a"), Choice.give("c", TRAINING)])
        fresh = LogState(region.log, home.read_registry(), home.region)
        fresh.refresh()
        taken = region.state
        assert (taken.size, taken.endings, taken.rounds) == (
            fresh.size,
            fresh.endings,
            fresh.rounds,
        )
        assert taken.notice_graces == fresh.notice_graces == [(2, GRACE_S)]
        assert taken.notices == fresh.notices
        at_ms = now_ms()
        for sid in region.subjects.pseudonyms().values():
            assert taken.consents.latest(sid) == fresh.consents.latest(sid)
            assert taken.consents.latest_digest(sid) == fresh.consents.latest_digest(sid)
            assert taken.consents.indices(sid) == fresh.consents.indices(sid)
        assert taken.consents.eligible(FEDERATED_TRAINING, at_ms) == fresh.consents.eligible(
            FEDERATED_TRAINING, at_ms
        )


def record_and_entry(home: RegionHome) -> tuple[ConsentRecord, bytes]:
    record = consent_record(event_time=format_time(now_ms()))
    return parse_consent(record), make_entry(record, home.signer("consent"))


def test_nothing_is_taken_past_others_entries(home: RegionHome) -> None:
    with open_home(home) as region:
        record, entry = record_and_entry(home)
        notice = make_entry(notice_record(lang="fr"), home.signer("controller"))  # type: ignore[arg-type]
        region.log.append([notice, entry])
        assert not region.state.take_own([record], [entry])
        assert region.state.consents.latest(record.sid) is None
        region.state.refresh()
        assert region.state.consents.latest_digest(record.sid) == hashlib.sha256(entry).hexdigest()


def test_a_key_that_may_not_sign_is_found_before_anything_is_logged(home: RegionHome) -> None:
    stranger = generate_key(home.keys / "stranger.pem", home.passphrase())
    with open_home(home) as region:
        size = region.log.size
        for signer, at_ms in [
            (stranger, now_ms()),
            (home.signer("trainer"), now_ms()),
            (home.signer("consent"), now_ms() - 2 * DAY_MS),
            (home.signer("consent"), now_ms() + 500 * DAY_MS),
        ]:
            with pytest.raises(VerificationError):
                region.state.check_consent_key(signer.key_id, at_ms)
        region.registrar._signer = stranger
        with pytest.raises(VerificationError, match="not in the key registry"):
            region.registrar.record([Choice.give("a", TRAINING)])
        assert region.log.size == size
    with open_home(home):
        pass


@pytest.mark.parametrize(
    ("role", "event_age_ms", "method", "why"),
    [
        ("trainer", 0, "web-form", "Entry 3"),
        ("consent", 3 * DAY_MS, "web-form", "not valid yet"),
        ("consent", 3 * DAY_MS, "imported", None),
    ],
)
def test_a_consent_counts_by_its_signer(
    home: RegionHome, role: str, event_age_ms: int, method: str, why: str | None
) -> None:
    record = consent_record(
        record_id=new_ulid(), event_time=format_time(now_ms() - event_age_ms), method=method
    )
    with open_home(home) as region:
        region.log.append([make_entry(record, home.signer(role))])
        if why is None:
            region.state.refresh()
            assert region.state.consents.latest(record["sid"]) is not None
        else:
            with pytest.raises(VerificationError, match=why):
                region.state.refresh()
