"""One key follows another, one passphrase another; killed at any step, every key still opens."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common import canonical_json
from common.errors import FedprefError, InputError, StorageError
from common.key_rotation import activate, change_passphrase, make_key
from common.key_store import NEXT, KeyStore
from tests.support.external_signer import external_key, program

ROLES = ("log", "consent", "trainer")


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    made = KeyStore(tmp_path / "keys", "region-1")
    for role in ROLES:
        make_key(made, role)
    return made


def ids(store: KeyStore) -> dict[str, str]:
    return {name: store.signer(name).key_id for name in store.names()}


def declare(store: KeyStore, **keys: tuple[bytes, list[str]]) -> None:
    value = {
        name.replace("_", "."): {"public_key": public.hex(), "command": list(command)}
        for name, (public, command) in keys.items()
    }
    store.signers.write_bytes(canonical_json.encode(dict(value)))
    store.signers.chmod(0o600)


def killed_at(folder: Path, step: int, call: str) -> int:
    """Makes a change in another process that is killed at its n-th system call of some kinds."""
    script = (
        "import os, pathlib, signal, sys\n"
        "from common import key_rotation\n"
        "from common.key_store import KeyStore\n"
        f"left = [{step}]\n"
        "def dying(real):\n"
        "    def call(*args, **kwargs):\n"
        "        if left[0] == 0:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        left[0] -= 1\n"
        "        return real(*args, **kwargs)\n"
        "    return call\n"
        "for name in ('open', 'fsync', 'link', 'unlink', 'rename', 'replace', 'fdopen'):\n"
        "    setattr(os, name, dying(getattr(os, name)))\n"
        f"store = KeyStore(pathlib.Path({str(folder)!r}), 'region-1')\n"
        f"key_rotation.{call}\n"
    )
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode


def copied(store: KeyStore, folder: Path) -> KeyStore:
    shutil.copytree(store.folder, folder)
    return KeyStore(folder, store.owner)


def test_the_next_key_waits_beside_the_active_one(store: KeyStore) -> None:
    before = store.signer("consent").key_id
    following = make_key(store, "consent" + NEXT)
    assert store.signer("consent").key_id == before != following.key_id
    assert activate(store, "consent").key_id == following.key_id
    assert store.signer("consent").key_id == following.key_id
    assert store.names() == ("consent", "log", "trainer")
    (retired,) = (store.folder / "retired").iterdir()
    assert store.open_file(retired).key_id == before
    assert retired.stat().st_mode & 0o777 == 0o600


def test_there_must_be_a_next_key(store: KeyStore) -> None:
    with pytest.raises(InputError, match="no next key of the role log"):
        activate(store, "log")
    assert not (store.folder / "retired").exists()


def test_a_key_moves_from_a_file_to_a_store_elsewhere_and_back(
    store: KeyStore, tmp_path: Path
) -> None:
    elsewhere = external_key(tmp_path)
    declare(store, log_next=elsewhere)
    in_file = store.signer("log").key_id
    assert activate(store, "log").public_key == elsewhere[0]
    assert store.signer("log").public_key == elsewhere[0]
    assert not store.key_file("log").exists()
    assert [path.name for path in (store.folder / "retired").iterdir()] == [
        f"log-{in_file[:16]}.pem"
    ]
    back = make_key(store, "log" + NEXT)
    assert activate(store, "log").key_id == back.key_id
    assert store.signer("log").key_id == back.key_id
    assert canonical_json.decode(store.signers.read_bytes()) == {}


def test_a_declared_key_is_opened_not_made(store: KeyStore, tmp_path: Path) -> None:
    public_key, command = external_key(tmp_path)
    declare(store, witness=(public_key, command))
    assert make_key(store, "witness").public_key == public_key
    assert not store.key_file("witness").exists()


def test_killed_while_activating_one_of_the_two_keys_is_active(
    store: KeyStore, tmp_path: Path
) -> None:
    before = store.signer("log").key_id
    following = make_key(store, "log" + NEXT).key_id
    seen = set()
    for step in range(60):
        copy = copied(store, tmp_path / str(step))
        killed = killed_at(copy.folder, step, "activate(store, 'log')") == -signal.SIGKILL
        active = copy.signer("log").key_id
        assert active in (before, following)
        seen.add(active)
        if active == before:
            assert activate(copy, "log").key_id == following
        assert copy.signer("log").key_id == following
        if not killed:
            break
    assert not killed
    assert seen == {before, following}


def test_a_missing_passphrase_is_not_replaced_beside_keys_that_it_opens(store: KeyStore) -> None:
    store.passphrase_path.unlink()
    with pytest.raises(InputError, match="missing"):
        make_key(store, "log" + NEXT)
    assert not store.passphrase_path.exists()


def test_the_passphrase_changes(store: KeyStore) -> None:
    make_key(store, "log" + NEXT)
    activate(store, "log")
    make_key(store, "consent" + NEXT)
    before, old = ids(store), store.passphrase()
    assert change_passphrase(store)
    assert store.passphrase() != old
    assert ids(store) == before
    assert not store.next_passphrase_path.exists()
    assert store.passphrase_path.stat().st_mode & 0o777 == 0o600
    (retired,) = (store.folder / "retired").iterdir()
    store.open_file(retired)
    with pytest.raises(InputError, match="passphrase is wrong"):
        KeyStore(store.folder, "x", _written(store.folder / "old", old)).signer("log")


def _written(path: Path, secret: bytes) -> Path:
    path.write_bytes(secret)
    path.chmod(0o600)
    return path


def test_the_passphrase_changes_to_a_chosen_one(store: KeyStore) -> None:
    assert change_passphrase(store, b"chosen by the operator")
    assert store.passphrase() == b"chosen by the operator"
    assert ids(store)


def test_killed_while_changing_the_passphrase_every_key_opens_and_the_change_ends(
    store: KeyStore, tmp_path: Path
) -> None:
    before, old = ids(store), store.passphrase()
    for step in range(1, 120, 3):
        copy = copied(store, tmp_path / str(step))
        killed = killed_at(copy.folder, step, "change_passphrase(store)") == -signal.SIGKILL
        assert ids(copy) == before
        if copy.passphrase() == old:
            assert change_passphrase(copy)
        assert not copy.next_passphrase_path.exists()
        assert copy.passphrase() != old
        assert ids(copy) == before
        if not killed:
            break
    assert step > 20
    assert not killed


def test_while_the_passphrase_changes_no_other_change_begins(store: KeyStore) -> None:
    store.next_passphrase_path.write_bytes(b"the new one\n")
    store.next_passphrase_path.chmod(0o600)
    with pytest.raises(InputError, match="is under way"):
        change_passphrase(store, b"another new one")
    with pytest.raises(InputError, match="is being changed"):
        make_key(store, "permit")
    assert change_passphrase(store)
    assert store.passphrase() == b"the new one"


def test_a_key_that_does_not_open_stops_the_change(store: KeyStore) -> None:
    store.key_file("trainer").write_bytes(b"x")
    with pytest.raises(FedprefError, match=r"trainer\.pem"):
        change_passphrase(store)
    assert store.signer("log")
    assert store.signer("consent")


def test_a_store_of_another_s_passphrase_waits_for_it(store: KeyStore, tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    store.passphrase_path.rename(vault)
    command = program(tmp_path, "ask", f"#!/bin/sh\ncat {vault}\n")
    store.passphrase_command.write_bytes(canonical_json.encode(list(command)))
    store.passphrase_command.chmod(0o600)
    before = ids(store)
    assert not change_passphrase(store)
    assert ids(store) == before
    assert not store.passphrase_path.exists()
    vault.write_bytes(store.next_passphrase_path.read_bytes())
    assert change_passphrase(store)
    assert not store.next_passphrase_path.exists()
    assert ids(store) == before


def test_a_full_disk_leaves_the_old_key_active(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store.signer("log").key_id
    make_key(store, "log" + NEXT)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StorageError, match="No space left"):
        activate(store, "log")
    assert store.signer("log").key_id == before
