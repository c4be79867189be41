"""The commands about one customer: exit codes, words, and files that stand alone."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from client.engine.home import RegionHome
from client.engine.subjects import open_subject_keys
from common.audit import cli
from common.audit.customer_key import CustomerKey
from common.audit.membership import MembershipProof
from common.audit.participation import Participation
from common.audit.verified_bundle import open_verified
from common.privacy import UNIT_AND_RELATION
from tests.support.answered_bundle import QUERY_ID, answering
from tests.support.bundle_builder import REGIONS, RUN, Federation
from tests.support.customers import CustomersFederation, receipt_of, write_key

R1, R2 = REGIONS
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def federation() -> Federation:
    return CustomersFederation(rounds=3).run()


@pytest.fixture(scope="module")
def run(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return federation.write(tmp_path_factory.mktemp("federation") / "run")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    def run_command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedpref-audit", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        assert "Traceback" not in captured.out + captured.err
        return stop.value.code, captured.out, captured.err

    return run_command


# -- proofs ----------------------------------------------------------------------------------------


def test_proofs_of_all_rounds_are_written_and_check_alone(
    federation: Federation, run: Path, tmp_path: Path, call: Call
) -> None:
    key, out = write_key(tmp_path, R1, 2), tmp_path / "proofs"
    code, shown, err = call("prove-consent", run, key, "--out", out)
    assert (code, err) == (0, "")
    assert "consent withdrawn" in shown
    files = sorted(out.iterdir())
    assert [path.name.split("-entry")[0] for path in files] == [
        "round-0001",
        "round-0002",
        "round-0003",
    ]
    verbs = ["was in", "was not in", "was not in"]
    for path, verb in zip(files, verbs, strict=True):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for source in (["--registry", run / "bundle"], ["--bundle", run]):
            code, shown, err = call("check-proof", path, *source, "--customer-key", key)
            assert (code, err) == (0, "")
            assert f"this customer {verb} round" in shown
            assert "region-2, server, witness" in shown


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Federation, Path]:
    federation = answering().answer_all()
    return federation, federation.write(tmp_path_factory.mktemp("answered") / "run")


def test_answers_to_queries_are_proved_too(
    answered: tuple[Federation, Path], tmp_path: Path, call: Call
) -> None:
    federation, run = answered
    key, out = write_key(tmp_path, R1, 2), tmp_path / "proofs"
    code, shown, err = call("prove-consent", run, key, "--out", out)
    assert (code, err) == (0, "")
    assert "scenes" in shown
    assert "4 proofs" in shown
    places = [federation.find(R1, "answer", number) for number in (0, 1)]
    for place, name in zip(places, ("scenes", "regional-bias"), strict=True):
        path = out / f"answer-entry-{place}.json"
        for source in (["--registry", run / "bundle"], ["--bundle", run]):
            code, told, err = call("check-proof", path, *source, "--customer-key", key)
            assert (code, err) == (0, "")
            assert f"was not in the answer to {name} of query {QUERY_ID}" in " ".join(told.split())
    code, told, _ = call("lineage", run, key)
    assert (code, "The region's own queries" in told) == (0, True)


def test_absence_from_an_answer_is_proved_where_it_is_so(
    answered: tuple[Federation, Path], tmp_path: Path, call: Call
) -> None:
    federation, run = answered
    place, out = federation.find(R1, "answer"), tmp_path / "absent.json"
    absent, present = write_key(tmp_path, R1, 2), write_key(tmp_path, R1, 0)
    code, told, err = call("prove-absence", run, absent, "--answer", place, "--out", out)
    assert (code, err) == (0, "")
    assert f"Not in the answer in entry {place}: consent withdrawn." in told
    assert call("check-proof", out, "--registry", run / "bundle")[0] == 0
    out.unlink()
    code, _, err = call("prove-absence", run, present, "--answer", place, "--out", out)
    assert (code, "cannot be proved" in " ".join(err.split())) == (8, True)
    assert call("prove-absence", run, absent, "--answer", 0, "--out", out)[0] == 3
    # A round or an answer, and not both.
    assert call("prove-absence", run, absent, "--out", out)[0] == 2
    assert call("prove-absence", run, absent, 1, "--answer", place, "--out", out)[0] == 2
    assert not out.exists()


def test_a_proof_about_another_customer_or_that_was_changed_is_refused(
    run: Path, tmp_path: Path, call: Call
) -> None:
    key, out = write_key(tmp_path, R1, 0), tmp_path / "proof.json"
    assert call("prove-consent", run, key, "--out", tmp_path / "all")[0] == 0
    first = next((tmp_path / "all").glob("round-0001*"))
    other = write_key(tmp_path, R1, 1)
    code, _, err = call("check-proof", first, "--registry", run / "bundle", "--customer-key", other)
    assert code == 8
    assert "another customer" in err
    out.write_bytes(first.read_bytes().replace(b'"kind":"member"', b'"kind":"absent"'))
    code, _, err = call("check-proof", out, "--registry", run / "bundle")
    assert code == 8
    assert f"log {R1}, entry" in err
    out.write_bytes(first.read_bytes() + b"\n")
    assert call("check-proof", out, "--registry", run / "bundle")[0] == 3


def test_a_proof_is_compared_with_the_log_of_the_bundle(
    run: Path, tmp_path: Path, call: Call
) -> None:
    key = write_key(tmp_path, R1, 0)
    assert call("prove-consent", run, key, "--out", tmp_path / "all")[0] == 0
    third = next((tmp_path / "all").glob("round-0003*"))
    index = MembershipProof.parse(third.read_bytes()).log_proof.index
    shorter = CustomersFederation(rounds=2).run().write(tmp_path / "shorter")
    code, _, err = call("check-proof", third, "--bundle", shorter)
    assert code == 8
    assert f"log {R1}, entry {index}" in " ".join(err.split())


def test_absence_is_proved_where_it_is_so(run: Path, tmp_path: Path, call: Call) -> None:
    key, out = write_key(tmp_path, R1, 2), tmp_path / "absence.json"
    code, shown, err = call("prove-absence", run, key, 2, "--out", out)
    assert (code, err) == (0, "")
    assert f"Not in round 2 of run {RUN}: consent withdrawn." in shown
    code, shown, _ = call("check-proof", out, "--registry", run / "bundle" / "registry")
    assert code == 0
    assert "was not in round 2" in shown


def test_absence_of_someone_present_is_refused_in_clear_words(
    federation: Federation, run: Path, tmp_path: Path, call: Call
) -> None:
    key, out = write_key(tmp_path, R1, 2), tmp_path / "absence.json"
    code, _, err = call("prove-absence", run, key, 1, "--out", out)
    assert code == 8
    assert f"was in round 1 of run {RUN} (log {R1}, entry {federation.find(R1, 'round')})" in (
        " ".join(err.split())
    )
    assert not out.exists()
    code, _, err = call("prove-absence", run, key, 9, "--out", out)
    assert code == 3
    assert "does not have round 9" in " ".join(err.split())


def test_proofs_are_not_mixed_with_other_files(run: Path, tmp_path: Path, call: Call) -> None:
    key = write_key(tmp_path, R1, 0)
    code, _, err = call("prove-consent", run, key, "--out", tmp_path)
    assert code == 3
    assert "not empty" in err


# -- receipts --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def receipt(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("receipt") / "receipt.json"
    index = federation.find(R1, "consent", federation.customers)
    path.write_bytes(receipt_of(federation, R1, index))
    return path


def test_a_receipt_is_checked_alone_and_against_a_bundle(
    run: Path, receipt: Path, call: Call
) -> None:
    code, alone, err = call("check-receipt", receipt, "--registry", run / "bundle")
    assert (code, err) == (0, "")
    assert alone.startswith("The receipt holds.")
    assert "excludes the customer" in alone
    assert "cannot take it back unnoticed" in " ".join(alone.split())
    code, full, err = call("check-receipt", receipt, run)
    assert (code, err) == (0, "")
    assert "holds the record at this place" in full
    assert full.count("consent withdrawn") == 2


def test_a8_a_withheld_withdrawal_exits_8_and_names_the_entry(
    federation: Federation, receipt: Path, tmp_path: Path, call: Call
) -> None:
    class Withholding(CustomersFederation):
        def consent(self, region: str, customer: int, state: str) -> None:
            if (region, state) != (R1, "dpv:ConsentWithdrawn"):
                super().consent(region, customer, state)

    dishonest = Withholding(rounds=3).run().write(tmp_path)
    assert call("verify", dishonest)[0] == 0
    code, _, err = call("check-receipt", receipt, dishonest)
    index = federation.find(R1, "consent", federation.customers)
    assert code == 8
    assert f"log {R1}, entry {index}" in " ".join(err.split())


# -- what stops them all ---------------------------------------------------------------------------


def test_a_bundle_that_does_not_verify_is_refused_by_each(
    federation: Federation, receipt: Path, tmp_path: Path, call: Call
) -> None:
    broken = federation.copy()
    broken.logs["server"].pop()
    run, key = broken.write(tmp_path / "run"), write_key(tmp_path, R1, 0)
    for arguments in (
        ["prove-consent", run, key, "--out", tmp_path / "out"],
        ["prove-absence", run, key, 1, "--out", tmp_path / "proof.json"],
        ["check-receipt", receipt, run],
        ["lineage", run, key],
        ["forecast", run],
    ):
        code, out, err = call(*arguments)
        assert code == 8, arguments
        assert out == ""
        assert "does not verify" in " ".join(err.split())
        assert "publishes no model" in " ".join(err.split())
    assert not (tmp_path / "proof.json").exists()


def test_root_keys_that_the_user_names_are_required(
    federation: Federation, run: Path, receipt: Path, tmp_path: Path, call: Call
) -> None:
    key = write_key(tmp_path, R1, 0)
    right = [part for root in federation.roots[:2] for part in ("--root-key", root.key_id)]
    for extra, expected in ((right, 0), (["--root-key", "f" * 64], 8), (["--root-key", "x"], 2)):
        assert call("lineage", run, key, *extra)[0] == expected
        assert call("forecast", run, *extra)[0] == expected
        assert call("check-receipt", receipt, run, *extra)[0] == expected
    for extra, expected in ((right, 0), (["--root-key", "f" * 64], 8)):
        arguments = ["check-receipt", receipt, "--registry", run / "bundle", *extra]
        assert call(*arguments)[0] == expected


@pytest.mark.parametrize("command", ["check-proof", "check-receipt"])
def test_keys_must_come_from_somewhere(command: str, receipt: Path, call: Call) -> None:
    code, _, err = call(command, receipt)
    assert code == 2
    assert "keys are needed" in err


def test_missing_files_are_named(run: Path, tmp_path: Path, call: Call) -> None:
    missing = tmp_path / "missing.json"
    for arguments in (
        ["lineage", run, missing],
        ["check-receipt", missing, run],
        ["check-proof", missing, "--bundle", run],
        ["lineage", missing, write_key(tmp_path, R1, 0)],
    ):
        code, _, err = call(*arguments)
        assert code == 3
        assert "missing.json" in "".join(err.split())


# -- lineage and forecast --------------------------------------------------------------------------


def test_lineage_is_told_and_given_as_json(run: Path, tmp_path: Path, call: Call) -> None:
    key = write_key(tmp_path, R1, 2)
    code, told, err = call("lineage", run, key)
    assert (code, err) == (0, "")
    flat = " ".join(told.split())
    assert "It is not unlearning" in flat
    assert "from rounds 1." in flat
    code, out, _ = call("lineage", run, key, "--json")
    assert code == 0
    assert [part["member"] for part in json.loads(out)["rounds"]] == [True, False, False]


def test_who_is_not_in_the_log_is_told_so(run: Path, tmp_path: Path, call: Call) -> None:
    code, told, _ = call("lineage", run, write_key(tmp_path, R1, 40))
    assert code == 0
    assert "No consent record of theirs is in the log." in told
    assert "No published model in this bundle descends" in " ".join(told.split())


def test_forecast_is_told_and_given_as_json(run: Path, call: Call) -> None:
    code, told, err = call("forecast", run)
    assert (code, err) == (0, "")
    flat = " ".join(told.split())
    assert "Year 2026: ε 3.2332 of 10 spent" in flat
    assert f"(δ = 1e-6; {UNIT_AND_RELATION})" in flat
    assert "On 2027-01-01 the year's count begins anew" in flat
    assert "it may refuse earlier than this, never later" in flat
    code, out, _ = call("forecast", run, "--json")
    assert code == 0
    assert len(json.loads(out)["caps"]) == 4


def test_names_from_a_log_cannot_drive_a_terminal() -> None:
    from common.audit.customer_command import _plain

    assert _plain("run\x1b[31m\n\u202e1") == "run\\x1b[31m\\n\\u202e1"


# -- a real run ------------------------------------------------------------------------------------


def test_a_real_customer_of_a_real_run(finished_run: Path, tmp_path: Path, call: Call) -> None:
    key = tmp_path / "key.json"
    key.write_bytes(real_key(finished_run, tmp_path).encode())
    code, _, err = call("prove-consent", finished_run, key, "--out", tmp_path / "proofs")
    assert (code, err) == (0, "")
    proofs = sorted((tmp_path / "proofs").iterdir())
    assert len(proofs) >= 2
    for path in proofs:
        source = ["--registry", finished_run / "bundle" / "registry"]
        code, told, err = call("check-proof", path, *source, "--customer-key", key)
        assert (code, err) == (0, "")
        assert "was in round" in told
    code, told, _ = call("lineage", finished_run, key)
    assert code == 0
    assert "consent in force" in told
    assert "It is not unlearning" in " ".join(told.split())
    code, told, _ = call("forecast", finished_run)
    assert code == 0
    assert "more runs like this one fit" in " ".join(told.split())


def real_key(run: Path, folder: Path) -> CustomerKey:
    """The key of a customer whose consent was in force in every round of their region."""
    home = RegionHome.read(sorted((run / "regions").iterdir())[0])
    # A copy: whoever opens the table may write to it.
    for path in home.root.glob("subjects.sqlite*"):
        shutil.copy(path, folder)
    bundle = open_verified(run)
    with open_subject_keys(folder / home.subjects.name, home.stored_key) as subjects:
        for customer_ref, sid in subjects.pseudonyms().items():
            part = Participation(bundle, home.region, sid)
            secret = subjects.secret(customer_ref)
            if secret is not None and all(each.member for each in part.rounds()):
                return CustomerKey(home.federation, home.region, customer_ref, secret)
    raise AssertionError("nobody was in every round")
