"""Signed checkpoints: C2SP signed-note, tlog-checkpoint and tlog-cosignature (cosignature/v1).

A note is a text with signature lines. A checkpoint is a note whose text is a log's origin, size and
root; a cosignature is a witness's signature line under it, over the text and a time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from common.audit.merkle import EMPTY_ROOT, HASH_BYTES
from common.errors import FormatError, InputError, VerificationError
from common.keys import Signer, verify_signature

#: Signature types of signed-note: a plain Ed25519 signature, and a timestamped cosignature.
ED25519 = 0x01
COSIGNATURE_V1 = 0x04

MAX_NOTE_BYTES = 128 * 1024
MAX_SIGNATURES = 64

_KEY_ID_BYTES = 4
_SIGNATURE_BYTES = 64
_TIMESTAMP_BYTES = 8
_SIGNATURE_PREFIX = "\u2014 "
# A checkpoint is far shorter; what is longer is not worth keeping.
_REMEMBERED_BYTES = 1024
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
# Without spaces (as `str.isspace` has them), pluses and control characters.
_KEY_NAME = re.compile(r"[^\s+\x00-\x1f]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True)
class NoteKey:
    """A key that may sign notes, under a name.

    Attributes:
        name: The key's name; for a log's own key its origin.
        public_key: The Ed25519 public key, 32 bytes.
        signature_type: ``ED25519``, or ``COSIGNATURE_V1`` for a witness.
    """

    name: str
    public_key: bytes
    signature_type: int = ED25519
    id: bytes = field(init=False)

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if len(self.public_key) != 32 or self.signature_type not in (ED25519, COSIGNATURE_V1):
            raise FormatError(f"Note key {self.name} is not an Ed25519 key of a known type.")
        named = self.name.encode() + b"\n" + bytes([self.signature_type]) + self.public_key
        object.__setattr__(self, "id", hashlib.sha256(named).digest()[:_KEY_ID_BYTES])

    @property
    def verifier_key(self) -> str:
        """The key as one line of text, as other tools of this format read it."""
        encoded = _base64(bytes([self.signature_type]) + self.public_key)
        return f"{self.name}+{self.id.hex()}+{encoded}"

    @classmethod
    def parse(cls, verifier_key: str) -> NoteKey:
        """Reads a verifier key back.

        Raises:
            FormatError: If it is malformed, or its key id is another key's.
        """
        name, _, rest = verifier_key.partition("+")
        key_id, _, encoded = rest.partition("+")
        material = _unbase64(encoded, "a verifier key")
        if not material:
            raise FormatError("The verifier key has no key.")
        key = cls(name=name, public_key=material[1:], signature_type=material[0])
        if key.id.hex() != key_id:
            raise FormatError(f"The verifier key of {name} has the id of another key.")
        return key


@dataclass(frozen=True)
class NoteSignature:
    """One signature line of a note: the key's name and id, and the signature's bytes."""

    name: str
    key_id: bytes
    signature: bytes

    @property
    def line(self) -> str:
        """The line as it stands in the note, with its newline."""
        return f"{_SIGNATURE_PREFIX}{self.name} {_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True)
class Note:
    """An opened note.

    Attributes:
        text: What was signed, with its final newline.
        signatures: All signature lines, in order, those of unknown keys too.
        verified: Those of known keys; each was verified.
    """

    text: str
    signatures: tuple[NoteSignature, ...]
    verified: tuple[NoteSignature, ...] = ()

    def encode(self) -> str:
        """The note as it is written down."""
        return f"{self.text}\n{''.join(each.line for each in self.signatures)}"


def check_key_name(name: str) -> None:
    """Checks a key's name, which for a log is its origin.

    Raises:
        FormatError: If it is empty, has a space, plus or control character, or is not Unicode.
    """
    # Half of a surrogate pair is no Unicode text.
    if _KEY_NAME.fullmatch(name) is None or (not name.isprintable() and not _encodes(name)):
        raise FormatError(f"{name!r} is not a key name: empty, or with a space, plus or control.")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def sign_note(text: str, name: str, signer: Signer) -> str:
    """Signs a text as a note.

    Args:
        text: One or more lines, the last one ended too.
        name: The key's name.
        signer: The key.

    Raises:
        FormatError: If the text or the name cannot stand in a note.
    """
    _check_text(text)
    key = NoteKey(name, signer.public_key)
    return Note(text, (NoteSignature(name, key.id, signer.sign(text.encode())),)).encode()


def parse_note(data: bytes) -> Note:
    """Reads a note without verifying any signature.

    Raises:
        FormatError: If it is not of the exact form, or names one key (name and id) twice.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise FormatError(f"A note of {len(data)} bytes is longer than {MAX_NOTE_BYTES}.")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("The note is not UTF-8.") from error
    start = whole.rfind("\n\n")
    text, block = whole[: start + 1], whole[start + 2 :]
    if start < 0 or not block.endswith("\n"):
        raise FormatError("The note has no blank line with whole signature lines after it.")
    _check_text(text)
    lines = block[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise FormatError(f"The note has more than {MAX_SIGNATURES} signatures.")
    signatures = tuple(_parse_signature(line) for line in lines)
    if len({(each.name, each.key_id) for each in signatures}) != len(signatures):
        raise FormatError("The note has two signatures of one key.")
    return Note(text, signatures)


def open_note(note: bytes, keys: Collection[NoteKey]) -> Note:
    """Reads a note and verifies the signatures of the known keys; other keys' are ignored.

    Args:
        note: The signed note.
        keys: The known keys.

    Returns:
        The note; ``verified`` names the known keys that signed it, at least one.

    Raises:
        FormatError: If the note is malformed.
        VerificationError: If a known key's signature does not hold, or no known key signed.
    """
    known = {(key.name, key.id): key for key in keys}
    if len(known) != len(keys):
        raise InputError("Two note keys have one name and id.")
    parsed = parse_note(note)
    verified: list[NoteSignature] = []
    for signature in parsed.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is not None:
            _verify(parsed.text, key, signature)
            verified.append(signature)
    if not verified:
        names = ", ".join(sorted(key.name for key in keys))
        raise VerificationError(f"The note has no signature of a known key ({names}).")
    return Note(parsed.text, parsed.signatures, tuple(verified))


def _verify(text: str, key: NoteKey, signature: NoteSignature) -> None:
    message, raw = text.encode(), signature.signature
    if key.signature_type == COSIGNATURE_V1:
        time_s = cosignature_time_s(signature)
        message, raw = _cosigned_message(text, time_s), raw[_TIMESTAMP_BYTES:]
    if len(raw) != _SIGNATURE_BYTES or not _signature_holds(key.public_key, message, raw):
        raise VerificationError(f"The note's signature by {key.name} does not hold.")


def _signature_holds(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Like `verify_signature`, once for each short note: a party looks at one more than once."""
    if len(message) > _REMEMBERED_BYTES:
        return verify_signature(public_key, message, signature)
    return _remembered_verdict(public_key, message, signature)


@lru_cache(maxsize=1024)
def _remembered_verdict(public_key: bytes, message: bytes, signature: bytes) -> bool:
    return verify_signature(public_key, message, signature)


@dataclass(frozen=True)
class Checkpoint:
    """The head of a log: what a checkpoint note states.

    Attributes:
        origin: The log's identity.
        size: How many entries it has.
        root: Root of the tree over them, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def body(self) -> str:
        """The note text: origin, size and root, a line each."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Reads a note text. Extension lines are refused: no entry or proof backs them.

        Raises:
            FormatError: If it is not exactly what ``body`` gives.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise FormatError("A checkpoint has three lines: origin, size and root.")
        origin, size, encoded_root = lines[:3]
        check_key_name(origin)
        if _SIZE.fullmatch(size) is None or int(size) >= 1 << 63:
            raise FormatError(f"{size!r} is not the size of a log.")
        root = _unbase64(encoded_root, "a checkpoint's root")
        if len(root) != HASH_BYTES or (size == "0" and root != EMPTY_ROOT):
            raise FormatError(f"The checkpoint of {origin} at size {size} has no valid root.")
        return cls(origin=origin, size=int(size), root=root)


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint whose log signature was verified.

    Attributes:
        checkpoint: What it states.
        note: The note it stood in.
        cosigned_at_s: By witness name, the POSIX time of its verified cosignature.
    """

    checkpoint: Checkpoint
    note: Note
    cosigned_at_s: dict[str, int]


def open_checkpoint(
    note: bytes, log_key: NoteKey, witness_keys: Sequence[NoteKey] = ()
) -> SignedCheckpoint:
    """Verifies a checkpoint: it must bear the log's own signature under the log's own origin.

    Args:
        note: The signed note.
        log_key: The log's key, named by its origin.
        witness_keys: Keys whose cosignatures are verified if they are there.

    Raises:
        FormatError: If the note or the checkpoint is malformed.
        VerificationError: If the log did not sign it, it is another log's, or a known key's
            signature does not hold.
    """
    opened = open_note(note, [log_key, *witness_keys])
    by_key = {(each.name, each.key_id): each for each in opened.verified}
    if (log_key.name, log_key.id) not in by_key:
        raise VerificationError(f"The log {log_key.name} did not sign its checkpoint.")
    checkpoint = Checkpoint.parse(opened.text)
    if checkpoint.origin != log_key.name:
        raise VerificationError(
            f"The checkpoint is of the log {checkpoint.origin}, not of {log_key.name}."
        )
    cosigned = {
        key.name: cosignature_time_s(by_key[key.name, key.id])
        for key in witness_keys
        if key.signature_type == COSIGNATURE_V1 and (key.name, key.id) in by_key
    }
    return SignedCheckpoint(checkpoint, opened, cosigned)


def add_cosignature(note: bytes, name: str, signer: Signer, *, time_s: int) -> str:
    """Adds a witness's cosignature to a checkpoint, which it must have verified before.

    Args:
        note: The signed checkpoint.
        name: The witness's key name.
        signer: The witness's key.
        time_s: POSIX time of the statement, in seconds.

    Raises:
        FormatError: If the note is no checkpoint, or this key has signed it already.
        InputError: If the time is out of range.
    """
    if not 0 <= time_s < 1 << 63:
        raise InputError(f"{time_s} is not a POSIX time.")
    parsed = parse_note(note)
    Checkpoint.parse(parsed.text)
    key = NoteKey(name, signer.public_key, COSIGNATURE_V1)
    raw = time_s.to_bytes(_TIMESTAMP_BYTES, "big") + signer.sign(
        _cosigned_message(parsed.text, time_s)
    )
    added = Note(parsed.text, (*parsed.signatures, NoteSignature(name, key.id, raw))).encode()
    parse_note(added.encode())
    return added


def cosignature_time_s(signature: NoteSignature) -> int:
    """The POSIX time a cosignature states.

    Raises:
        VerificationError: If it is not a cosignature, or its time is out of range.
    """
    time_s = int.from_bytes(signature.signature[:_TIMESTAMP_BYTES], "big")
    if len(signature.signature) != _TIMESTAMP_BYTES + _SIGNATURE_BYTES or time_s >= 1 << 63:
        raise VerificationError(f"The cosignature by {signature.name} is not of version 1.")
    return time_s


def _cosigned_message(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _parse_signature(line: str) -> NoteSignature:
    name, separator, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
    if not line.startswith(_SIGNATURE_PREFIX) or not separator:
        raise FormatError("A signature line of the note has not the form — name signature.")
    check_key_name(name)
    raw = _unbase64(encoded, "a note signature")
    if len(raw) <= _KEY_ID_BYTES:
        raise FormatError("A signature line of the note has no signature.")
    return NoteSignature(name, raw[:_KEY_ID_BYTES], raw[_KEY_ID_BYTES:])


def _check_text(text: str) -> None:
    if not text.endswith("\n") or _CONTROL.search(text) is not None:
        raise FormatError("A note's text ends its last line and has no control characters.")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unbase64(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise FormatError(f"The base64 of {what} is malformed.") from error
    if _base64(data) != text:
        raise FormatError(f"The base64 of {what} is not in its one canonical form.")
    return data
