"""The bundle writer: what it writes verifies, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.audit.bundle import write_bundle
from common.audit.log import AuditLog
from common.audit.verify import verify_bundle
from common.errors import InputError, StorageError
from tests.support.bundle_builder import FEDERATION, OUTSIDE, RUN, SERVER, Federation

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation().run()


@pytest.fixture
def logs(federation: Federation, tmp_path: Path) -> Iterator[dict[str, AuditLog]]:
    """Real logs on disk with the federation's entries."""
    with ExitStack() as stack:
        opened: dict[str, AuditLog] = {}
        for party, entries in federation.logs.items():
            log = stack.enter_context(
                AuditLog.open(
                    tmp_path / f"{party}.sqlite",
                    origin=f"{FEDERATION}/{party}",
                    signer=federation.keys[party, "log"],
                    create=True,
                )
            )
            log.append(entries)
            opened[party] = log
        yield opened


@pytest.fixture
def write(federation: Federation, logs: dict[str, AuditLog], tmp_path: Path) -> Write:
    run = tmp_path / "run"
    run.mkdir()
    for name, data in federation.artifacts.items():
        (run / name).write_bytes(data)

    def write(**changes: object) -> Path:
        arguments: dict[str, object] = {
            "federation": FEDERATION,
            "run": RUN,
            "registry": federation.registry,
            "plan": federation.plan,
            "logs": logs,
            "artifacts": list(federation.artifacts),
            "signer": federation.keys[SERVER, "aggregator"],
            "created_at_ms": federation.clock_ms + 1000,
            "cosigned": federation.cosigned_notes(),
            "witnessed": federation.witnessed(),
        }
        return write_bundle(run, **(arguments | changes))  # type: ignore[arg-type]

    return write


def test_the_written_bundle_verifies(write: Write) -> None:
    bundle = write()
    verdict = verify_bundle(bundle.parent)
    assert verdict.failures == ()
    assert verdict.verified


def test_its_files_are_those_of_an_independent_writer(write: Write, federation: Federation) -> None:
    bundle = write()
    written = {
        path.relative_to(bundle).as_posix(): path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file()
    }
    expected = federation.bundle_files()
    expected["manifest.json"] = federation.manifest(expected)
    assert written == expected


def test_an_earlier_bundle_is_replaced_and_nothing_is_left_beside_it(write: Write) -> None:
    bundle = write()
    (bundle / "stale").write_text("x")
    beside = sorted(path.name for path in bundle.parent.iterdir())
    assert write() == bundle
    assert not (bundle / "stale").exists()
    assert sorted(path.name for path in bundle.parent.iterdir()) == beside
    assert verify_bundle(bundle.parent).verified


def test_logs_opened_for_reading_only_are_enough(
    federation: Federation, write: Write, logs: dict[str, AuditLog], tmp_path: Path
) -> None:
    """The run's own case: every entry was appended by itself, and the writer is gone."""
    party = "region-1"
    path = tmp_path / "appended.sqlite"
    with AuditLog.open(
        path,
        origin=f"{FEDERATION}/{party}",
        signer=federation.keys[party, "log"],
        create=True,
    ) as log:
        for entry in federation.logs[party]:
            log.append([entry])
    with AuditLog.open_read_only(path) as log:
        bundle = write(logs={**logs, party: log})
    assert verify_bundle(bundle.parent).verified


class _ManyFiles:
    def entries(self) -> Iterator[tuple[int, bytes]]:
        return iter(())

    def export(self, folder: Path, *, sizes: Collection[int]) -> None:
        for number in range(700 + len(sizes)):
            (folder / f"{number}").write_bytes(b"x")


def test_the_manifest_of_a_large_bundle_can_be_read(write: Write) -> None:
    bundle = write(logs={"region-1": _ManyFiles()}, cosigned={}, witnessed={})
    assert (bundle / "manifest.json").stat().st_size > 65_535
    step = verify_bundle(bundle.parent).steps[0]
    assert step.counts == {"files": 702, "artifacts": 3}


class _FullDisk:
    def entries(self) -> Iterator[tuple[int, bytes]]:
        return iter(())

    def export(self, folder: Path, *, sizes: Collection[int]) -> None:
        (folder / "half").write_bytes(b"x" * (100 + len(sizes)))
        raise OSError(28, "No space left on device")


def test_a_failure_leaves_the_earlier_bundle_and_nothing_else(
    write: Write, logs: dict[str, AuditLog]
) -> None:
    bundle = write()
    beside = sorted(path.name for path in bundle.parent.iterdir())
    with pytest.raises(StorageError, match="No space left"):
        write(logs={**logs, "region-2": _FullDisk()})
    assert sorted(path.name for path in bundle.parent.iterdir()) == beside
    assert verify_bundle(bundle.parent).verified


def test_a_rename_that_fails_puts_the_earlier_bundle_back(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write()
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(StorageError):
        write()
    monkeypatch.undo()
    assert verify_bundle(bundle.parent).verified
    assert not list(bundle.parent.glob(".bundle*"))


@pytest.mark.parametrize("name", ["missing.json", "../region-1.sqlite", "sub/x"])
def test_an_artifact_that_is_not_there_is_refused(write: Write, name: str) -> None:
    with pytest.raises(InputError, match="is not in"):
        write(artifacts=[name])


@pytest.mark.parametrize("party", ["../x", "", "a/b", "UPPER", ".."])
def test_a_party_that_cannot_name_a_folder_is_refused(
    write: Write, logs: dict[str, AuditLog], party: str
) -> None:
    with pytest.raises(InputError, match="party name"):
        write(logs={party: logs[SERVER]})


# -- what others cosigned and keep -----------------------------------------------------------------


def read(bundle: Path, name: str) -> bytes:
    return (bundle / name).read_bytes()


def test_cosigned_notes_stand_for_the_plain_ones(write: Write, federation: Federation) -> None:
    bundle = write()
    for party, notes in federation.cosigned_notes().items():
        final = len(federation.logs[party])
        for size, note in notes.items():
            name = "checkpoint" if size == final else f"checkpoints/{size}"
            assert read(bundle, f"logs/{party}/{name}") == note
            assert note.count("—".encode()) == 4
    plain = write(cosigned={})
    assert read(plain, "logs/region-1/checkpoint").count("—".encode()) == 1


def test_a_size_that_only_was_cosigned_is_exported_too(
    write: Write, federation: Federation
) -> None:
    notes = federation.cosigned_notes()
    notes["region-1"][3] = federation.cosigned("region-1", 3)
    bundle = write(cosigned=notes)
    assert read(bundle, "logs/region-1/checkpoints/3") == notes["region-1"][3]
    assert verify_bundle(bundle.parent).verified


def test_what_witnesses_keep_is_written(write: Write, federation: Federation) -> None:
    first, second = (federation.checkpoint("region-1", size) for size in (3, 4))
    bundle = write(evidence={OUTSIDE: [("region-1", first, second), ("region-1", second, first)]})
    for number, pair in ((1, (first, second)), (2, (second, first))):
        stem = f"witnesses/{OUTSIDE}/evidence/{number}-region-1"
        assert (read(bundle, f"{stem}-a"), read(bundle, f"{stem}-b")) == pair
    for witness, notes in federation.witnessed().items():
        for party, note in notes.items():
            assert read(bundle, f"witnesses/{witness}/{party}") == note
    assert verify_bundle(bundle.parent).verified


@pytest.mark.parametrize(("party", "size"), [("region-1", 4), ("region-2", 3)])
def test_a_cosigned_note_of_another_size_or_log_is_refused(
    write: Write, federation: Federation, party: str, size: int
) -> None:
    with pytest.raises(InputError, match="is of another"):
        write(cosigned={"region-1": {3: federation.cosigned(party, size)}})


@pytest.mark.parametrize(
    "changes",
    [
        {"witnessed": {"../x": {}}},
        {"witnessed": {OUTSIDE: {"evidence": b""}}},
        {"evidence": {OUTSIDE: [("a/b", b"", b"")]}},
    ],
)
def test_witnesses_and_logs_that_cannot_name_a_file_are_refused(
    write: Write, changes: dict[str, object]
) -> None:
    with pytest.raises(InputError, match="party name"):
        write(**changes)
