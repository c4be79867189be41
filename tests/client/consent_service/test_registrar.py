"""Choices become signed, chained records; what may not be said is not logged."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.consent_service.evidence import Evidence
from client.consent_service.forms import FormSettings
from client.consent_service.notices import offered
from client.consent_service.registrar import Choice, GuardianChoice
from common.audit.entry import make_entry
from common.consent import (
    FEDERATED_ANALYTICS,
    FEDERATED_TRAINING,
    GIVEN,
    RECOMMENDATIONS,
    REFUSED,
    WITHDRAWN,
    Standing,
)
from common.envelope import Envelope
from common.errors import ConsentError, FormatError
from common.timestamps import format_time, now_ms, parse_time
from tests.support.region_home import (
    DAY_MS,
    GRACE_S,
    OpenHome,
    make_region_home,
    notice_record,
    open_home,
)

TRAINING = {FEDERATED_TRAINING: True}


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenHome]:
    home = make_region_home(tmp_path_factory.mktemp("registrar") / "home")
    with open_home(home) as opened:
        yield opened


def newest(region: OpenHome) -> dict[str, object]:
    ((_, data),) = region.log.entries(region.log.size - 1)
    return dict(Envelope.decode(data).record())


def test_a_new_customer_consents_withdraws_and_consents_again(region: OpenHome) -> None:
    registrar, log = region.registrar, region.log
    assert not registrar.consents("newcomer")
    registrar.record([Choice.give("newcomer", TRAINING)])
    assert registrar.consents("newcomer")
    registrar.record([Choice.withdraw("newcomer")])
    assert not registrar.consents("newcomer")
    registrar.record([Choice.give("newcomer", TRAINING)])
    assert registrar.consents("newcomer")
    records = [Envelope.decode(data).record() for _, data in log.entries(log.size - 3)]
    assert [record["seq"] for record in records] == [1, 2, 3]
    assert len({str(record["sid"]) for record in records}) == 1
    assert "newcomer" not in str(records)


def test_consent_is_per_purpose(region: OpenHome) -> None:
    region.registrar.record([Choice.give("choosy", {RECOMMENDATIONS: True})])
    assert not region.registrar.consents("choosy")
    for purpose, standing in [
        (RECOMMENDATIONS, Standing.IN_FORCE),
        (FEDERATED_TRAINING, Standing.PURPOSE_REFUSED),
    ]:
        found = region.registrar.state_of("choosy", purpose, notice_grace_s=GRACE_S)
        assert found.standing is standing
    found = region.registrar.state_of("stranger", RECOMMENDATIONS, notice_grace_s=0)
    assert found.standing is Standing.NO_RECORD


def test_a_batch_is_logged_whole_or_not_at_all(region: OpenHome) -> None:
    size, enrolled = region.log.size, region.subjects.pseudonyms()
    with pytest.raises(ConsentError, match="never given"):
        region.registrar.record([Choice.give("one", TRAINING), Choice.withdraw("two")])
    with pytest.raises(ConsentError, match="named twice"):
        region.registrar.record([Choice.refuse("one"), Choice.refuse("one")])
    assert region.log.size == size
    assert region.subjects.pseudonyms() == enrolled, "nobody was enrolled for nothing"
    assert len(region.registrar.record([])) == 0


def test_who_only_ever_refused_cannot_withdraw(region: OpenHome) -> None:
    registrar = region.registrar
    registrar.record([Choice.refuse("never")])
    with pytest.raises(ConsentError, match="never given"):
        registrar.record([Choice.withdraw("never")])
    registrar.record([Choice.give("never", TRAINING)])
    registrar.record([Choice.refuse("never")])
    # They gave before they refused: withdrawing says nothing false.
    registrar.record([Choice.withdraw("never")])
    assert newest(region)["seq"] == 4


def test_the_same_choice_again_is_an_event_of_its_own(region: OpenHome) -> None:
    registrar = region.registrar
    (first,) = registrar.record([Choice.give("again", TRAINING)])
    (second,) = registrar.record([Choice.give("again", TRAINING)])
    history = registrar.history("again")
    assert [each.index for each in history] == [first, second]
    assert history[1].record.prev == history[0].sha256
    assert [registrar.entry_index(each.record.record_id) for each in history] == [first, second]
    assert registrar.entry_index("0" * 26) is None
    assert registrar.history("stranger") == []


def test_what_could_not_be_read_back_is_not_logged(region: OpenHome) -> None:
    size = region.log.size
    for wrong in [
        replace(Choice.refuse("odd"), state="dpv:Whatever"),
        replace(Choice.give("odd", TRAINING), expires_ms=1),
        Choice.give("odd", {"no term": True}),
    ]:
        with pytest.raises(FormatError):
            region.registrar.record([wrong])
    assert region.log.size == size
    assert region.subjects.pseudonym("odd") is None


def test_a_consent_that_its_notice_does_not_allow_is_refused(tmp_path: Path) -> None:
    home = make_region_home(
        tmp_path / "home", notices=[notice_record(purposes=[FEDERATED_TRAINING])]
    )
    with open_home(home) as region:
        registrar, form = region.registrar, region.registrar._form
        assert form is not None
        for purposes, what in [
            ({FEDERATED_ANALYTICS: True}, "does not name"),
            ({FEDERATED_TRAINING: False}, "grants no purpose"),
            ({}, "grants no purpose"),
        ]:
            with pytest.raises(ConsentError, match=what):
                registrar.record([Choice.give("a", purposes)])
        for wrong, what in [
            (replace(form, notice_sha256="0" * 64), "not in the log"),
            (replace(form, notice_id="pn-other"), "another id"),
            (replace(form, lang="de"), "another id or language"),
        ]:
            for choice in (Choice.give("a", TRAINING), Choice.refuse("a")):
                with pytest.raises(ConsentError, match=what):
                    registrar.record([replace(choice, form=wrong)])
        future = replace(Choice.give("a", TRAINING), event_time_ms=now_ms() + 60_000)
        with pytest.raises(ConsentError, match="in the future"):
            registrar.record([future])
        assert registrar.history("a") == []


def test_only_a_notice_in_force_can_be_consented_to(tmp_path: Path) -> None:
    later = notice_record(notice_id="pn-later", in_force_from=format_time(now_ms() + DAY_MS))
    home = make_region_home(tmp_path / "home", notices=[notice_record(), later])
    with open_home(home) as region:
        state, registrar = region.state, region.registrar
        settings = FormSettings.read(home.root)
        old, not_yet = (settings.form(each) for each in state.notices)
        with pytest.raises(ConsentError, match="not in force"):
            registrar.record([Choice.give("a", TRAINING, form=not_yet)])
        registrar.record([Choice.give("a", TRAINING, form=old)])
        follower = notice_record(
            notice_id="pn-2",
            supersedes=state.notices[0].sha256,
            in_force_from=format_time(now_ms() - 1),
        )
        region.log.append([make_entry(follower, home.signer("controller"))])  # type: ignore[arg-type]
        state.refresh()
        with pytest.raises(ConsentError, match="not in force"):
            registrar.record([Choice.give("b", TRAINING, form=old)])
        # Withdrawing is always possible, whatever notice it names.
        registrar.record([Choice.withdraw("a", form=old)])
        newest_form = settings.form(offered(state.notices, now_ms())["en"])
        registrar.record([Choice.give("b", TRAINING, form=newest_form)])
        assert newest_form.notice_id == "pn-2"


def test_each_choice_can_have_its_own_language(tmp_path: Path) -> None:
    notices = [notice_record(), notice_record(notice_id="pn-1-zh", lang="zh-CN")]
    home = make_region_home(tmp_path / "home", notices=notices)
    with open_home(home) as region:
        settings = FormSettings.read(home.root)
        form = settings.form(offered(region.state.notices, now_ms())["zh-CN"])
        region.registrar.record([Choice.give("a", TRAINING), Choice.give("b", TRAINING, form=form)])
        langs = [region.registrar.history(ref)[0].record.form.lang for ref in ("a", "b")]
        assert langs == ["en", "zh-CN"]


def test_a_consent_expires_as_its_form_says(tmp_path: Path) -> None:
    home = make_region_home(tmp_path / "home", lasts_s=90)
    with open_home(home) as region:
        region.registrar.record([Choice.give("a", TRAINING), Choice.refuse("b")])
        ((given,), (refused,)) = (region.registrar.history(ref) for ref in ("a", "b"))
        assert given.record.expires is not None
        lasted = parse_time(given.record.expires) - parse_time(given.record.event_time)
        assert lasted == 90_000
        assert refused.record.expires is None
        found = region.registrar.state_of("a", FEDERATED_TRAINING, notice_grace_s=0)
        assert found.until_ms == parse_time(given.record.expires)


def test_evidence_is_a_salted_digest_whose_opening_lies_in_the_deletable_table(
    region: OpenHome,
) -> None:
    registrar = region.registrar
    for _ in range(2):
        registrar.record([Choice.give("shown", TRAINING, evidence=b"signed token")])
    digests = [each.record.evidence for each in registrar.history("shown")]
    assert len(set(digests)) == 2, "each has its own salt"
    assert hashlib.sha256(b"signed token").hexdigest() not in digests
    rows = region.subjects.evidence("shown")
    assert [Evidence.read(row).token for row in rows] == [b"signed token"] * 2
    assert [Evidence.read(row).digest for row in rows] == digests
    assert b"signed token" not in home_bytes(region)
    assert region.subjects.evidence("newcomer") == []
    with pytest.raises(FormatError, match="Evidence"):
        registrar.record([Choice.give("shown", TRAINING, evidence=b"")])


def home_bytes(region: OpenHome) -> bytes:
    return b"".join(path.read_bytes() for path in region.home.root.rglob("*") if path.is_file())


def test_a_minor_needs_a_guardian(region: OpenHome) -> None:
    registrar = region.registrar
    for guardian in [None, GuardianChoice(REFUSED), GuardianChoice(WITHDRAWN)]:
        with pytest.raises(FormatError, match="guardian"):
            registrar.record([Choice.give("child", TRAINING).of_minor(guardian)])
    assert registrar.history("child") == []
    consenting = GuardianChoice(GIVEN, evidence=b"guardian's token")
    registrar.record([Choice.give("child", TRAINING, evidence=b"own").of_minor(consenting)])
    (given_,) = registrar.history("child")
    assert given_.record.minor
    assert given_.record.guardian is not None
    givers = {row.giver: Evidence.read(row) for row in region.subjects.evidence("child")}
    assert givers["guardian"].digest == given_.record.guardian.evidence
    assert givers["subject"].digest == given_.record.evidence
    # One call, and still a minor's record.
    registrar.record([Choice.withdraw("child")])
    assert registrar.history("child")[-1].record.minor


def test_a_pseudonym_is_not_derived_from_the_reference_alone(
    region: OpenHome, tmp_path: Path
) -> None:
    """A24: without the customer's key, guessing references finds no pseudonym."""
    refs = [f"customer-{number}" for number in range(20)]
    here = region.subjects.enrol(refs)
    with open_home(make_region_home(tmp_path / "other")) as other:
        there = other.subjects.enrol(refs)
    assert not set(here.values()) & set(there.values())


def test_threads_record_beside_another_writer_of_the_log(region: OpenHome) -> None:
    errors: list[BaseException] = []
    others = [f"thread-{number}" for number in range(4)]

    def choose(ref: str) -> None:
        try:
            for _ in range(5):
                region.registrar.record([Choice.give(ref, TRAINING)])
                region.registrar.record([Choice.withdraw(ref)])
        except BaseException as error:  # noqa: BLE001 # shown below
            errors.append(error)

    def append_notices() -> None:
        try:
            for number in range(10):
                record = notice_record(notice_id=f"pn-x{number}", lang="fr")
                entry = make_entry(record, region.home.signer("controller"))  # type: ignore[arg-type]
                region.log.append([entry])
                region.state.refresh()
                region.state.consents.eligible(FEDERATED_TRAINING, now_ms())
        except BaseException as error:  # noqa: BLE001 # shown below
            errors.append(error)

    threads = [threading.Thread(target=choose, args=(ref,)) for ref in others]
    threads.append(threading.Thread(target=append_notices))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for ref in others:
        assert [each.record.seq for each in region.registrar.history(ref)] == list(range(1, 11))


def test_two_choices_of_one_customer_at_once_follow_each_other(
    region: OpenHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a record names as the one before it is still the newest when it is logged."""
    append, errors = region.log.append, list[BaseException]()

    def slow_append(entries: list[bytes]) -> range:
        time.sleep(0.05)
        return append(entries)

    def choose() -> None:
        try:
            region.registrar.record([Choice.give("twin", TRAINING)])
        except BaseException as error:  # noqa: BLE001 # shown below
            errors.append(error)

    monkeypatch.setattr(region.log, "append", slow_append)
    threads = [threading.Thread(target=choose) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [each.record.seq for each in region.registrar.history("twin")] == [1, 2, 3]


def test_an_imported_choice_is_not_older_than_its_notice(region: OpenHome) -> None:
    began_ms = region.state.notices[0].notice.in_force_from_ms
    choice = replace(Choice.give("imported", TRAINING), imported=True)
    with pytest.raises(ConsentError, match="before its notice"):
        region.registrar.record([replace(choice, event_time_ms=began_ms - 1)])
    region.registrar.record([replace(choice, event_time_ms=began_ms)])
    assert region.registrar.history("imported")[0].record.form.method == "imported"


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["p", "q", "r"]), st.sampled_from(["give", "refuse", "withdraw"]))
    )
)
def test_whatever_is_chosen_forms_whole_chains(
    region: OpenHome, steps: list[tuple[str, str]]
) -> None:
    registrar = region.registrar
    gave = {ref: any(e.record.state == GIVEN for e in registrar.history(ref)) for ref in "pqr"}
    for ref, step in steps:
        before = registrar.history(ref)
        if step == "withdraw" and not gave[ref]:
            with pytest.raises(ConsentError):
                registrar.record([Choice.withdraw(ref)])
            assert registrar.history(ref) == before
            continue
        choice = Choice.give(ref, TRAINING) if step == "give" else getattr(Choice, step)(ref)
        registrar.record([choice])
        gave[ref] = gave[ref] or step == "give"
        history = registrar.history(ref)
        assert history[:-1] == before
        assert history[-1].record.seq == len(history)
        assert history[-1].record.prev == (before[-1].sha256 if before else None)
        assert registrar.consents(ref) == (step == "give")
