"""A home takes in only what follows; a fork is refused, and both sides are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.audit.log import AuditLog
from common.envelope import Envelope, sign_record
from common.errors import FedprefError, InputError, StorageError, VerificationError
from common.keys import key_id
from common.registry_install import (
    Installed,
    install_version,
    registry_envelopes,
    unlogged_versions,
)
from tests.support.memory_signer import MemorySigner
from tests.support.registry_officers import (
    FEDERATION,
    OFFICERS,
    ROOT_IDS,
    START_MS,
    request,
    version,
)
from tests.support.unsound_keys import A_FEW

TRAINER, NEWER, OTHER = (MemorySigner(name) for name in ("trainer", "newer", "other"))
FIRST = version([], requests=[request(TRAINER)])
SECOND = version([FIRST], requests=[request(NEWER)])
THIRD = version([FIRST, SECOND], revocations={TRAINER.key_id: START_MS + 9})
FORK = version([FIRST], OFFICERS[1], OFFICERS[2], requests=[request(OTHER)])


class Home:
    def __init__(self, root: Path) -> None:
        self.registry, self.evidence = root / "registry", root / "evidence"

    def install(self, data: bytes, **changes: object) -> Installed:
        arguments: dict[str, object] = {"federation": FEDERATION, "root_key_ids": ROOT_IDS}
        return install_version(self.registry, self.evidence, data, **(arguments | changes))  # type: ignore[arg-type]

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.registry.glob("*"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_versions_are_installed_in_order(home: Home) -> None:
    assert home.install(FIRST).is_new
    assert home.install(SECOND, root_key_ids=()).registry.version == 2
    with pytest.raises(InputError, match="is version 3"):
        Home(home.registry.parent / "x").install(THIRD)
    assert home.install(THIRD).is_new
    assert registry_envelopes(home.registry) == [FIRST, SECOND, THIRD]
    assert home.names == ["1.json", "2.json", "3.json"]


def written(path: Path) -> tuple[int, int]:
    """Which file it is and when it was last written; reading it changes neither."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def test_a_version_that_is_there_is_not_installed_again(home: Home) -> None:
    home.install(FIRST)
    before = written(home.registry / "1.json")
    again = home.install(FIRST)
    assert not again.is_new
    assert written(home.registry / "1.json") == before
    assert not home.evidence.exists()


def test_version_1_is_trusted_by_its_root_keys_only(home: Home) -> None:
    with pytest.raises(InputError, match="root keys' ids"):
        home.install(FIRST, root_key_ids=())
    with pytest.raises(VerificationError, match="other root keys"):
        home.install(FIRST, root_key_ids=[*ROOT_IDS[:2], OTHER.key_id])
    assert home.names == []


def test_the_registry_of_another_federation_is_refused(home: Home) -> None:
    with pytest.raises(VerificationError, match=r"belongs to other\.example"):
        home.install(FIRST, federation="other.example")
    assert home.names == []


@pytest.mark.parametrize("order", [(SECOND, FORK), (FORK, SECOND)])
def test_a_fork_is_refused_and_both_sides_are_kept(home: Home, order: tuple[bytes, bytes]) -> None:
    home.install(FIRST)
    home.install(order[0])
    for _ in range(2):
        with pytest.raises(VerificationError, match=r"forked.*version 2") as refusal:
            home.install(order[1])
        assert "every party" in refusal.value.remedy
    assert registry_envelopes(home.registry) == [FIRST, order[0]]
    kept = {path.read_bytes() for path in home.evidence.iterdir()}
    assert kept == {SECOND, FORK}


def test_a_fork_of_an_earlier_version_is_refused_too(home: Home) -> None:
    for data in (FIRST, SECOND, THIRD):
        home.install(data)
    with pytest.raises(VerificationError, match="forked"):
        home.install(FORK)
    first = version([], requests=[request(OTHER)])
    with pytest.raises(VerificationError, match=r"forked.*version 1"):
        home.install(first)
    assert len(list(home.evidence.iterdir())) == 4


def test_what_root_keys_did_not_sign_is_no_fork_and_is_not_kept(home: Home) -> None:
    home.install(FIRST)
    home.install(SECOND)
    record = Envelope.decode(FORK).record()
    for officers in ((OFFICERS[0],), (OTHER, NEWER)):
        with pytest.raises(VerificationError, match="version 2:"):
            home.install(sign_record(record, *officers))
    assert not home.evidence.exists()


def test_a_version_that_follows_another_history_is_refused(home: Home) -> None:
    home.install(FIRST)
    home.install(SECOND)
    with pytest.raises(VerificationError, match="prev is not the digest"):
        home.install(version([FIRST, FORK], requests=[request(NEWER)]))
    assert home.names == ["1.json", "2.json"]


@pytest.mark.parametrize(("name", "public_key"), A_FEW.items())
def test_no_unsound_key_is_installed_though_the_root_signed_it(
    home: Home, name: str, public_key: bytes
) -> None:
    home.install(FIRST)
    record = Envelope.decode(SECOND).record()
    keys = record["keys"]
    assert isinstance(keys, list)
    assert isinstance(keys[-1], dict)
    keys[-1] |= {"public_key": public_key.hex(), "key_id": key_id(public_key)}
    with pytest.raises(VerificationError, match="not a sound"):
        home.install(sign_record(record, *OFFICERS[:2]))
    assert home.names == ["1.json"]


@pytest.mark.parametrize("data", [b"", b"{}", FIRST[:-1], request(TRAINER)])
def test_what_is_no_version_is_refused(home: Home, data: bytes) -> None:
    with pytest.raises(FedprefError):
        home.install(data)
    assert home.names == []


def test_a_full_disk_leaves_the_home_as_it_was(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.install(FIRST)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StorageError, match="No space left"):
        home.install(SECOND)
    assert home.names == ["1.json"]


def test_killed_in_the_middle_the_version_is_there_whole_or_not_at_all(
    home: Home, tmp_path: Path
) -> None:
    home.install(FIRST)
    (tmp_path / "2").write_bytes(SECOND)
    for call in ("open", "fdopen", "fsync", "link", "unlink"):
        script = (
            "import os, pathlib, signal\n"
            "from common.registry_install import install_version\n"
            f"here = pathlib.Path({str(tmp_path)!r})\n"
            "data = (here / '2').read_bytes()\n"
            f"os.{call} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
            "install_version(here / 'registry', here / 'evidence', data,"
            f" federation={FEDERATION!r})\n"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", script], cwd=root, check=False)
        assert done.returncode == -signal.SIGKILL
        assert registry_envelopes(home.registry) in ([FIRST], [FIRST, SECOND])
    assert home.install(SECOND).registry.version == 2


def test_two_installers_of_one_number_do_not_replace_each_other(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.install(FIRST)
    real = os.link

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", real)
        home.install(SECOND)
        real(source, target)

    monkeypatch.setattr(os, "link", overtaken)
    with pytest.raises(InputError, match="just now"):
        home.install(FORK)
    assert registry_envelopes(home.registry) == [FIRST, SECOND]


def test_what_the_log_lacks_is_told_in_order(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    with AuditLog.open(path, origin="o/r", signer=TRAINER, create=True) as log:
        assert unlogged_versions(home.registry, log) == []
        home.install(FIRST)
        assert unlogged_versions(home.registry, log) == [FIRST]
        log.append([b"another entry", *unlogged_versions(home.registry, log)])
        assert unlogged_versions(home.registry, log) == []
        home.install(SECOND)
        home.install(THIRD)
        assert unlogged_versions(home.registry, log) == [SECOND, THIRD]
        log.append([SECOND])
        assert unlogged_versions(home.registry, log) == [THIRD]


def test_a_foreign_file_among_the_versions_is_named(home: Home) -> None:
    home.install(FIRST)
    (home.registry / "newest.json").write_bytes(b"{}")
    with pytest.raises(InputError, match="not named by its version"):
        registry_envelopes(home.registry)
