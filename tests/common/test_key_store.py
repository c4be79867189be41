"""Where a party's keys are: in encrypted files, or behind a program that a file declares."""

from __future__ import annotations

from pathlib import Path

import pytest

from common import canonical_json
from common.errors import FormatError, InputError, VerificationError
from common.key_rotation import make_key
from common.key_store import KeyStore
from common.keys import generate_key, verify_signature
from common.signers import SigningError
from tests.support.external_signer import external_key, program
from tests.support.unsound_keys import A_FEW


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    made = KeyStore(tmp_path / "keys", "region-1")
    make_key(made, "log")
    make_key(made, "consent")
    return made


def declare(store: KeyStore, value: object, mode: int = 0o600) -> None:
    store.signers.write_bytes(canonical_json.encode(value))  # type: ignore[arg-type]
    store.signers.chmod(mode)


def test_a_key_in_a_file_opens(store: KeyStore) -> None:
    signer = store.signer("log")
    assert verify_signature(signer.public_key, b"m", signer.sign(b"m"))
    assert signer.key_id != store.signer("consent").key_id
    assert store.names() == ("consent", "log")
    assert store.place("log") == "keys/log.pem"
    assert store.place("trainer") == ""


def test_a_declared_key_wins_over_a_file(store: KeyStore, tmp_path: Path) -> None:
    public_key, command = external_key(tmp_path)
    declare(store, {"log": {"public_key": public_key.hex(), "command": command}})
    signer = store.signer("log")
    assert signer.public_key == public_key
    assert verify_signature(public_key, b"m", signer.sign(b"m"))
    assert store.place("log") == f"program {command[0]}"
    assert store.signer("consent").public_key != public_key


@pytest.mark.parametrize(("name", "public_key"), A_FEW.items())
def test_no_unsound_key_is_declared(store: KeyStore, name: str, public_key: bytes) -> None:
    declare(store, {"log": {"public_key": public_key.hex(), "command": ["/bin/true"]}})
    with pytest.raises(VerificationError, match="not a sound"):
        store.signer("log")
    # A file in the home that does not hold stops every role: it may be somebody's doing.
    with pytest.raises(VerificationError, match=r"signers\.json"):
        store.signer("consent")


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"root": {"public_key": "11" * 32, "command": ["/bin/true"]}},
        {"log": {"public_key": "11" * 32}},
        {"log": {"public_key": "11" * 32, "command": ["/bin/true"], "shell": True}},
        {"log": {"public_key": "11", "command": ["/bin/true"]}},
        {"log": {"public_key": "58" + "66" * 31, "command": "/bin/true"}},
        {"log": {"public_key": "58" + "66" * 31, "command": ["true"]}},
        {"log": {"public_key": "58" + "66" * 31, "command": []}},
    ],
)
def test_a_malformed_declaration_is_refused(store: KeyStore, value: object) -> None:
    declare(store, value)
    with pytest.raises(FormatError, match=r"signers\.json"):
        store.signer("log")


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o602])
def test_what_others_can_write_starts_no_program(store: KeyStore, mode: int) -> None:
    declare(store, {}, mode)
    with pytest.raises(InputError, match=f"mode {mode:04o}"):
        store.signer("log")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_passphrase_that_others_can_read_is_refused(store: KeyStore, mode: int) -> None:
    store.passphrase_path.chmod(mode)
    with pytest.raises(InputError, match=rf"passphrase file .* mode {mode:04o}"):
        store.signer("log")


def test_a_missing_or_empty_passphrase_is_named(store: KeyStore) -> None:
    store.passphrase_path.write_bytes(b" \n")
    with pytest.raises(InputError, match=r"region-1: the key passphrase file .* is empty"):
        store.signer("log")
    store.passphrase_path.unlink()
    with pytest.raises(InputError, match=r"region-1: the key passphrase file .* is missing"):
        store.signer("log")


def test_a_wrong_passphrase_is_named(store: KeyStore) -> None:
    store.passphrase_path.write_bytes(b"another")
    with pytest.raises(InputError, match="passphrase is wrong"):
        store.signer("log")


def test_the_passphrase_is_not_taken_from_the_environment(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = store.passphrase()
    store.passphrase_path.unlink()
    for name in ("PASSPHRASE", "FEDPREF_PASSPHRASE", "KEY_PASSPHRASE"):
        monkeypatch.setenv(name, secret.decode())
    with pytest.raises(InputError, match="is missing"):
        store.passphrase()


def test_a_program_gives_the_passphrase(store: KeyStore, tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    store.passphrase_path.rename(vault)
    command = program(tmp_path, "ask", f"#!/bin/sh\ncat {vault}\n")
    store.passphrase_command.write_bytes(canonical_json.encode(list(command)))
    store.passphrase_command.chmod(0o600)
    assert store.signer("log").key_id
    vault.write_bytes(b"\n")
    with pytest.raises(InputError, match="empty passphrase"):
        store.signer("log")
    vault.unlink()
    with pytest.raises(SigningError, match="ended with code 1"):
        store.signer("log")
    store.passphrase_command.chmod(0o666)
    with pytest.raises(InputError, match="mode 0666"):
        store.signer("log")
    store.passphrase_command.chmod(0o600)
    store.passphrase_command.write_bytes(b'["ask"]')
    with pytest.raises(FormatError, match="absolute path"):
        store.signer("log")


def test_the_first_key_makes_the_passphrase_and_later_ones_use_it(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "home" / "keys", "server")
    make_key(store, "log")
    assert store.passphrase_path.stat().st_mode & 0o777 == 0o600
    assert store.folder.stat().st_mode & 0o777 == 0o700
    first = store.passphrase()
    assert len(first) == 64
    make_key(store, "aggregator")
    assert store.passphrase() == first
    with pytest.raises(InputError, match="already"):
        make_key(store, "log")


def test_other_files_in_the_folder_are_no_keys(store: KeyStore) -> None:
    generate_key(store.folder / "old-log.pem", b"x")
    (store.folder / "storage.key").write_bytes(b"x")
    assert store.names() == ("consent", "log")
