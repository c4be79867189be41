from __future__ import annotations

import errno
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from common.errors import FormatError, InputError, StorageError
from common.keys import Signer, generate_key, key_id, load_key, verify_signature

PASSPHRASE = b"correct horse battery staple"


def _stored(folder: Path, private_key: object, *, encrypted: bool = True) -> Path:
    encryption = (
        serialization.BestAvailableEncryption(PASSPHRASE)
        if encrypted
        else serialization.NoEncryption()
    )
    path = folder / "stored.pem"
    path.touch(mode=0o600)
    path.write_bytes(
        private_key.private_bytes(  # type: ignore[attr-defined]
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
    )
    return path


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_generated_key_signs_and_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "log.pem"
    made: Signer = generate_key(path, PASSPHRASE)
    assert made.key_id == key_id(made.public_key)
    opened = load_key(path, PASSPHRASE)
    assert (opened.key_id, opened.public_key) == (made.key_id, made.public_key)
    assert verify_signature(made.public_key, b"message", opened.sign(b"message"))


def test_the_file_is_encrypted_and_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "log.pem"
    previous = os.umask(0)
    try:
        generate_key(path, PASSPHRASE)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert _names(path.parent) == ["log.pem"]
    data = path.read_bytes()
    assert data.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    key = serialization.load_pem_private_key(data, PASSPHRASE)
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    with pytest.raises(TypeError, match="encrypted"):
        serialization.load_pem_private_key(data, None)


def test_every_file_is_private_from_its_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real_open = os.open

    def watching_open(path: object, flags: int, mode: int = 0o777, **rest: int | None) -> int:
        descriptor = real_open(path, flags, mode, **rest)  # type: ignore[call-overload]
        if flags & os.O_CREAT:
            seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
            assert flags & os.O_EXCL
        return int(descriptor)

    monkeypatch.setattr(os, "open", watching_open)
    previous = os.umask(0)
    try:
        generate_key(tmp_path / "log.pem", PASSPHRASE)
    finally:
        os.umask(previous)
    assert seen == [0o600]


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "log.pem"
    first = generate_key(path, PASSPHRASE)
    with pytest.raises(InputError, match="already"):
        generate_key(path, PASSPHRASE)
    assert load_key(path, PASSPHRASE).key_id == first.key_id
    assert _names(tmp_path) == ["log.pem"]
    link = tmp_path / "link.pem"
    link.symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(InputError, match="already"):
        generate_key(link, PASSPHRASE)
    assert not (tmp_path / "elsewhere.pem").exists()


def test_of_two_makers_of_one_file_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.pem"
    real_link = os.link

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", real_link)
        generate_key(path, b"the other's")
        real_link(source, target)

    monkeypatch.setattr(os, "link", overtaken)
    with pytest.raises(InputError, match="already"):
        generate_key(path, PASSPHRASE)
    load_key(path, b"the other's")
    assert _names(tmp_path) == ["log.pem"]


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match="No space left"):
        generate_key(tmp_path / "log.pem", PASSPHRASE)
    assert _names(tmp_path) == []


def test_a_process_killed_while_writing_leaves_no_half_key(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, pathlib\n"
        "from common.keys import generate_key\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "generate_key(pathlib.Path(sys.argv[1]), b'passphrase')\n"
    )
    path = tmp_path / "log.pem"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=root, check=False)
    assert done.returncode == -9
    assert not path.exists()
    for left in tmp_path.iterdir():
        assert stat.S_IMODE(left.stat().st_mode) == 0o600
    generate_key(path, PASSPHRASE)
    load_key(path, PASSPHRASE)


def test_a_wrong_passphrase_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "log.pem"
    generate_key(path, PASSPHRASE)
    with pytest.raises(InputError, match="passphrase is wrong") as refusal:
        load_key(path, b"wrong")
    assert str(path) in str(refusal.value)
    assert "wrong'" not in str(refusal.value)


@pytest.mark.parametrize("passphrase", [b"", b"a" * 1024])
def test_a_passphrase_that_cannot_encrypt_is_refused(tmp_path: Path, passphrase: bytes) -> None:
    path = tmp_path / "log.pem"
    with pytest.raises(InputError, match="passphrase"):
        generate_key(path, passphrase)
    assert not path.exists()
    generate_key(path, PASSPHRASE)
    with pytest.raises(InputError, match="passphrase"):
        load_key(path, passphrase)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o620, 0o700, 0o4600])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "log.pem"
    generate_key(path, PASSPHRASE)
    path.chmod(mode)
    with pytest.raises(InputError, match=f"mode {mode:04o}") as refusal:
        load_key(path, PASSPHRASE)
    assert "chmod 600" in refusal.value.remedy


def test_a_read_only_key_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "log.pem"
    generate_key(path, PASSPHRASE)
    path.chmod(0o400)
    load_key(path, PASSPHRASE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.pem"
    generate_key(path, PASSPHRASE)
    os.chown(path, 12345, -1)
    with pytest.raises(InputError, match="uid 12345"):
        load_key(path, PASSPHRASE)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.pem"
    with pytest.raises(InputError, match="is missing") as refusal:
        load_key(path, PASSPHRASE)
    assert str(path) in str(refusal.value)


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.pem"
    generate_key(path, PASSPHRASE)
    fifo = tmp_path / "fifo.pem"
    os.mkfifo(fifo, 0o600)
    for other in (fifo, tmp_path):
        with pytest.raises(InputError, match="plain file"):
            load_key(other, PASSPHRASE)


def test_the_file_that_a_link_leads_to_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "log.pem"
    made = generate_key(path, PASSPHRASE)
    link = tmp_path / "link.pem"  # secrets are often mounted so
    link.symlink_to(path)
    assert load_key(link, PASSPHRASE).key_id == made.key_id
    path.chmod(0o644)
    with pytest.raises(InputError, match="mode 0644"):
        load_key(link, PASSPHRASE)


def test_a_key_at_rest_must_be_encrypted(tmp_path: Path) -> None:
    path = _stored(tmp_path, ed25519.Ed25519PrivateKey.generate(), encrypted=False)
    with pytest.raises(FormatError, match="not an encrypted PKCS#8"):
        load_key(path, PASSPHRASE)


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    path = _stored(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(FormatError, match="another kind"):
        load_key(path, PASSPHRASE)


def test_an_encrypted_key_of_another_tool_is_accepted(tmp_path: Path) -> None:
    private_key = ed25519.Ed25519PrivateKey.generate()
    path = _stored(tmp_path, private_key)
    assert load_key(path, PASSPHRASE).public_key == private_key.public_key().public_bytes_raw()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.pem"
    generate_key(path, PASSPHRASE)
    whole = path.read_bytes()
    for damaged in (b"", whole[:150], whole.replace(b"A", b"B"), whole[:-5], b"\0" * 20_000):
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            load_key(path, PASSPHRASE)
    path.write_bytes(whole + b"#" * 20_000)
    with pytest.raises(FormatError, match="longer than"):
        load_key(path, PASSPHRASE)


def test_a_signer_shows_no_secret(tmp_path: Path) -> None:
    signer = generate_key(tmp_path / "log.pem", PASSPHRASE)
    assert repr(signer) == f"Ed25519FileSigner(key_id={signer.key_id!r})"
    with pytest.raises(TypeError):
        pickle.dumps(signer)
