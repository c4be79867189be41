"""`fedpref-region choose` and `receipt`: a customer at the counter, on the phone, by letter."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from client import cli
from client.consent_service.desk_opening import desk_on
from client.consent_service.desk_socket import serve_desk
from client.consent_service.evidence import Evidence
from client.engine.home import RegionHome
from common.audit.federation_keys import FederationKeys
from common.audit.receipt import CheckedReceipt, check_receipt
from common.consent import FEDERATED_TRAINING, GIVEN, RECOMMENDATIONS, REFUSED, WITHDRAWN
from common.consent_record import ConsentRecord
from tests.support.command_line import command_line
from tests.support.consent_service import NOTICE, NOTICE_ZH
from tests.support.region_home import make_region_home, notice_record, open_home

Command = Callable[..., tuple[int, str]]
NEW = ("anna", "--give", FEDERATED_TRAINING, "--give", RECOMMENDATIONS, "--new")


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    notices = [notice_record(**NOTICE), notice_record(**NOTICE_ZH)]
    return make_region_home(tmp_path / "region-1", notices=notices)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command as a user does; gives its exit code and all that it put out."""
    line = command_line(cli.main, "fedpref-region", patch=monkeypatch, capture=capsys)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*words: object) -> tuple[int, str]:
        code, output, errors = line(*words)
        assert "Traceback" not in output + errors
        return code, output + errors

    return run


def records(home: RegionHome, reference: str = "anna") -> list[ConsentRecord]:
    with open_home(home) as opened:
        return [each.record for each in opened.registrar.history(reference)]


def checked(home: RegionHome, path: Path) -> CheckedReceipt:
    keys = FederationKeys.from_envelopes([(home.registry / "1.json").read_bytes()])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return check_receipt(path.read_bytes(), keys)


def test_all_that_a_customer_may_say_is_logged_as_they_said_it(
    home: RegionHome, command: Command
) -> None:
    code, shown = command("choose", home, *NEW, "--lang", "zh")
    assert code == 0, shown
    assert "the consent is logged" in shown
    assert f"Agreed to: {RECOMMENDATIONS}, {FEDERATED_TRAINING}." in shown
    code, shown = command("choose", home, "anna", "--give", RECOMMENDATIONS, "--way", "phone")
    assert (code, "takes its consents from now on" in shown) == (0, True), shown
    code, shown = command("choose", home, "anna", "--withdraw", "--way", "letter")
    assert (code, "the withdrawal is logged" in shown) == (0, True), shown
    given, less, withdrawn = records(home)
    assert [each.state for each in (given, less, withdrawn)] == [GIVEN, GIVEN, WITHDRAWN]
    assert given.purposes[FEDERATED_TRAINING] is True
    assert less.purposes[FEDERATED_TRAINING] is False
    assert (given.form.notice_id, less.form.notice_id) == ("pn-1-zh", "pn-1-zh")
    methods = [each.form.method for each in (given, less, withdrawn)]
    assert methods == ["in-person", "phone", "letter"]
    assert given.evidence is None
    assert command("choose", home, "ben", "--refuse", "--new")[0] == 0
    assert [each.state for each in records(home, "ben")] == [REFUSED]


def test_what_was_signed_is_the_evidence(
    home: RegionHome, command: Command, tmp_path: Path
) -> None:
    scan = tmp_path / "scan.pdf"
    scan.write_bytes(b"signed by hand")
    assert command("choose", home, *NEW, "--document", scan)[0] == 0
    with open_home(home) as opened:
        (row,) = opened.subjects.evidence("anna")
        evidence = Evidence.read(row)
    assert json.loads(evidence.token) == {
        "document_sha256": hashlib.sha256(b"signed by hand").hexdigest(),
        "method": "in-person",
    }
    assert records(home)[0].evidence == evidence.digest
    code, shown = command("choose", home, "anna", "--withdraw", "--document", tmp_path / "lost")
    assert (code, "cannot be read" in shown) == (3, True), shown
    assert len(records(home)) == 1


def test_a_minor_needs_a_guardian(home: RegionHome, command: Command) -> None:
    code, shown = command("choose", home, *NEW, "--minor")
    assert (code, "add --guardian" in shown) == (5, True), shown
    assert command("choose", home, *NEW, "--guardian")[0] == 2
    assert records(home) == []
    assert command("choose", home, *NEW, "--minor", "--guardian")[0] == 0
    (record,) = records(home)
    assert record.minor
    assert record.guardian is not None
    assert record.guardian.state == GIVEN


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "Exactly one of"),
        (("--withdraw", "--refuse"), 2, "Exactly one of"),
        (("--withdraw",), 5, "check the reference's spelling"),
        (("--withdraw", "--new"), 5, "nothing to withdraw"),
        (("--refuse",), 5, "add --new"),
        (("--give", "fedpref:Everything", "--new"), 2, "does not ask about fedpref:Everything"),
        (("--give", FEDERATED_TRAINING, "--way", "pigeon"), 2, "pigeon"),
    ],
)
def test_what_cannot_be_logged_is_said_and_nothing_is(
    arguments: tuple[str, ...], code: int, words: str, home: RegionHome, command: Command
) -> None:
    ended, shown = command("choose", home, "anna", *arguments)
    assert ended == code, shown
    assert words in shown.replace("\n", " ")
    assert records(home) == []


def test_who_has_chosen_is_not_new_does_not_refuse_and_withdraws_once(
    home: RegionHome, command: Command
) -> None:
    assert command("choose", home, *NEW)[0] == 0
    for arguments, words in (
        (NEW[1:], "not new"),
        (("--refuse",), "Use --withdraw"),
    ):
        code, shown = command("choose", home, "anna", *arguments)
        assert (code, words in shown) == (5, True), shown
    assert command("choose", home, "anna", "--withdraw")[0] == 0
    code, shown = command("choose", home, "anna", "--withdraw")
    assert (code, "nothing needs to be logged" in shown) == (5, True), shown
    assert len(records(home)) == 2


def test_receipts_hold_and_no_file_is_overwritten(
    home: RegionHome, command: Command, tmp_path: Path
) -> None:
    first, newest, chosen = (tmp_path / name for name in ("first", "newest", "chosen"))
    code, shown = command("choose", home, *NEW, "--receipt", first)
    assert (code, str(first) in shown) == (0, True), shown
    assert not checked(home, first).ends_consent
    code, shown = command("choose", home, "anna", "--withdraw", "--receipt", first)
    assert (code, "none is overwritten" in shown) == (3, True), shown
    assert len(records(home)) == 1
    assert command("choose", home, "anna", "--withdraw")[0] == 0
    # The engine may run meanwhile: the log is only read.
    with open_home(home):
        code, shown = command("receipt", home, "anna", "--out", newest, "--lang", "zh")
    assert (code, "the withdrawal. No round has been" in shown) == (0, True), shown
    assert checked(home, newest).ends_consent
    assert checked(home, newest).receipt.lang == "zh"
    record_id = records(home)[0].record_id
    assert command("receipt", home, "anna", "--out", chosen, "--record-id", record_id)[0] == 0
    assert checked(home, chosen).logged.index == checked(home, first).logged.index
    for arguments, code, words in (
        (("anna", "--out", chosen), 3, "none is overwritten"),
        (("nobody", "--out", tmp_path / "x"), 5, "no consent record of a customer"),
        (("anna", "--out", tmp_path / "x", "--record-id", "01X"), 5, record_id),
    ):
        ended, shown = command("receipt", home, *arguments)
        assert (ended, words in shown) == (code, True), shown


def test_beside_the_process_that_has_the_log_the_choice_goes_through_its_desk(
    home: RegionHome, command: Command, tmp_path: Path
) -> None:
    with open_home(home) as opened:
        code, shown = command("choose", home, *NEW)
        assert (code, "--consent-socket" in shown) == (10, True), shown
        socket = tmp_path / "desk"
        with (
            desk_on(home, opened.log, opened.state, opened.subjects) as desk,
            serve_desk(desk, socket),
        ):
            through = ("--engine-socket", socket)
            written = tmp_path / "receipt"
            assert command("choose", home, *NEW, *through, "--receipt", written)[0] == 0
            code, shown = command("choose", home, "ben", "--refuse", *through)
            assert (code, "add --new" in shown) == (5, True), shown
    assert [each.form.method for each in records(home)] == ["in-person"]
    checked(home, written)
