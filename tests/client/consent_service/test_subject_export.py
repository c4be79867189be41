"""A person's export: all of theirs, nothing of anybody else's, and whole without this project."""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.consent_service.forms import FormSettings
from client.consent_service.notices import publish
from client.consent_service.participation import participation
from client.consent_service.region_records import open_records
from client.consent_service.registrar import Choice
from client.consent_service.subject_export import export_subject
from client.engine.home import RegionHome
from common.audit.cli import app as audit_app
from common.audit.customer_key import CustomerKey
from common.audit.federation_keys import FederationKeys
from common.audit.receipt import check_receipt
from common.consent import FEDERATED_TRAINING, Standing
from common.errors import ConsentError, InputError
from common.timestamps import now_ms
from tests.support.region_home import DAY_MS, GRACE_S, make_region_home, open_home

TRAINING = {FEDERATED_TRAINING: True}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> RegionHome:
    home = make_region_home(tmp_path_factory.mktemp("export") / "home")
    with open_home(home) as region:
        registrar = region.registrar
        region.log_round(1)
        registrar.record([Choice.give("anna", TRAINING, evidence=b"anna's token")])
        registrar.record([Choice.give("ben", TRAINING, evidence=b"ben's token")])
        region.log_round(2)
        before_withdrawal = region.log.size
        registrar.record([Choice.withdraw("anna", evidence=b"anna's other token")])
        # This round was under way when she withdrew: it took consents from before.
        region.log_round(3, consent_size=before_withdrawal)
        region.log_round(4)
        registrar.record([Choice.give("anna", TRAINING)])
        region.log_round(5)
        region.log_round(6)
    return home


@pytest.fixture(scope="module")
def archive(home: RegionHome, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("out") / "anna.zip"
    done = CliRunner().invoke(app, ["export-subject", str(home.root), "anna", "--out", str(out)])
    assert done.exit_code == 0, done.exception
    assert out.stat().st_mode & 0o077 == 0
    again = CliRunner().invoke(app, ["export-subject", str(home.root), "anna", "--out", str(out)])
    assert isinstance(again.exception, InputError), "nothing is overwritten"
    with zipfile.ZipFile(out) as opened:
        assert opened.testzip() is None
        return {name: opened.read(name) for name in opened.namelist()}


def read(archive: dict[str, bytes], name: str) -> Any:
    return json.loads(archive[name])


def test_each_round_says_whether_the_person_was_in_it(archive: dict[str, bytes]) -> None:
    rounds = read(archive, "participation.json")
    assert [(each["round"], each["standing"]) for each in rounds] == [
        (1, "no-record"),
        (2, "in-force"),
        (3, "in-force"),
        (4, "withdrawn"),
        (5, "in-force"),
        (6, "in-force"),
    ]
    assert all(each["included"] == (each["standing"] == "in-force") for each in rounds)
    summary = read(archive, "summary.json")
    assert (summary["records"], summary["rounds"], summary["rounds_included"]) == (3, 6, 4)
    assert summary["consent_now"] == {FEDERATED_TRAINING: "in-force"}


def test_records_are_the_logged_bytes(home: RegionHome, archive: dict[str, bytes]) -> None:
    with open_records(home) as records:
        history = records.registrar().history("anna")
    assert len(history) == 3
    for number, each in enumerate(history, start=1):
        assert archive[f"records/{number:04d}.signed.json"] == each.entry
        shown = read(archive, f"records/{number:04d}.json")
        assert shown == {"entry": each.index, "record": each.record.to_record()}


def test_receipts_hold_by_the_registry_that_comes_with_them(archive: dict[str, bytes]) -> None:
    keys = FederationKeys.from_envelopes(
        [archive[name] for name in sorted(archive) if name.startswith("registry/")]
    )
    excluded = []
    for number in (1, 2, 3):
        checked = check_receipt(archive[f"receipts/{number:04d}.json"], keys)
        first = checked.receipt.first_excluded
        excluded.append(None if first is None else first.round)
    # The round under way when she withdrew is not excluded; the next is.
    assert excluded == [None, 4, None]


def test_the_readme_s_command_checks_a_receipt(
    archive: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in archive.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    commands = {
        line.strip()
        for line in archive["README.txt"].decode().splitlines()
        if line.startswith("    fedpref-audit ")
    }
    (command,) = commands
    monkeypatch.chdir(tmp_path)
    checked = CliRunner().invoke(audit_app, command.split()[1:])
    assert checked.exit_code == 0, checked.exception
    (tmp_path / "receipts" / "0001.json").write_bytes(archive["receipts/0002.json"][:-2])
    assert CliRunner().invoke(audit_app, command.split()[1:]).exit_code != 0


def test_the_key_finds_the_records(archive: dict[str, bytes]) -> None:
    key = CustomerKey.parse(archive["customer-key.json"])
    assert key.customer_ref == "anna"
    sids = {read(archive, f"records/{number:04d}.json")["record"]["sid"] for number in (1, 2, 3)}
    assert sids == {key.sid}


def test_the_evidence_opens_the_records_digests(archive: dict[str, bytes]) -> None:
    by_id = {each["record_id"]: each for each in read(archive, "evidence.json")}
    tokens = []
    for number in (1, 2):
        record = read(archive, f"records/{number:04d}.json")["record"]
        each = by_id[record["record_id"]]
        token = base64.b64decode(each["token"])
        salted = b"fedpref-evidence/1" + bytes.fromhex(each["salt"]) + token
        assert hashlib.sha256(salted).hexdigest() == record["evidence"] == each["sha256"]
        tokens.append(token)
    assert tokens == [b"anna's token", b"anna's other token"]
    assert len(by_id) == 2


def test_the_notices_are_whole_and_the_readme_is_in_two_languages(
    archive: dict[str, bytes],
) -> None:
    record = read(archive, "records/0001.json")["record"]
    (name,) = (name for name in archive if name.startswith("notices/") and name.endswith(".json"))
    assert read(archive, name)["sha256"] == record["notice"]["sha256"]
    assert archive[name.replace(".json", ".txt")].decode() == "May we?\n"
    readme = archive["README.txt"].decode()
    for file in archive.keys() - {"README.txt"}:
        assert file.split("/")[0] in readme, "every file is explained"
    assert "customer-key.json" in readme
    assert "您的密钥" in readme
    assert read(archive, "tags.json") == []


def test_nothing_of_anybody_else_is_in_it(home: RegionHome, archive: dict[str, bytes]) -> None:
    everything = b"\0".join(archive.values())
    with open_records(home) as records:
        (other,) = records.registrar().history("ben")
        secret = records.subjects.secret("ben")
    assert secret is not None
    for trace in (
        b"ben",
        other.record.sid.encode(),
        other.record.record_id.encode(),
        str(other.record.evidence).encode(),
        secret.hex().encode(),
        base64.b64encode(b"ben's token"),
    ):
        assert trace not in everything


def test_a_stranger_has_no_export(home: RegionHome) -> None:
    with open_records(home) as records, pytest.raises(ConsentError, match="no key"):
        export_subject(records, "stranger")


def test_it_is_made_beside_a_running_owner_of_the_log(home: RegionHome, tmp_path: Path) -> None:
    out = tmp_path / "ben.zip"
    with open_home(home):
        done = CliRunner().invoke(app, ["export-subject", str(home.root), "ben", "--out", str(out)])
    assert done.exit_code == 0, done.exception


def test_a_withdrawal_that_no_round_saw_excluded_from_none(tmp_path: Path) -> None:
    home = make_region_home(tmp_path / "home")
    with open_home(home) as region:
        region.registrar.record([Choice.give("a", TRAINING)])
        region.registrar.record([Choice.withdraw("a")])
        region.registrar.record([Choice.give("a", TRAINING)])
        region.log_round(1)
    with open_records(home) as records:
        files = export_subject(records, "a").files
    receipts = [json.loads(files[f"receipts/{number:04d}.json"]) for number in (1, 2, 3)]
    assert [each["first_excluded"] for each in receipts] == [None, None, None]


def test_a_superseded_notice_and_an_expiry_show_in_the_rounds(tmp_path: Path) -> None:
    home = make_region_home(tmp_path / "home", lasts_s=3 * GRACE_S)
    with open_home(home) as region:
        state, notice = region.state, region.state.notices[0].notice
        region.registrar.record([Choice.give("a", TRAINING)])
        region.log_round(1)
        publish(
            region.log,
            state,
            notice,
            home.signer("controller"),
            supersedes="auto",
            in_force_from_ms=now_ms() + 1000,
        )
        region.log_round(2, later_ms=GRACE_S * 1000)
        region.log_round(3, later_ms=GRACE_S * 1000 + 2000)
        region.log_round(4, later_ms=DAY_MS)
        # The notice was not logged yet at this size: the round could not know of it.
        region.log_round(5, later_ms=GRACE_S * 1000 + 2000, consent_size=region.log.size - 5)
        found = participation(region.log, state, region.registrar.history("a"))
        assert [part.standing for part in found] == [
            Standing.IN_FORCE,
            Standing.IN_FORCE,
            Standing.NOTICE_SUPERSEDED,
            Standing.EXPIRED,
            Standing.IN_FORCE,
        ]
        assert FormSettings.read(home.root).lasts_s == 3 * GRACE_S
