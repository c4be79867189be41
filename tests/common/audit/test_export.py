"""Exports: what crosses a border, what stays, who may sign, and that they verify."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.audit import cli
from common.audit.export import Exported, export_bundle
from common.audit.merkle import inclusion_proof, leaf_hash
from common.audit.proof_file import LogProof
from common.audit.verify import Verdict, verify_bundle
from common.audit.verify.show import read_entry
from common.envelope import sign_record
from common.errors import InputError, PolicyError, StorageError, VerificationError
from common.key_files import Ed25519FileSigner
from tests.support.bundle_builder import (
    DAY_MS,
    OUTSIDE,
    REGIONS,
    SERVER,
    Federation,
    JsonRecord,
    MemorySigner,
    digest,
    eligible_root,
    file_states,
    record_of,
)

R1, R2 = REGIONS
CROSS_BORDER, REGIONAL = "cross-border", "regional"


@pytest.fixture(scope="module")
def _honest() -> Federation:
    return Federation(customers=8).run()


@pytest.fixture
def federation(_honest: Federation) -> Federation:
    return _honest.copy()


def export(
    federation: Federation,
    folder: Path,
    scope: str = CROSS_BORDER,
    region: str | None = None,
    key: tuple[str, str] = (SERVER, "aggregator"),
    **options: bool,
) -> Exported:
    source = federation.write(folder / "source")
    return export_bundle(
        source,
        folder / "out",
        scope=scope,
        region=region,
        signer=federation.keys[key],
        created_at_ms=federation.clock_ms + 5000,
        **options,
    )


@pytest.fixture(scope="module")
def _exported(_honest: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(_honest, tmp_path_factory.mktemp("honest")).path


@pytest.fixture
def out(_exported: Path, tmp_path: Path) -> Path:
    """An honest cross-border bundle, to be changed."""
    return shutil.copytree(_exported, tmp_path / "exported")


def found(verdict: Verdict) -> set[tuple[int, str, str | None, int | None]]:
    return {(f.step, f.code, f.party, f.index) for f in verdict.failures}


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# -- cross-border ----------------------------------------------------------------------------------


def test_a_cross_border_bundle_verifies_as_far_as_it_goes(
    federation: Federation, tmp_path: Path
) -> None:
    exported = export(federation, tmp_path)
    verdict = verify_bundle(exported.path)
    assert verdict.failures == ()
    assert verdict.verified
    assert verdict.scope == CROSS_BORDER
    statuses = {step.number: step.status for step in verdict.steps}
    assert statuses.pop(4) == "not in this bundle"
    assert set(statuses.values()) == {"passed"}
    whole = verify_bundle(federation.write(tmp_path / "again"))
    for number in (1, 6, 7, 8):
        assert verdict.steps[number].counts == whole.steps[number].counts
    assert verdict.steps[5].counts == {"permits": 2, "rounds": 4}
    assert any("holds no consents" in note for note in verdict.notes)
    assert any(f"log of {R1}, 9 of 19 entries" in note for note in verdict.notes)


def test_a_long_run_is_judged_in_its_order(tmp_path: Path) -> None:
    """What was logged hours after a checkpoint does not make that checkpoint's round late."""
    federation = Federation(pause_ms=3_600_000).run()
    assert verify_bundle(export(federation, tmp_path).path).failures == ()


def _decoded(text: bytes) -> Iterator[bytes]:
    """Whatever of a file is base64, decoded; to be searched as well."""
    for run in re.findall(rb"[A-Za-z0-9+/]{16,}={0,2}", text):
        whole = run[: len(run) // 4 * 4]
        yield base64.b64decode(whole)


def test_no_consent_and_no_pseudonym_crosses_the_border(
    federation: Federation, tmp_path: Path
) -> None:
    exported = export(federation, tmp_path)
    sids = [federation.sid(region, n) for region in REGIONS for n in range(8)]
    texts = [*files(exported.path).values()]
    texts += [decoded for text in [*texts] for decoded in _decoded(text)]
    for needle in ["fedpref-consent", "fedpref.consent", '"sid"', "record_id", *sids]:
        assert not any(needle.encode() in text for text in texts), needle
    raw = [bytes.fromhex(sid) for sid in sids]
    assert not any(sid in text for sid in raw for text in texts)
    # The search finds them where they are.
    source = [*files(tmp_path / "source").values()]
    inside = [decoded for text in source for decoded in _decoded(text)]
    assert all(any(sid.encode() in text for text in inside) for sid in sids)
    assert exported.left_out == {R1: 10, R2: 10, SERVER: 0}


def test_only_the_model_of_the_runs_results_is_exported(
    federation: Federation, tmp_path: Path
) -> None:
    out = export(federation, tmp_path).path
    assert sorted(path.name for path in out.iterdir()) == ["bundle", "model.safetensors"]


def test_a_bundle_folder_alone_is_exported_without_the_results(
    federation: Federation, tmp_path: Path
) -> None:
    source = federation.write(tmp_path / "source") / "bundle"
    exported = export_bundle(
        source, tmp_path / "out", scope=CROSS_BORDER, region=None,
        signer=federation.keys[SERVER, "aggregator"], created_at_ms=federation.clock_ms + 5000,
    )  # fmt: skip
    verdict = verify_bundle(exported.path)
    assert verdict.verified
    assert (exported.path / "manifest.json").exists()


def change_bundle(federation: Federation, out: Path, change: Callable[[dict[str, bytes]], None]):
    """Changes an export's files and signs its manifest anew, as its maker could."""
    bundle = out / "bundle"
    content = files(bundle)
    record = record_of(content.pop("manifest.json"))
    change(content)
    for path in sorted(bundle.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    record["files"] = file_states(content)
    content["manifest.json"] = sign_record(
        record, federation.keys[SERVER, "aggregator"], max_bytes=1 << 26
    )
    for name, data in content.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(data)
    return verify_bundle(out)


def test_an_entry_of_it_is_shown_and_a_consent_is_not(federation: Federation, out: Path) -> None:
    index = federation.find(R1, "round", 1)
    assert read_entry(out, R1, index).record == record_of(federation.logs[R1][index])
    with pytest.raises(InputError, match="does not hold entry"):
        read_entry(out, R1, federation.find(R1, "consent", 0))


def test_an_entry_of_another_log_has_no_proof(federation: Federation, out: Path) -> None:
    index = federation.find(R1, "round", 1)

    def swap(content: dict[str, bytes]) -> None:
        name = "logs/{}/entries/{}"
        other = federation.find(R2, "round", 1)
        content[name.format(R1, index)] = content[name.format(R2, other)]

    assert (2, "inclusion", R1, index) in found(change_bundle(federation, out, swap))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b"index 10\n", b"index 11\n"),
        lambda text: text.replace(b"index 10\n", b"extra YQ==\nindex 10\n"),
        lambda text: b"\n".join(text.split(b"\n")[:3] + text.split(b"\n")[4:]),
        lambda text: text[:-1],
        lambda text: b"",
    ],
    ids=["index", "extra", "shorter", "torn", "empty"],
)
def test_a18_a_proof_that_is_not_exactly_right_is_refused(
    federation: Federation, out: Path, change: Callable[[bytes], bytes]
) -> None:
    index = 10
    assert record_of(federation.logs[R1][index])["v"] == "fedpref-permit/1"

    def forge(content: dict[str, bytes]) -> None:
        name = f"logs/{R1}/proofs/{index}"
        changed = change(content[name])
        assert changed != content[name]
        content[name] = changed

    assert (2, "inclusion", R1, index) in found(change_bundle(federation, out, forge))


def test_a_proof_under_an_earlier_checkpoint_is_refused(federation: Federation, out: Path) -> None:
    """Else a log could show entries of a branch that its newest checkpoint does not contain."""
    size = min(federation.checkpoints[R1])

    def rewind(content: dict[str, bytes]) -> None:
        newest = content[f"logs/{R1}/checkpoint"]
        earlier = content[f"logs/{R1}/checkpoints/{size}"]
        name = f"logs/{R1}/proofs/0"
        content[name] = content[name].replace(newest, earlier)

    assert (2, "inclusion", R1, 0) in found(change_bundle(federation, out, rewind))


def other_history(federation: Federation) -> Federation:
    other = federation.copy()
    index = federation.find(R1, "consent", 3)
    other.resign(R1, index, lambda record: record.update(state="dpv:ConsentGiven"))
    return other


def test_a6_a_checkpoint_that_the_newest_does_not_extend(federation: Federation, out: Path) -> None:
    size = min(federation.checkpoints[R1])
    other = federation.copy()
    other.resign(
        R1, federation.find(R1, "consent", 3), lambda r: r.update(state="dpv:ConsentGiven")
    )

    def fork(content: dict[str, bytes]) -> None:
        content[f"logs/{R1}/checkpoints/{size}"] = other.cosigned(R1, size)

    verdict = change_bundle(federation, out, fork)
    assert (2, "consistency", R1, None) in found(verdict)
    assert (5, "consent-checkpoint", R1, federation.find(R1, "round", 0)) in found(verdict)


def test_a6_a_witness_has_seen_another_history(federation: Federation, out: Path) -> None:
    other = federation.copy()
    other.resign(
        R1, federation.find(R1, "consent", 3), lambda r: r.update(state="dpv:ConsentGiven")
    )

    def fork(content: dict[str, bytes]) -> None:
        content[f"witnesses/{OUTSIDE}/{R1}"] = other.witnessed()[OUTSIDE][R1]

    assert (2, "split-view", R1, None) in found(change_bundle(federation, out, fork))


@pytest.mark.parametrize("damage", [None, b"", b"AAAA\n", b"\xff\n", b"AAAA"])
def test_a_consistency_proof_that_is_none_is_named(
    federation: Federation, out: Path, damage: bytes | None
) -> None:
    names: list[str] = []

    def damage_it(content: dict[str, bytes]) -> None:
        (name,) = sorted(n for n in content if n.startswith(f"logs/{R1}/consistency/"))[:1]
        names.append(name)
        if damage is None:
            del content[name]
        else:
            content[name] = damage

    verdict = change_bundle(federation, out, damage_it)
    assert (2, "consistency", R1, None) in found(verdict)
    assert names[0] in {failure.file for failure in verdict.failures}


def test_a_consent_put_into_it_is_refused(federation: Federation, out: Path) -> None:
    index = federation.find(R1, "consent", 0)

    def put(content: dict[str, bytes]) -> None:
        content[f"logs/{R1}/entries/{index}"] = federation.logs[R1][index]
        leaves = [leaf_hash(entry) for entry in federation.logs[R1]]
        proof = tuple(inclusion_proof(leaves, index, len(leaves)))
        content[f"logs/{R1}/proofs/{index}"] = LogProof(
            index, proof, content[f"logs/{R1}/checkpoint"]
        ).encode()

    verdict = change_bundle(federation, out, put)
    assert found(verdict) == {(3, "consent-in-bundle", R1, index)}


@pytest.mark.parametrize(
    ("kind", "number", "code"),
    [
        ("permit", 0, (8, "no-permit")),
        ("charge", 0, (8, "ledger-gap")),
        ("charge", 1, (8, "no-charge")),
        ("round", 1, (7, "round-entry-missing")),
        ("release", 1, (8, "no-release")),
        ("policy", 0, (6, "no-policy")),
    ],
)
def test_an_entry_kept_back_is_missed(
    federation: Federation, out: Path, kind: str, number: int, code: tuple[int, str]
) -> None:
    index = federation.find(R1, kind, number)

    def keep_back(content: dict[str, bytes]) -> None:
        del content[f"logs/{R1}/entries/{index}"]
        del content[f"logs/{R1}/proofs/{index}"]

    verdict = change_bundle(federation, out, keep_back)
    assert code in {(failure.step, failure.code) for failure in verdict.failures}


def test_the_servers_log_must_be_whole(federation: Federation, out: Path) -> None:

    def part(content: dict[str, bytes]) -> None:
        for name in [n for n in content if n.startswith(f"logs/{SERVER}/tile")]:
            del content[name]

    assert (2, "entries-unreadable", SERVER, 0) in found(change_bundle(federation, out, part))


def test_a_bundle_without_consents_cannot_pass_for_a_regional_one(
    federation: Federation, out: Path
) -> None:
    bundle = out / "bundle"
    for scope, code in (("regional", (2, "entries-unreadable")), ("one-region", (0, "scope"))):
        record = record_of((bundle / "manifest.json").read_bytes()) | {"scope": scope}
        signed = sign_record(record, federation.keys[SERVER, "aggregator"], max_bytes=1 << 26)
        (bundle / "manifest.json").write_bytes(signed)
        verdict = verify_bundle(out)
        assert not verdict.verified
        assert code in {(failure.step, failure.code) for failure in verdict.failures}


@pytest.mark.parametrize(
    "name", [f"logs/{R1}/entries/x", f"logs/{R1}/proofs/3", f"logs/{R1}/tile/entries/000.p/19"]
)
def test_a25_files_that_have_no_place_in_it(federation: Federation, out: Path, name: str) -> None:
    verdict = change_bundle(federation, out, lambda content: content.update({name: b"x"}))
    assert (0, "file-unexpected", None, None) in found(verdict)
    assert name in {failure.file for failure in verdict.failures}


def test_lies_that_need_no_consents_to_be_seen_are_seen(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) == (R1, "fedpref-round/1") and record["round"] == 2:
            record["dp"]["epsilon_total"] = "1"
            record["model_in"] = digest("another")

    federation = Federation(alter=alter).run()
    with pytest.raises(VerificationError, match="does not verify"):
        export(federation, tmp_path)
    exported = export(federation, tmp_path, unverified=True)
    whole = verify_bundle(tmp_path / "source")
    assert found(verify_bundle(exported.path)) == found(whole) != set()


def test_what_only_consents_show_is_not_claimed(tmp_path: Path) -> None:
    """The verdict's own words say that the eligible set is not judged in such a bundle."""

    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) == (R1, "fedpref-round/1"):
            record["train"]["root"] = eligible_root(record["train"]["nonce"], ["a" * 64])

    federation = Federation(alter=alter).run()
    verdict = verify_bundle(export(federation, tmp_path, unverified=True).path)
    assert verdict.verified
    assert verdict.steps[4].status == "not in this bundle"
    assert any("consenting customers is shown by the regions' own" in n for n in verdict.notes)


# -- regional --------------------------------------------------------------------------------------


def test_a_regional_export_is_the_same_but_for_its_manifest(
    federation: Federation, tmp_path: Path
) -> None:
    exported = export(federation, tmp_path, REGIONAL)
    ours, theirs = files(exported.path), files(tmp_path / "source")
    assert ours.pop("bundle/manifest.json") != theirs.pop("bundle/manifest.json")
    assert ours == theirs
    verdict = verify_bundle(exported.path)
    assert (verdict.verified, verdict.scope) == (True, REGIONAL)


def test_a_bundle_of_one_region_verifies_that_regions_consents(
    federation: Federation, tmp_path: Path
) -> None:
    exported = export(federation, tmp_path, REGIONAL, R2, key=(R2, "controller"))
    verdict = verify_bundle(exported.path)
    assert verdict.failures == ()
    assert (verdict.verified, verdict.scope, verdict.signed_by) == (True, "one-region", R2)
    assert verdict.steps[4].status == "passed"
    assert verdict.steps[4].counts == {"consents": 10, "subjects": 8}
    assert any(f"consents of {R2} only" in note and R1 in note for note in verdict.notes)
    bundle = exported.path / "bundle"
    assert (bundle / "logs" / R2 / "tile").is_dir()
    assert not (bundle / "logs" / R1 / "tile").exists()


def test_one_who_withdrew_is_found_in_a_bundle_of_one_region(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) == (R2, "fedpref-round/1") and record["round"] == 2:
            sids = [Federation().sid(R2, customer) for customer in range(3)]
            record["train"]["root"] = eligible_root(record["train"]["nonce"], sids)

    federation = Federation(alter=alter).run()
    exported = export(federation, tmp_path, REGIONAL, R2, unverified=True)
    assert (5, "eligible-set", R2, federation.find(R2, "round", 1)) in found(
        verify_bundle(exported.path)
    )


def test_two_whole_regions_are_no_bundle_of_one(federation: Federation, tmp_path: Path) -> None:
    out = export(federation, tmp_path, REGIONAL).path
    bundle = out / "bundle"
    record = record_of((bundle / "manifest.json").read_bytes()) | {"scope": "one-region"}
    signed = sign_record(record, federation.keys[SERVER, "aggregator"], max_bytes=1 << 26)
    (bundle / "manifest.json").write_bytes(signed)
    assert found(verify_bundle(out)) == {(0, "scope", None, None)}


def test_a_part_is_exported_from_a_bundle_of_one_region(
    federation: Federation, tmp_path: Path
) -> None:
    first = export(federation, tmp_path, REGIONAL, R2)
    signer = federation.keys[SERVER, "aggregator"]
    at_ms = federation.clock_ms + 6000

    def again(scope: str, region: str | None) -> Exported:
        return export_bundle(
            first.path, tmp_path / "again", scope=scope, region=region, signer=signer,
            created_at_ms=at_ms,
        )  # fmt: skip

    verdict = verify_bundle(again(CROSS_BORDER, None).path)
    assert (verdict.verified, verdict.scope) == (True, CROSS_BORDER)
    for region in (R1, None):
        with pytest.raises(InputError, match=f"whole log of {R1}"):
            again(REGIONAL, region)


# -- who and where ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [(R1, "log"), (R1, "trainer"), (SERVER, "log"), (OUTSIDE, "witness")]
)
def test_no_other_key_signs_an_export(
    federation: Federation, tmp_path: Path, key: tuple[str, str]
) -> None:
    with pytest.raises(PolicyError, match="may not sign"):
        export(federation, tmp_path, key=key)
    assert not (tmp_path / "out").exists()
    # Nor does the verifier take it, were it signed so.
    bundle = federation.write(tmp_path / "forged") / "bundle"
    record = record_of((bundle / "manifest.json").read_bytes())
    (bundle / "manifest.json").write_bytes(
        sign_record(record, federation.keys[key], max_bytes=1 << 26)
    )
    assert found(verify_bundle(tmp_path / "forged")) == {(0, "manifest-signature", None, None)}


def test_a_key_signs_no_export_once_it_has_expired(federation: Federation, tmp_path: Path) -> None:
    federation.clock_ms += 400 * DAY_MS
    with pytest.raises(PolicyError, match="may not sign"):
        export(federation, tmp_path, unverified=True)


def test_a_strangers_key_signs_no_export(federation: Federation, tmp_path: Path) -> None:
    federation.keys["x", "y"] = MemorySigner("a stranger")
    with pytest.raises(PolicyError, match="may not sign"):
        export(federation, tmp_path, key=("x", "y"))


def test_a_controller_signs_for_its_region(federation: Federation, tmp_path: Path) -> None:
    verdict = verify_bundle(export(federation, tmp_path, key=(R1, "controller")).path)
    assert (verdict.verified, verdict.signed_by) == (True, R1)


def test_what_is_there_is_not_overwritten(federation: Federation, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(federation, tmp_path)
    with pytest.raises(InputError, match="not empty"):
        export(federation, tmp_path)
    assert verify_bundle(tmp_path / "out").verified


def test_it_is_written_whole_or_not_at_all(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: object, **_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.audit.export.write_manifest", full)
    with pytest.raises(StorageError, match="No space left"):
        export(federation, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("scope", "region"), [(CROSS_BORDER, R1), (REGIONAL, "region-9"), ("all", None)]
)
def test_what_cannot_be_exported_is_refused(
    federation: Federation, tmp_path: Path, scope: str, region: str | None
) -> None:
    with pytest.raises(InputError):
        export(federation, tmp_path, scope, region)


def test_a_source_that_cannot_be_used_is_refused_whatever_is_said(
    federation: Federation, tmp_path: Path
) -> None:
    source = federation.write(tmp_path / "source")
    (source / "bundle" / "registry" / "1.json").write_bytes(b"{}")
    with pytest.raises(VerificationError):
        export_bundle(
            source, tmp_path / "out", scope=CROSS_BORDER, region=None,
            signer=federation.keys[SERVER, "aggregator"], created_at_ms=0, unverified=True,
        )  # fmt: skip


def test_the_command(
    federation: Federation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("common.timestamps.now_ms", lambda: federation.clock_ms + 5000)
    key, secret = tmp_path / "key.pem", tmp_path / "passphrase"
    signer = Ed25519FileSigner(federation.keys[R1, "controller"]._key)
    for path, data in ((key, signer.encrypted(b"secret")), (secret, b"secret\n")):
        path.write_bytes(data)
        path.chmod(0o600)
    source, out = federation.write(tmp_path / "source"), tmp_path / "out"

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["fedpref-audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert isinstance(stop.value.code, int)
        return stop.value.code

    options = ("--out", out, "--key", key, "--passphrase-file", secret)
    assert call("export", source, "--scope", CROSS_BORDER, *options) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"{R1}: 9 entries; 10 consents left out" in text
    assert f"{SERVER}: 3 entries, the whole log" in text
    assert call("verify", out) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Verified." in text
    assert "crosses a border, without any consents" in text
    assert "not in this bundle" in text
    assert call("verify", out, "--json") == 0
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["verified"], verdict["scope"]) == (True, CROSS_BORDER)
    assert call("export", source, "--scope", "everything", *options) == 2
