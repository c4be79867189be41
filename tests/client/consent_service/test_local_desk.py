"""The desk: what may be decided, what a record then says, and what receipts name."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.consent_service.desk import MAX_HISTORY, Actor, Decision, DecisionRefusedError
from client.consent_service.desk_opening import CheckpointChoice, desk_on, open_desk
from client.consent_service.evidence import Evidence
from client.consent_service.local_desk import LocalDesk
from client.consent_service.notices import publish
from common import canonical_json
from common.audit.checkpoint import add_cosignature, parse_note
from common.audit.cosigners import Cosigners
from common.audit.federation_keys import FederationKeys
from common.audit.receipt import check_receipt
from common.audit.witness.store import CosignatureStore, WitnessStore
from common.consent import (
    FEDERATED_ANALYTICS,
    FEDERATED_TRAINING,
    GIVEN,
    RECOMMENDATIONS,
    REFUSED,
    WITHDRAWN,
    Standing,
)
from common.envelope import sign_record
from common.errors import StorageError
from common.keys import Registry, build_registry
from common.notice import parse_notice
from common.timestamps import format_time, now_ms
from tests.support.consent_service import NOTICE, NOTICE_ZH, Service
from tests.support.memory_signer import MemorySigner
from tests.support.region_home import GRACE_S, make_region_home, notice_record, open_home

BOTH = frozenset({FEDERATED_TRAINING, RECOMMENDATIONS})
_numbers = itertools.count()


def actor(name: str | None = None, **changes: bool) -> Actor:
    reference = name or f"desk-customer-{next(_numbers)}"
    who = Actor(reference, minor=False, guardian=False, token=f"token of {reference}")
    return replace(who, **changes)  # type: ignore[arg-type]


def decide(service: Service, who: Actor, *agreed: str, lang: str = "en") -> Decision:
    """A decision as a page that was just loaded makes it."""
    desk = service.desk
    shown = desk.position(who.customer_ref, lang)
    return Decision(frozenset(agreed), desk.notice(lang).sha256, shown.record_id)


def refused(service: Service, who: Actor, decision: Decision) -> str:
    size = service.opened.log.size
    with pytest.raises(DecisionRefusedError) as refusal:
        service.desk.choose(who, decision)
    assert service.opened.log.size == size
    return refusal.value.code


def keys_of(service: Service) -> FederationKeys:
    return FederationKeys.from_envelopes([(service.opened.home.registry / "1.json").read_bytes()])


def test_nobody_has_consented_before_they_choose(service: Service) -> None:
    position = service.desk.position("never-seen", "en")
    assert position.granted == frozenset()
    assert set(position.standings.values()) == {Standing.NO_RECORD}
    assert (position.record_id, position.state) == (None, None)
    assert service.desk.history("never-seen") == ()


def test_a_choice_is_logged_with_its_notice_its_expiry_and_its_evidence(service: Service) -> None:
    who = actor()
    logged = service.desk.choose(who, decide(service, who, *BOTH))
    assert set(logged.agreed) == BOTH
    assert logged.notice_id == "pn-1-en"
    (record,) = (each.record for each in service.opened.registrar.history(who.customer_ref))
    assert record.purposes == {
        FEDERATED_TRAINING: True,
        RECOMMENDATIONS: True,
        FEDERATED_ANALYTICS: False,
    }
    assert record.expires is not None
    (row,) = service.opened.subjects.evidence(who.customer_ref)
    assert Evidence.read(row).token == who.token.encode()
    assert Evidence.read(row).digest == record.evidence
    assert service.desk.position(who.customer_ref, "en").granted == BOTH


def test_one_purpose_is_withdrawn_and_the_rest_stays_as_it_was_given(service: Service) -> None:
    who = actor()
    first = service.desk.choose(who, decide(service, who, *BOTH, lang="zh"))
    less = service.desk.choose(who, decide(service, who, RECOMMENDATIONS))
    assert (less.agreed, less.state) == ((RECOMMENDATIONS,), GIVEN)
    # Neither renewed nor moved to a notice in a language that was not read.
    assert (less.expires, less.notice_id) == (first.expires, "pn-1-zh")
    assert less.ends_training
    assert not first.ends_training


def test_all_is_withdrawn_whatever_the_page_had_shown(service: Service) -> None:
    who = actor()
    service.desk.choose(who, decide(service, who, *BOTH))
    gone = service.desk.choose(who, Decision(frozenset(), "0" * 64, "nothing"))
    assert gone.state == WITHDRAWN
    assert service.desk.position(who.customer_ref, "en").granted == frozenset()


def test_a_first_refusal_is_a_refusal(service: Service) -> None:
    who = actor()
    assert service.desk.choose(who, decide(service, who)).state == REFUSED
    assert refused(service, who, decide(service, who)) == "nothing-to-withdraw"


def test_nothing_given_means_nothing_to_withdraw(service: Service) -> None:
    who = actor()
    with pytest.raises(DecisionRefusedError) as refusal:
        service.desk.withdraw(who)
    assert refusal.value.code == "nothing-to-withdraw"
    service.desk.choose(who, decide(service, who, *BOTH))
    assert service.desk.withdraw(who).state == WITHDRAWN
    with pytest.raises(DecisionRefusedError):
        service.desk.withdraw(who)


def test_what_another_window_withdrew_is_not_given_again(service: Service) -> None:
    who = actor()
    service.desk.choose(who, decide(service, who, *BOTH))
    stale = decide(service, who, *BOTH, FEDERATED_ANALYTICS)
    stale_reduction = decide(service, who, RECOMMENDATIONS)
    service.desk.withdraw(who)
    assert refused(service, who, stale) == "choice-changed"
    assert refused(service, who, stale_reduction) == "choice-changed"


def test_keeping_one_purpose_does_not_end_what_another_window_gave(service: Service) -> None:
    who = actor()
    service.desk.choose(who, decide(service, who, *BOTH))
    stale = decide(service, who, RECOMMENDATIONS)
    service.desk.choose(who, decide(service, who, *BOTH, FEDERATED_ANALYTICS))
    assert refused(service, who, stale) == "choice-changed"


def test_two_windows_at_once_make_one_record(service: Service) -> None:
    who = actor()
    decision = decide(service, who, *BOTH)
    outcomes: list[str] = []

    def press() -> None:
        try:
            outcomes.append(service.desk.choose(who, decision).state)
        except DecisionRefusedError as refusal:
            outcomes.append(refusal.code)

    threads = [threading.Thread(target=press) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["choice-changed"] * 7 + [GIVEN]
    assert len(service.desk.history(who.customer_ref)) == 1


def test_unknown_purposes_and_notices_are_refused(service: Service) -> None:
    who = actor()
    right = decide(service, who, *BOTH)
    assert refused(service, who, replace(right, notice_sha256="0" * 64)) == "notice-changed"
    assert refused(service, who, replace(right, agreed=BOTH | {"dpv:Marketing"})) == "invalid"


# Minors


def test_a_minor_alone_refuses_and_does_not_give(service: Service) -> None:
    minor = actor(minor=True)
    assert refused(service, minor, decide(service, minor, *BOTH)) == "guardian-needed"
    refusal = service.desk.choose(minor, decide(service, minor))
    assert (refusal.state, refusal.minor, refusal.guardian) == (REFUSED, True, None)


def test_a_guardian_gives_and_the_minor_withdraws(service: Service) -> None:
    minor = actor(minor=True)
    guardian = replace(minor, guardian=True, token="the guardian's")
    given = service.desk.choose(guardian, decide(service, guardian, *BOTH))
    assert (given.state, given.guardian) == (GIVEN, GIVEN)
    record = service.opened.registrar.latest(minor.customer_ref)
    assert record is not None
    assert record.guardian is not None
    (row,) = service.opened.subjects.evidence(minor.customer_ref)
    assert (row.giver, Evidence.read(row).token) == ("guardian", b"the guardian's")
    assert record.guardian.evidence == Evidence.read(row).digest
    assert record.evidence is None
    less = service.desk.choose(minor, decide(service, minor, RECOMMENDATIONS))
    assert (less.agreed, less.guardian) == ((RECOMMENDATIONS,), GIVEN)
    assert refused(service, minor, decide(service, minor, *BOTH)) == "guardian-needed"
    assert service.desk.withdraw(minor).state == WITHDRAWN
    again = service.desk.choose(guardian, decide(service, guardian, RECOMMENDATIONS))
    assert again.guardian == GIVEN
    gone = service.desk.withdraw(guardian)
    assert (gone.state, gone.guardian) == (WITHDRAWN, WITHDRAWN)


# Receipts


def test_a_receipt_holds_and_is_the_customers_own(service: Service) -> None:
    who, other = actor(), actor()
    logged = service.desk.choose(who, decide(service, who, *BOTH))
    service.desk.choose(other, decide(service, other, *BOTH))
    receipt = service.desk.receipt(who.customer_ref, logged.record_id, "en")
    checked = check_receipt(canonical_json.encode(receipt), keys_of(service))
    assert checked.logged.index == logged.index
    assert not checked.ends_consent
    codes = set()
    for asks, record_id in (
        (other.customer_ref, logged.record_id),
        (who.customer_ref, "01JQ0Z6Y3M8T4V5W6X7Y8Z9A0B"),
        ("nobody", logged.record_id),
    ):
        with pytest.raises(DecisionRefusedError) as refusal:
            service.desk.receipt(asks, record_id, "en")
        codes.add((refusal.value.code, refusal.value.message))
    # Another's record and one that is not there are told apart by nothing.
    assert len(codes) == 1


def test_a_withdrawal_receipt_names_the_first_excluded_round_once_there_is_one(
    service: Service,
) -> None:
    who, log = actor(), service.opened.log
    service.desk.choose(who, decide(service, who, *BOTH))
    service.log_round("run-a", 1, log.size)
    gone = service.desk.withdraw(who)
    # Under way when they withdrew: its consent size is not above the withdrawal's index.
    service.log_round("run-a", 2, gone.index)
    receipt = service.desk.receipt(who.customer_ref, gone.record_id, "en")
    assert receipt["first_excluded"] is None
    service.log_round("run-a", 3, gone.index + 1)
    service.log_round("run-a", 4, log.size)
    receipt = service.desk.receipt(who.customer_ref, gone.record_id, "zh")
    assert receipt["first_excluded"] == {
        "run": "run-a",
        "round": 3,
        "consent_size": gone.index + 1,
    }
    assert receipt["lang"] == "zh"
    check_receipt(canonical_json.encode(receipt), keys_of(service))
    newest, oldest = service.desk.history(who.customer_ref)
    assert newest.first_excluded is not None
    assert newest.first_excluded.round == 3
    assert oldest.first_excluded is None


def test_a_round_after_a_new_consent_excluded_nobody(service: Service) -> None:
    who = actor()
    service.desk.choose(who, decide(service, who, *BOTH))
    gone = service.desk.withdraw(who)
    service.desk.choose(who, decide(service, who, *BOTH))
    service.log_round("run-b", 1, service.opened.log.size)
    receipt = service.desk.receipt(who.customer_ref, gone.record_id, "en")
    assert receipt["first_excluded"] is None


def test_history_is_bounded_and_the_newest_first(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = actor()
    for _ in range(3):
        service.desk.choose(who, decide(service, who, *BOTH))
        service.desk.withdraw(who)
    history = service.desk.history(who.customer_ref)
    assert [each.index for each in history] == sorted((e.index for e in history), reverse=True)
    assert MAX_HISTORY == 200
    monkeypatch.setattr("client.consent_service.local_desk.MAX_HISTORY", 2)
    assert service.desk.history(who.customer_ref) == history[:2]


def test_the_checkpoint_with_enough_cosignatures_proves_an_entry_best(
    service: Service, tmp_path: Path
) -> None:
    log, home = service.opened.log, service.opened.home
    who = actor()
    index = service.desk.choose(who, decide(service, who, *BOTH)).index
    registry, witnesses = _registry_with_witnesses(home.federation, quorum=2)
    with WitnessStore.open(tmp_path / "witness.sqlite", create=True) as store:
        kept, cosigners = CosignatureStore(store, home.origin), Cosigners(registry)
        choice = CheckpointChoice(log, home.region, kept, cosigners)
        assert choice.above(index) == log.checkpoint()

        def cosign(size: int, *names: str) -> None:
            note = log.checkpoint_at(size)
            for name in names:
                cosigned = add_cosignature(note, name, witnesses[name], time_s=now_ms() // 1000)
                line = parse_note(cosigned.encode()).signatures[-1].line
                kept.keep(note, [line], cosigners.keys(but=home.region))

        cosign(index, "w-1", "w-2")
        assert choice.above(index) == log.checkpoint()
        service.log_round("run-c", 1, 0)
        service.log_round("run-c", 2, 0)
        cosign(index + 1, "w-1")
        assert _size_of(choice.above(index)) == index + 1
        cosign(index + 2, "w-1", "w-2")
        # Enough is enough: the first such checkpoint proves it the shortest way.
        cosign(index + 3, "w-1", "w-2", "w-3")
        best = choice.above(index)
        assert _size_of(best) == index + 2
        assert {each.name for each in parse_note(best).signatures} >= {"w-1", "w-2"}


def _size_of(note: bytes) -> int:
    return int(note.split(b"\n")[1])


def _registry_with_witnesses(
    federation: str, *, quorum: int
) -> tuple[Registry, dict[str, MemorySigner]]:
    root, now = MemorySigner("root"), now_ms()
    witnesses = {name: MemorySigner(name) for name in ("w-1", "w-2", "w-3")}
    record = build_registry(
        federation=federation,
        registry_version=1,
        issued_at=format_time(now - 1000),
        prev=None,
        threshold=1,
        witness_quorum=quorum,
        root_public_keys=[root.public_key],
        keys=[
            {
                "key_id": signer.key_id,
                "public_key": signer.public_key.hex(),
                "party": name,
                "role": "witness",
                "not_before": format_time(now - 3_600_000),
                "not_after": format_time(now + 3_600_000),
                "revoked_at": None,
            }
            for name, signer in witnesses.items()
        ],
    )
    return Registry.from_envelopes([sign_record(record, root)], root_key_ids=None), witnesses


# Notices


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[tuple[Service, list[int]]]:
    """A region of its own, whose clock the test sets."""
    home = make_region_home(
        tmp_path / "home", notices=[notice_record(**NOTICE), notice_record(**NOTICE_ZH)]
    )
    clock = [now_ms()]
    with (
        open_home(home) as opened,
        desk_on(home, opened.log, opened.state, opened.subjects, clock_ms=lambda: clock[0]) as desk,
    ):
        yield Service(opened, desk, None, tmp_path), clock  # type: ignore[arg-type]


def test_the_notice_comes_in_the_language_that_there_is(fresh: tuple[Service, list[int]]) -> None:
    desk = fresh[0].desk
    assert {lang: desk.notice(lang).lang for lang in ("en", "zh", "zh-Hans-CN", "de")} == {
        "en": "en",
        "zh": "zh",
        "zh-Hans-CN": "zh",
        "de": "en",
    }


def test_a_new_notice_asks_anew_and_keeps_nothing_beyond_the_grace(
    fresh: tuple[Service, list[int]],
) -> None:
    service, clock = fresh
    who = actor()
    service.desk.choose(who, decide(service, who, *BOTH))
    shown_before = decide(service, who, *BOTH, FEDERATED_ANALYTICS)
    notice = parse_notice(notice_record(**{**NOTICE, "notice_id": "pn-2-en"}))
    publish(
        service.opened.log,
        service.opened.state,
        notice,
        service.opened.home.signer("controller"),
        supersedes="auto",
        in_force_from_ms=clock[0] + 1000,
    )
    assert service.desk.notice("en").notice_id == "pn-1-en"
    clock[0] += 2000
    assert service.desk.notice("en").notice_id == "pn-2-en"
    position = service.desk.position(who.customer_ref, "en")
    assert position.notice_changed
    assert position.granted == BOTH
    assert position.until == format_time(clock[0] - 1000 + GRACE_S * 1000)
    assert refused(service, who, shown_before) == "notice-changed"
    # To keep one purpose is to agree to it under the new notice.
    kept = service.desk.choose(who, decide(service, who, RECOMMENDATIONS))
    assert kept.notice_id == "pn-2-en"
    other = actor()
    clock[0] -= 2000
    service.desk.choose(other, decide(service, other, *BOTH))
    clock[0] += 2000 + GRACE_S * 1000
    lapsed = service.desk.position(other.customer_ref, "en")
    assert lapsed.granted == frozenset()
    assert Standing.NOTICE_SUPERSEDED in lapsed.standings.values()


# Opening


def test_a_log_that_another_process_has_is_not_opened_twice(service: Service) -> None:
    with pytest.raises(StorageError, match="Another process") as refusal:
        with open_desk(service.opened.home):
            raise AssertionError
    assert "--engine-socket" in refusal.value.remedy


def test_a_desk_opens_a_home_by_itself(tmp_path: Path) -> None:
    home = make_region_home(tmp_path / "home", notices=[notice_record(**NOTICE)])
    who = actor()
    with open_desk(home) as desk:
        notice = desk.notice("en")
        desk.choose(who, Decision(BOTH, notice.sha256, None))
    with open_desk(home) as desk:
        assert isinstance(desk, LocalDesk)
        assert desk.position(who.customer_ref, "en").granted == BOTH
