"""`fedpref-region keys` as operators and officers use it, from the first key to a revocation."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from client import cli
from client.engine.home import RegionHome
from client.engine.log_state import LogState
from common import canonical_json
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.envelope import Envelope
from common.errors import VerificationError
from common.keys import key_id
from common.registry_draft import Draft
from common.registry_install import unlogged_versions
from common.timestamps import now
from tests.support.consent_records import consent_record
from tests.support.external_signer import external_key
from tests.support.unsound_keys import A_FEW

ROLES = ("log", "consent", "trainer", "permit", "controller", "witness")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `fedpref-region keys …` as a user does; gives exit code, output and error output."""
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: object) -> tuple[int, str, str]:
        texts = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["fedpref-region", "keys", *texts])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        output, errors = capsys.readouterr()
        return int(str(stop.value.code)), output, errors

    return run


class Federation:
    """Three officers, one region and a coordinator, made by the commands alone."""

    def __init__(self, root: Path, keys: Command) -> None:
        self.root, self._keys = root, keys
        self.home, self.server = root / "region-1", root / "server"
        self.officers = [root / f"officer-{number}" for number in range(3)]
        self.versions: list[Path] = []

    def run(self, *arguments: object) -> str:
        code, output, errors = self._keys(*arguments)
        assert code == 0, output + errors
        return output

    def set_up(self) -> None:
        for officer in self.officers:
            self.run("root", "new", officer)
        for home in (self.home, self.server):
            self.run("new", home, "--party", home.name, "--federation", "retail.example")
        roots = [part for each in self.officers for part in ("--new-root", each / "root.pub")]
        self.enrol(
            *roots, "--federation", "retail.example", "--witness-quorum", 1, homes="*/requests/*"
        )
        ids = [key_id(bytes.fromhex((each / "root.pub").read_text())) for each in self.officers]
        trusted = [part for each in ids for part in ("--root-key", each)]
        for home in (self.home, self.server):
            self.run("install", home, *self.versions, *trusted)

    def draft(self, *options: object, homes: str = "") -> Path:
        """Drafts the next version with the requests that a pattern finds."""
        registry = self.root / "registry"
        registry.mkdir(exist_ok=True)
        path = self.root / f"draft-{len(self.versions) + 1}.json"
        path.unlink(missing_ok=True)
        found = sorted(self.root.glob(homes)) if homes else []
        requests = [part for each in found for part in ("--request", each)]
        self.run("root", "draft", "--registry", registry, "--out", path, *requests, *options)
        return path

    def sign(self, draft: Path, *officers: int) -> None:
        for number in officers:
            key = self.officers[number] / "root.pem"
            self.run("root", "sign", draft, "--key", key, "--yes")

    def enrol(self, *options: object, homes: str = "") -> Path:
        """Drafts, signs and finishes the next version."""
        draft = self.draft(*options, homes=homes)
        self.sign(draft, 0, 2)
        path = self.root / "registry" / f"{len(self.versions) + 1}.json"
        self.run("root", "finish", draft, "--out", path)
        self.versions.append(path)
        return path

    @property
    def region(self) -> RegionHome:
        return RegionHome.read(self.home)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a federation that is set up; read only."""
    root = tmp_path_factory.mktemp("federation")
    patch = pytest.MonkeyPatch()
    patch.setenv("COLUMNS", "140")

    def run(*arguments: object) -> tuple[int, str, str]:
        patch.setattr(sys, "argv", ["fedpref-region", "keys", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(str(stop.value.code)), "", ""

    Federation(root, run).set_up()
    patch.undo()
    return root


@pytest.fixture
def federation(made: Path, tmp_path: Path, keys: Command) -> Federation:
    shutil.copytree(made, tmp_path / "f")
    copied = Federation(tmp_path / "f", keys)
    copied.versions = [copied.root / "registry" / "1.json"]
    return copied


def request_of(home: Path, role: str) -> Path:
    """The newest request of a role."""
    found = (home / "requests").glob(f"*-{role}-*.json")
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def test_a_federation_is_set_up_by_commands(federation: Federation, keys: Command) -> None:
    code, output, _ = keys("check", federation.home)
    assert code == 0
    assert "All 6 keys are usable" in output
    assert output.count(" valid ") == 6
    code, output, _ = keys("check", federation.server)
    assert code == 0
    assert "All 3 keys are usable" in output
    registry = federation.region.read_registry()
    assert (registry.version, registry.witness_quorum, registry.root_threshold) == (1, 1, 2)
    for path in federation.home.rglob("*.pem"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_one_officer_alone_makes_no_version(federation: Federation, keys: Command) -> None:
    federation.run("rotate", federation.home, "trainer")
    draft = federation.draft("--request", request_of(federation.home, "trainer"))
    federation.sign(draft, 1)
    code, _, errors = keys("root", "finish", draft, "--out", federation.root / "2.json")
    assert code == VerificationError.exit_code
    assert "Signatures are missing: 1" in errors
    code, _, errors = keys(
        "root", "sign", draft, "--key", federation.officers[1] / "root.pem", "--yes"
    )
    assert code == 3
    assert "signed this draft already" in errors
    assert not (federation.root / "2.json").exists()


def test_an_officer_sees_what_is_signed_and_may_decline(
    federation: Federation, keys: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.run("rotate", federation.home, "trainer")
    draft = federation.draft("--request", request_of(federation.home, "trainer"))
    before = draft.read_bytes()
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    code, output, _ = keys("root", "sign", draft, "--key", federation.officers[0] / "root.pem")
    assert code != 0
    assert f"adds    region-1 trainer {federation.region.signer('trainer.next').key_id}" in output
    assert draft.read_bytes() == before
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "y")
    code, _, _ = keys("root", "sign", draft, "--key", federation.officers[0] / "root.pem")
    assert code == 0
    assert len(Draft.decode(draft.read_bytes()).signatures) == 1


def test_a_consent_key_is_rotated_and_old_records_still_verify(
    federation: Federation, keys: Command
) -> None:
    region = federation.region
    old = region.signer("consent")
    with AuditLog.open(
        region.log, origin=region.origin, signer=region.signer("log"), create=True
    ) as log:
        log.append(unlogged_versions(region.registry, log))
        log.append([make_entry(consent_record(event_time=now()), old)])
    federation.run("rotate", federation.home, "consent")
    assert region.signer("consent").key_id == old.key_id
    code, _, errors = keys("activate", federation.home)
    assert code == 3
    assert "not enrolled" in errors
    second = federation.enrol("--request", request_of(federation.home, "consent"))
    code, _, errors = keys("activate", federation.home)
    assert (code, "not enrolled" in errors) == (3, True)  # drafted and signed is not installed
    federation.run("install", federation.home, second)
    federation.run("activate", federation.home)
    new = region.signer("consent")
    assert new.key_id != old.key_id
    registry = region.read_registry()
    with AuditLog.open(region.log, origin=region.origin, signer=region.signer("log")) as log:
        log.append(unlogged_versions(region.registry, log))
        log.append([make_entry(consent_record(sid="6" * 64, event_time=now()), new)])
        state = LogState(log, registry, region.region)
        state.refresh()
        assert state.size == 4
        kinds = [Envelope.decode(data).kind for _, data in log.entries()]
    assert kinds == ["keys", "consent", "keys", "consent"]
    assert state.consents.latest("5" * 64) is not None
    assert state.consents.latest("6" * 64) is not None


def test_a_revoked_key_is_reported_and_no_longer_signs(
    federation: Federation, keys: Command
) -> None:
    region = federation.region
    old = region.signer("consent")
    before = now()
    third = federation.enrol("--revoke", f"{old.key_id[:16]}@now")
    federation.run("install", federation.home, third)
    code, output, _ = keys("check", federation.home)
    assert code == VerificationError.exit_code
    assert re.search(r"consent .* revoked", output)
    assert "Not usable: consent" in output
    with AuditLog.open(
        region.log, origin=region.origin, signer=region.signer("log"), create=True
    ) as log:
        log.append([make_entry(consent_record(event_time=before), old)])
        LogState(log, region.read_registry(), region.region).refresh()
        log.append([make_entry(consent_record(sid="6" * 64, event_time=now()), old)])
        with pytest.raises(VerificationError, match="revoked"):
            LogState(log, region.read_registry(), region.region).refresh()


def test_a_fork_is_refused_and_kept_as_evidence(federation: Federation, keys: Command) -> None:
    federation.run("rotate", federation.home, "trainer")
    second = federation.enrol("--request", request_of(federation.home, "trainer"))
    federation.run("install", federation.home, second)
    assert "the same" in federation.run("install", federation.home, second)
    second.unlink()
    federation.versions.pop()
    federation.run("rotate", federation.home, "permit")
    other = federation.draft("--request", request_of(federation.home, "permit"))
    federation.sign(other, 1, 2)
    fork = federation.root / "fork.json"
    federation.run("root", "finish", other, "--out", fork)
    code, _, errors = keys("install", federation.home, fork)
    assert code == VerificationError.exit_code
    assert "forked" in errors
    assert fork.read_bytes() in [
        path.read_bytes() for path in (federation.home / "evidence").iterdir()
    ]
    assert len(list((federation.home / "evidence").iterdir())) == 2
    assert federation.region.read_registry().version == 2


@pytest.mark.parametrize(("name", "public_key"), A_FEW.items())
def test_an_unsound_key_passes_no_door(
    federation: Federation, keys: Command, name: str, public_key: bytes
) -> None:
    weak = public_key.hex()
    registry, out = federation.root / "registry", federation.root / "weak.json"
    draft = ("root", "draft", "--registry", registry, "--out", out)
    code, _, errors = keys(*draft, "--new-root", weak, "--threshold", 1)
    assert (code, "not a sound" in errors) == (VerificationError.exit_code, True)

    request = json.loads(request_of(federation.home, "trainer").read_bytes())
    record = json.loads(base64.b64decode(request["payload"]))
    record |= {"public_key": weak, "key_id": key_id(public_key)}
    request["payload"] = base64.b64encode(canonical_json.encode(record)).decode()
    request["signatures"][0]["keyid"] = key_id(public_key)
    forged = federation.root / "request.json"
    forged.write_bytes(canonical_json.encode(request))
    code, _, errors = keys(*draft, "--request", forged)
    assert (code, "not a sound" in errors) == (VerificationError.exit_code, True)
    assert not out.exists()

    declared = federation.home / "keys" / "signers.json"
    declared.write_bytes(
        canonical_json.encode({"trainer.next": {"public_key": weak, "command": ["/bin/true"]}})
    )
    declared.chmod(0o600)
    code, _, errors = keys("rotate", federation.home, "trainer")
    assert (code, "not a sound" in errors) == (VerificationError.exit_code, True)


def test_a_key_in_a_kms_is_enrolled_and_activated(
    federation: Federation, keys: Command, tmp_path: Path
) -> None:
    public_key, command = external_key(tmp_path)
    declared = federation.home / "keys" / "signers.json"
    declared.write_bytes(
        canonical_json.encode(
            {"trainer.next": {"public_key": public_key.hex(), "command": list(command)}}
        )
    )
    declared.chmod(0o600)
    output = federation.run("rotate", federation.home, "trainer")
    assert key_id(public_key) in output
    second = federation.enrol("--request", request_of(federation.home, "trainer"))
    federation.run("install", federation.home, second)
    federation.run("activate", federation.home, "trainer")
    assert federation.region.signer("trainer").public_key == public_key
    code, output, _ = keys("check", federation.home)
    assert code == 0
    assert f"program {command[0]}" in output
    Path(command[0]).unlink()
    code, output, _ = keys("check", federation.home)
    assert code == VerificationError.exit_code
    assert "cannot be started" in output


def test_check_tells_missing_wrong_and_unenrolled_keys(
    federation: Federation, keys: Command
) -> None:
    (federation.home / "keys" / "log.pem").unlink()
    (federation.home / "keys" / "permit.pem").chmod(0o644)
    shutil.copy(
        federation.home / "keys" / "consent.pem", federation.home / "keys" / "controller.pem"
    )
    (federation.home / "keys" / "witness.pem").unlink()
    federation.run("new", federation.home, "witness")
    code, output, _ = keys("check", federation.home)
    assert code == VerificationError.exit_code
    assert re.search(r"log .* missing", output)
    assert re.search(r"permit .* does not open", output)
    assert "mode 0644" in output
    assert re.search(r"controller .* enrolled for region-1 as consent", output)
    assert re.search(r"witness .* not enrolled", output)
    assert "Not usable: log, permit, controller, witness" in output
    code, output, _ = keys("check", federation.home, "trainer")
    assert code == 0


def test_a_wrong_passphrase_opens_nothing(federation: Federation, keys: Command) -> None:
    (federation.home / "keys" / "passphrase").write_bytes(b"wrong")
    code, output, _ = keys("check", federation.home)
    assert code == VerificationError.exit_code
    assert " ".join(output.split()).count("passphrase is wrong") == 6
    (federation.officers[0] / "passphrase").write_bytes(b"wrong")
    draft = federation.draft("--witness-quorum", 0)
    code, _, errors = keys(
        "root", "sign", draft, "--key", federation.officers[0] / "root.pem", "--yes"
    )
    assert code == 3
    assert "passphrase is wrong" in " ".join(errors.split())


def test_keys_near_their_end_are_pointed_out(federation: Federation, keys: Command) -> None:
    federation.run("rotate", federation.home, "trainer")
    second = federation.enrol(
        "--request", request_of(federation.home, "trainer"), "--valid-days", 20
    )
    federation.run("install", federation.home, second)
    federation.run("activate", federation.home)
    code, output, _ = keys("check", federation.home)
    assert code == 0
    assert "The trainer key ends in 19 days: rotate it." in output


def test_the_passphrase_is_changed_and_the_backup_told_to_be_old(
    federation: Federation, keys: Command, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    shutil.copytree(federation.home, backup)
    output = federation.run("backup-check", federation.home, backup)
    assert "consent, controller, log, permit, trainer, witness, 1 registry versions" in output
    federation.run("change-passphrase", federation.home)
    code, _, _ = keys("check", federation.home)
    assert code == 0
    assert federation.run("backup-check", federation.home, backup)  # opens with its own
    old = (backup / "keys" / "passphrase").rename(tmp_path / "old")
    code, output, _ = keys("backup-check", federation.home, backup)
    assert code == VerificationError.exit_code
    assert output.count("is missing") == 6
    federation.run("backup-check", federation.home, backup, "--passphrase-file", old)


def test_a_backup_that_lacks_something_is_told(
    federation: Federation, keys: Command, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    stored = federation.region.stored_key
    stored.write_bytes(b"s" * 32)
    stored.chmod(0o600)
    shutil.copytree(federation.home, backup)
    federation.run("backup-check", federation.home, backup)
    (backup / "keys" / "storage.key").write_bytes(b"t" * 32)
    (backup / "keys" / "trainer.pem").unlink()
    shutil.copy(backup / "keys" / "log.pem", backup / "keys" / "permit.pem")
    (backup / "registry" / "1.json").unlink()
    code, output, _ = keys("backup-check", federation.home, backup)
    assert code == VerificationError.exit_code
    assert output.count("Fault: ") == 4
    for told in ("storage key", "trainer: ", "permit: the backup has the key", "registry"):
        assert told in output


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["new", "HOME", "root"], 2, "is no role"),
        (["new", "HOME", "log"], 3, "never overwritten"),
        (["new", "HOME", "--party", "region-2", "--federation", "x"], 3, "another party"),
        (["new", "ABSENT"], 3, "not a region's home"),
        (["new", "ABSENT", "--party", "../x", "--federation", "x"], 3, "party's name"),
        (["check", "ABSENT"], 3, "not a region's home"),
        (["rotate", "HOME", "approver"], 3, "no approver key yet"),
        (["activate", "HOME"], 3, "no key that waits"),
        (["activate", "HOME", "log"], 3, "it is missing"),
        (["install", "HOME", "ABSENT"], 3, "cannot be read"),
        (["root", "sign", "ABSENT", "--key", "ABSENT"], 3, "cannot be read"),
        (["root", "draft", "--registry", "REGISTRY", "--out", "NEW"], 3, "changes nothing"),
        (
            ["root", "draft", "--registry", "REGISTRY", "--out", "NEW", "--revoke", "ab"],
            2,
            "KEY_ID@TIME",
        ),
        (
            ["root", "draft", "--registry", "REGISTRY", "--out", "NEW", "--threshold", "2"],
            2,
            "--new-root",
        ),
        (["root", "draft", "--registry", "ABSENT", "--out", "NEW"], 3, "Version 1"),
        (["root", "new", "OFFICER"], 3, "never overwritten"),
    ],
)
def test_what_cannot_be_done_is_said(
    federation: Federation, keys: Command, arguments: list[str], code: int, told: str
) -> None:
    places = {
        "HOME": federation.home,
        "ABSENT": federation.root / "absent",
        "REGISTRY": federation.root / "registry",
        "NEW": federation.root / "new.json",
        "OFFICER": federation.officers[0],
    }
    ended, _, errors = keys(*(places.get(each, each) for each in arguments))
    assert (ended, told in " ".join(errors.split())) == (code, True), errors
    assert not places["ABSENT"].exists()
    assert not places["NEW"].exists()


def test_nothing_is_overwritten_at_the_root(federation: Federation, keys: Command) -> None:
    draft = federation.draft("--witness-quorum", 0)
    code, _, errors = keys(
        "root", "draft", "--registry", federation.root / "registry", "--out", draft,
        "--revoke", f"{federation.region.signer('log').key_id}@now",
    )  # fmt: skip
    assert (code, "another file" in errors) == (3, True)
    federation.sign(draft, 0, 1)
    code, _, errors = keys("root", "finish", draft, "--out", federation.versions[0])
    assert (code, "another file" in errors) == (3, True)


def test_a_foreign_file_among_the_versions_is_named(federation: Federation, keys: Command) -> None:
    (federation.home / "registry" / "newest.json").write_bytes(b"{}")
    code, _, errors = keys("check", federation.home)
    assert (code, "not named by its version" in " ".join(errors.split())) == (3, True)
