"""The verifier on honest bundles, on damaged ones, and what it imports."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.audit.verify import LIMITS, Verdict, verify_bundle
from common.audit.verify.files import MAX_MANIFEST_BYTES
from common.envelope import Envelope
from common.errors import InputError, UsageError
from tests.support.bundle_builder import FEDERATION, RUN, Federation

REPOSITORY = Path(__file__).parents[3]
INNER = ("region-1", "region-2", "server")


@pytest.fixture(scope="module")
def honest() -> Federation:
    return Federation().run()


@pytest.fixture(scope="module")
def small() -> Federation:
    return Federation(customers=1, rounds=1, cosigners=INNER).run()


def test_an_honest_bundle_is_verified(honest: Federation, tmp_path: Path) -> None:
    verdict = verify_bundle(honest.write(tmp_path))
    assert verdict.failures == ()
    assert verdict.verified
    assert verdict.integrity
    assert verdict.complete
    assert (verdict.federation, verdict.run) == (FEDERATION, RUN)
    assert [step.number for step in verdict.steps] == list(range(9))
    assert {step.status for step in verdict.steps} == {"passed"}


def test_the_verdict_counts_what_was_checked(honest: Federation, tmp_path: Path) -> None:
    steps = verify_bundle(honest.write(tmp_path)).steps
    entries = sum(len(entries) for entries in honest.logs.values())
    assert steps[0].counts == {"files": len(honest.bundle_files()), "artifacts": 3}
    assert steps[1].counts == {"versions": 1, "keys": 16}
    # Three others cosign each checkpoint, and each keeps the newest one.
    assert steps[2].counts == {
        "checkpoints": 7,
        "witnesses' notes": 9,
        "cosignatures": 7 * 3 + 9,
        "entries": entries,
    }
    assert steps[3].counts == {"records": entries}
    assert steps[4].counts == {"consents": 10, "subjects": 8}
    # Three of four consent in round 1; one of them withdraws before round 2.
    assert steps[5].counts == {"permits": 2, "rounds": 4, "eligible customers": 10}
    assert steps[6].counts == {"charges": 4, "releases": 4}
    assert steps[7].counts == {"aggregates": 2, "updates": 4, "model files": 1}
    assert steps[8].counts == {"parties": 3, "rounds": 2}


def test_the_record_is_stable_json(honest: Federation, tmp_path: Path) -> None:
    record = verify_bundle(honest.write(tmp_path)).to_record()
    assert record["v"] == "fedpref-verdict/1"
    assert record["verified"] is record["integrity"] is record["completeness"] is True
    assert record["first_failure"] is None
    assert record["cannot_prove"] == list(LIMITS)
    assert (record["scope"], record["signed_by"]) == ("regional", "server")
    assert record.keys() == {
        "v", "verified", "integrity", "completeness", "federation", "run", "scope", "signed_by",
        "first_failure", "failures", "failures_total", "steps", "root_keys", "witnesses", "notes",
        "cannot_prove",
    }  # fmt: skip


def test_the_bundle_folder_alone_verifies_without_the_artifacts(
    honest: Federation, tmp_path: Path
) -> None:
    shutil.copytree(honest.write(tmp_path / "run") / "bundle", tmp_path / "moved")
    verdict = verify_bundle(tmp_path / "moved")
    assert verdict.verified
    assert any("Only the bundle folder" in note for note in verdict.notes)


def test_a_run_that_goes_on_after_refusals_is_verified(tmp_path: Path) -> None:
    def alter(party: str, record: dict[str, object]) -> None:
        if record["v"] == "fedpref-aggregate/1" and record["round"] == 2:
            regions = record["regions"]
            assert isinstance(regions, list)
            record["regions"] = regions[1:]
            record["refused"] = [{"region": "region-1", "reason": "timed-out"}]

    federation = Federation(alter=alter, quorum=1).run()
    verdict = verify_bundle(federation.write(tmp_path))
    assert verdict.failures == ()
    assert verdict.verified


def test_root_keys_are_named_and_can_be_pinned(honest: Federation, tmp_path: Path) -> None:
    run = honest.write(tmp_path)
    unpinned = verify_bundle(run)
    assert [key.pinned for key in unpinned.root_keys] == [False] * 3
    assert any("compare them with those you hold" in note for note in unpinned.notes)
    pinned = verify_bundle(run, root_key_ids=[root.key_id for root in honest.roots])
    assert pinned.verified
    assert [key.pinned for key in pinned.root_keys] == [True] * 3


def test_fewer_pinned_root_keys_than_the_threshold_are_not_enough(
    honest: Federation, tmp_path: Path
) -> None:
    run = honest.write(tmp_path)
    for ids in (["0" * 64], [honest.roots[0].key_id], [honest.roots[2].key_id, "0" * 64]):
        verdict = verify_bundle(run, root_key_ids=ids)
        assert not verdict.verified
        assert [failure.code for failure in verdict.failures] == ["root-keys"]
        assert verdict.steps[3].status == "not checked"


def test_a_root_key_id_must_have_its_form(honest: Federation, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the id of a root key"):
        verify_bundle(honest.write(tmp_path), root_key_ids=["abc"])


@pytest.mark.parametrize("content", [None, "file", "empty folder", "other folder"])
def test_what_is_no_bundle_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "x"
    if content == "file":
        path.write_text("x")
    elif content is not None:
        path.mkdir()
        if content == "other folder":
            (path / "readme.txt").write_text("x")
    expected = "There is nothing at" if content is None else "holds no audit bundle"
    with pytest.raises(InputError, match=expected):
        verify_bundle(path)


# -- every byte ------------------------------------------------------------------------------------


def _files(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.is_file())


def _flip(
    run: Path, path: Path, position: int, mask: int, check: Callable[[Verdict], None]
) -> None:
    original = path.read_bytes()
    damaged = bytearray(original)
    damaged[position] ^= mask
    path.write_bytes(damaged)
    check(verify_bundle(run))
    path.write_bytes(original)


def _names_it(run: Path, path: Path) -> Callable[[Verdict], None]:
    relative = path.relative_to(run).as_posix().removeprefix("bundle/")

    def check(verdict: Verdict) -> None:
        assert not verdict.verified
        named = {failure.file for failure in verdict.failures}
        assert relative in named, (relative, verdict.failures)

    return check


def test_a_sample_of_bytes_each_flipped_is_rejected_and_the_file_named(
    small: Federation, tmp_path: Path
) -> None:
    run = small.write(tmp_path)
    generator = random.Random(7)
    for path in _files(run):
        size = path.stat().st_size
        for position in {0, size - 1, *(generator.randrange(size) for _ in range(8))}:
            _flip(run, path, position, generator.randrange(1, 256), _names_it(run, path))


def test_a_manifest_that_names_another_federation_is_itself_named(
    small: Federation, tmp_path: Path
) -> None:
    run = small.write(tmp_path)
    path = run / "bundle" / "manifest.json"
    envelope = Envelope.decode(path.read_bytes(), max_bytes=1 << 20)
    payload = envelope.payload.replace(b'"federation":"t', b'"federation":"u')
    assert payload != envelope.payload
    altered = replace(envelope, payload=payload)
    path.write_bytes(altered.encode(max_bytes=1 << 20))
    _names_it(run, path)(verify_bundle(run))


def _large(path: Path) -> None:
    path.write_bytes(b"{" + b" " * MAX_MANIFEST_BYTES)


def _linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere.json"))
    path.symlink_to("elsewhere.json")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (Path.unlink, "is missing"),
        (_large, "above the limit"),
        (_linked, "not a regular file"),
        (_folder, "not a regular file"),
        (lambda path: path.write_bytes(b"[]"), ""),
    ],
    ids=["missing", "large", "link", "folder", "other JSON"],
)
def test_a_manifest_that_cannot_be_used_is_the_first_thing_said(
    spoil: Callable[[Path], object], reason: str, small: Federation, tmp_path: Path
) -> None:
    run = small.write(tmp_path)
    spoil(run / "bundle" / "manifest.json")
    verdict = verify_bundle(run)
    first = verdict.failures[0]
    assert (first.step, first.code, first.file) == (0, "manifest-unreadable", "manifest.json")
    assert reason in first.message
    assert not verdict.verified


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_byte_flipped_is_rejected_and_the_file_named(
    small: Federation, tmp_path: Path
) -> None:
    run = small.write(tmp_path)
    generator = random.Random(11)
    for path in _files(run):
        for position in range(path.stat().st_size):
            _flip(run, path, position, generator.randrange(1, 256), _names_it(run, path))


def _resigned(
    federation: Federation, run: Path, files: dict[str, bytes], name: str, data: bytes
) -> Verdict:
    """The verdict on a bundle with one changed file and a manifest signed for it."""
    path, manifest = run / "bundle" / name, run / "bundle" / "manifest.json"
    honest_manifest = manifest.read_bytes()
    path.write_bytes(data)
    manifest.write_bytes(federation.manifest({**files, name: data}))
    try:
        return verify_bundle(run)
    finally:
        path.write_bytes(files[name])
        manifest.write_bytes(honest_manifest)


def _flip_under_a_new_manifest(
    federation: Federation, run: Path, *, folder: str = "", positions: int | None = None
) -> int:
    """Flips bytes of the files in a folder: some of each file, or all; gives how many."""
    files = federation.bundle_files()
    federation.write(run, files)
    generator = random.Random(13)
    flips = 0
    for name, data in sorted(files.items()):
        if not name.startswith(folder):
            continue
        chosen = (
            range(len(data))
            if positions is None
            else [generator.randrange(len(data)) for _ in range(positions)]
        )
        for position in chosen:
            damaged = bytearray(data)
            damaged[position] ^= generator.randrange(1, 256)
            verdict = _resigned(federation, run, files, name, bytes(damaged))
            assert not verdict.verified, (name, position)
            assert verdict.failures
            flips += 1
    return flips


def _without_witnesses() -> Federation:
    """A cosignature that is spoilt may be made up for by others: here there are none."""
    return Federation(customers=1, rounds=1, witness_quorum=0, cosigners=()).run()


def test_flips_are_rejected_though_the_manifest_was_signed_for_them(
    small: Federation, tmp_path: Path
) -> None:
    assert _flip_under_a_new_manifest(_without_witnesses(), tmp_path / "a", positions=20) >= 200
    # What witnesses keep of the logs has nothing that may be spoilt unnoticed.
    notes = _flip_under_a_new_manifest(small, tmp_path / "b", folder="witnesses/", positions=8)
    assert notes == 6 * 8


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_flip_is_rejected_though_the_manifest_was_signed_for_it(
    small: Federation, tmp_path: Path
) -> None:
    _flip_under_a_new_manifest(_without_witnesses(), tmp_path / "a")
    _flip_under_a_new_manifest(small, tmp_path / "b", folder="witnesses/")


def test_truncated_files_are_rejected(small: Federation, tmp_path: Path) -> None:
    run = small.write(tmp_path)
    for path in _files(run):
        original = path.read_bytes()
        for size in (0, 1, len(original) // 2, len(original) - 1):
            path.write_bytes(original[:size])
            _names_it(run, path)(verify_bundle(run))
        path.write_bytes(original)


# -- what it imports -------------------------------------------------------------------------------

_IMPORTS = """
import sys
from pathlib import Path
from common.audit.verify import verify_bundle
assert verify_bundle(Path(sys.argv[1])).verified
print(" ".join(sorted(sys.modules)))
"""


def test_verifying_never_imports_what_compliance_does_not_need(
    honest: Federation, tmp_path: Path
) -> None:
    run = honest.write(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS, str(run)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stdout.split())
    writers = {"apsw", "common.audit.log", "common.consent", "common.audit.entry"}
    heavy = {"torch", "flwr", "pandas", "opacus", "ray", "numpy", "dp_accounting", "scipy"}
    assert "common.audit.verify" in imported
    assert not imported & (writers | heavy)
