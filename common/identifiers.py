"""Identifiers that records carry: unique record ids and customers' pseudonyms."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets

from common.errors import FormatError
from common.timestamps import now_ms

SUBJECT_KEY_BYTES = 32
#: A ULID in its canonical spelling: Crockford's base 32 in capitals, at most 128 bits.
ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TO_CROCKFORD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", _CROCKFORD.encode())
_TO_BASE_32 = str.maketrans(_CROCKFORD, "0123456789ABCDEFGHIJKLMNOPQRSTUV")


def subject_id(k_subject: bytes, customer_ref: str) -> str:
    """A customer's pseudonym: ``SHA256("fedpref-sid/1" ‖ k_subject ‖ customer_ref)`` in hex.

    Args:
        k_subject: The customer's own 32 random bytes. Who does not have them can neither find the
            pseudonym by trying references nor link it; deleting them is what erasure does.
        customer_ref: The region's own reference of the customer; not empty.

    Raises:
        FormatError: The key has another length, or the reference is empty or not Unicode text.
    """
    if len(k_subject) != SUBJECT_KEY_BYTES:
        raise FormatError(f"A subject's key has {SUBJECT_KEY_BYTES} bytes.")
    try:
        reference = customer_ref.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError("A customer's reference has half of a surrogate pair.") from error
    if not reference:
        raise FormatError("A customer's reference is empty.")
    return hashlib.sha256(b"fedpref-sid/1" + k_subject + reference).hexdigest()


def new_ulid(time_ms: int | None = None) -> str:
    """A new ULID: 48 bits of a time in milliseconds, 80 random bits.

    Args:
        time_ms: The time, in milliseconds since the epoch; the system clock's if None.
    """
    number = (now_ms() if time_ms is None else time_ms) << 80 | secrets.randbits(80)
    # 160 bits are 32 digits; the 26 that are a ULID's are the last.
    return base64.b32encode(number.to_bytes(20, "big"))[6:].translate(_TO_CROCKFORD).decode()


def ulid_ms(ulid: str) -> int:
    """When a ULID was made, as it says, in milliseconds since the epoch.

    Raises:
        FormatError: It is no ULID in its canonical spelling.
    """
    if ULID.fullmatch(ulid) is None:
        raise FormatError("A record's id is not a ULID.")
    return int(ulid[:10].translate(_TO_BASE_32), 32)
