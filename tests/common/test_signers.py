"""Keys kept elsewhere: only a signature that verifies is used; whatever else comes is named."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.audit.log import AuditLog
from common.errors import FormatError, StorageError, VerificationError
from common.keys import Signer, key_id, verify_signature
from common.signers import CallableSigner, CommandSigner, SigningError, run_program
from tests.support.external_signer import external_key, program
from tests.support.memory_signer import MemorySigner
from tests.support.unsound_keys import unsound_keys

KEY, OTHER = MemorySigner("kms"), MemorySigner("other kms")
MESSAGE = b"message"


def test_a_function_signs() -> None:
    signer: Signer = CallableSigner(KEY.public_key, KEY.sign)
    assert signer.key_id == KEY.key_id == key_id(KEY.public_key)
    assert signer.sign(MESSAGE) == KEY.sign(MESSAGE)
    assert KEY.key_id in repr(signer)


@pytest.mark.parametrize(
    ("sign", "reason"),
    [
        (OTHER.sign, "does not verify"),
        (lambda message: KEY.sign(message + b"."), "does not verify"),
        (lambda _: bytes(64), "does not verify"),
        (lambda _: b"", "0 bytes"),
        (lambda message: KEY.sign(message)[:-1], "63 bytes"),
        (lambda message: KEY.sign(message) + b"\n", "65 bytes"),
        (lambda message: KEY.sign(message).hex(), "no bytes"),
        (lambda _: None, "no bytes"),
    ],
)
def test_what_is_no_signature_of_the_key_is_not_used(
    sign: Callable[[bytes], bytes], reason: str
) -> None:
    signer = CallableSigner(KEY.public_key, sign, name="the KMS")
    with pytest.raises(SigningError, match=reason) as refusal:
        signer.sign(MESSAGE)
    assert "the KMS" in refusal.value.message
    assert KEY.key_id[:16] in refusal.value.message
    assert refusal.value.remedy
    assert isinstance(refusal.value, StorageError)


def test_a_store_out_of_reach_is_named() -> None:
    def sign(_: bytes) -> bytes:
        raise ConnectionError("connection refused")

    with pytest.raises(SigningError, match="connection refused"):
        CallableSigner(KEY.public_key, sign).sign(MESSAGE)


@pytest.mark.parametrize(("name", "public_key"), unsound_keys().items(), ids=lambda value: None)
def test_no_unsound_key_gets_a_signer(name: str, public_key: bytes) -> None:
    with pytest.raises(VerificationError, match="not a sound"):
        CallableSigner(public_key, KEY.sign)
    with pytest.raises(VerificationError, match="not a sound"):
        CommandSigner(public_key, ["/bin/true"])


def test_a_program_signs_messages_of_any_length(tmp_path: Path) -> None:
    public_key, command = external_key(tmp_path)
    signer: Signer = CommandSigner(public_key, command)
    for message in (b"", b"\x00\n", b"m" * 200_000):
        assert verify_signature(public_key, message, signer.sign(message))


def test_a_program_of_another_key_is_refused(tmp_path: Path) -> None:
    _, command = external_key(tmp_path)
    with pytest.raises(SigningError, match="does not verify"):
        CommandSigner(KEY.public_key, command).sign(MESSAGE)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/bin/sh\nexit 0\n", "0 bytes"),
        ("#!/bin/sh\ncat > /dev/null; echo no >&2; exit 3\n", "code 3. It said: no"),
        ("#!/bin/sh\nprintf '\\033[31mbad\\n\\tpin' >&2; exit 1\n", r"said: \?\[31mbad pin"),
        ("#!/bin/sh\nhead -c 63 /dev/zero\n", "63 bytes"),
        ("#!/bin/sh\nkill -9 $$\n", "code -9"),
        ("#!/nowhere/sh\n", "cannot be started"),
    ],
)
def test_a_program_that_fails_is_named(tmp_path: Path, text: str, reason: str) -> None:
    command = program(tmp_path, "kms", text)
    with pytest.raises(SigningError, match=reason) as refusal:
        CommandSigner(KEY.public_key, command).sign(b"m" * 200_000)
    assert command[0] in refusal.value.message


def test_a_program_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    text = f"#!/bin/sh\nsleep 900 & echo $! > {tmp_path}/child\nwait\n"
    signer = CommandSigner(KEY.public_key, program(tmp_path, "kms", text), timeout_s=2.5)
    with pytest.raises(SigningError, match=r"no answer within 2\.5 s"):
        signer.sign(MESSAGE)
    child = int((tmp_path / "child").read_text())
    for _ in range(400):
        if not _is_running(child):
            break
        time.sleep(0.05)
    assert not _is_running(child)


def _is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    command = program(tmp_path, "echo", '#!/bin/sh\nprintf "%s" "$1"\n')
    said = run_program([*command, f"$(touch {tmp_path}/made); `id`"], b"", timeout_s=60)
    assert said == f"$(touch {tmp_path}/made); `id`".encode()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("argv", [[], ["kms"], ["./kms"], [""], ["/bin/true", "a\0b"], "/bin/true"])
def test_a_command_is_a_list_that_begins_with_an_absolute_path(argv: list[str]) -> None:
    with pytest.raises(FormatError, match="absolute path"):
        CommandSigner(KEY.public_key, argv)


def test_a_log_whose_key_cannot_be_reached_is_as_it_was(tmp_path: Path) -> None:
    reachable = True

    def sign(message: bytes) -> bytes:
        if not reachable:
            raise TimeoutError("no answer")
        return KEY.sign(message)

    signer = CallableSigner(KEY.public_key, sign)
    path = tmp_path / "log.sqlite"
    with AuditLog.open(path, origin="o.example/r", signer=signer, create=True) as log:
        log.append([b"first"])
        root = log.root
        reachable = False
        with pytest.raises(StorageError, match="cannot sign"):
            log.append([b"second"])
        reachable = True
        assert (log.size, log.root) == (1, root)
        log.append([b"second"])
        assert log.size == 2
    with AuditLog.open_read_only(path) as log:
        assert [data for _, data in log.entries()] == [b"first", b"second"]


def test_a_signer_in_a_program_signs_a_log(tmp_path: Path) -> None:
    public_key, command = external_key(tmp_path)
    signer = CommandSigner(public_key, command)
    with AuditLog.open(
        tmp_path / "log.sqlite", origin="o.example/r", signer=signer, create=True
    ) as log:
        log.append([os.urandom(8)])
        assert log.checkpoint().startswith(b"o.example/r\n1\n")
