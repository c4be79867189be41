"""What single fields of an answer that leaves a region must be; see `common.egress_form`.

Each check takes a value and where it stands, and raises `FormatError` without repeating it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping

from common.audit.cosigners import MAX_LINE_CHARACTERS, MAX_LINES
from common.canonical_json import JsonValue
from common.double_masking.codec import MAX_REGIONS
from common.errors import FormatError
from common.validate import (
    DECIMAL,
    array,
    exact_fields,
    matching,
    party,
    sha256_hex,
    timestamp,
    whole_number,
)

#: As many as a request may ask about.
MAX_CHECKPOINTS = 256
#: A log's origin: one word of printable ASCII, without what notes give a meaning of its own.
ORIGIN = re.compile(r"[!-*,-~]{1,256}")

_MAX_NOTE = 16 * 1024
_MAX_PROOF = 64
# As many as a plan may have.
_MAX_REGIONS = 10_000
_MOST_ATTEMPTS = 1000
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_MECHANISM = re.compile(r"[a-z][a-z-]{0,63}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
# A signature line of a note: a dash, a name, base64.
_LINE = re.compile(r"— [!-*,-~]{1,256} [0-9A-Za-z+/]{4,512}={0,2}\n")
# A log's origin, a size, a root hash, and signatures.
_NOTE = re.compile(
    rf"{ORIGIN.pattern}\n(?:{_NUMBER.pattern})\n[0-9A-Za-z+/]{{43}}=\n\n(?:{_LINE.pattern}){{1,66}}"
)

Check = Callable[[JsonValue, str], object]


def ok(value: JsonValue, where: str) -> None:
    """The status of an answer that is no refusal."""
    if value != "ok" or type(value) is not str:
        raise FormatError(f"The {where} is neither ok nor refused.")


def text(value: JsonValue, where: str) -> None:
    """Any text: its value is judged elsewhere."""
    if type(value) is not str:
        raise FormatError(f"{where} is no text.")


def count(value: JsonValue, where: str) -> None:
    """A whole number from 0."""
    whole_number(value, where, least=0)


def positive(value: JsonValue, where: str) -> None:
    """A whole number from 1."""
    whole_number(value, where, least=1)


def few(value: JsonValue, where: str) -> None:
    """A number of attempts."""
    if whole_number(value, where, least=0) > _MOST_ATTEMPTS:
        raise FormatError(f"{where} is more than any honest round needs.")


def count_of_lines(value: JsonValue, where: str) -> None:
    """A number of cosignatures."""
    if whole_number(value, where, least=0) > MAX_LINES:
        raise FormatError(f"{where} is more than there can be.")


def run_id(value: JsonValue, where: str) -> None:
    """A run's id."""
    matching(value, _RUN, where, "a run's id")


def note(value: JsonValue, where: str) -> None:
    """A signed checkpoint."""
    if len(matching(value, _NOTE, where, "a signed checkpoint")) > _MAX_NOTE:
        raise FormatError(f"{where} is longer than a signed checkpoint.")


def signature_line(value: JsonValue, where: str) -> None:
    """One signature line of a note."""
    if len(matching(value, _LINE, where, "a signature line")) > MAX_LINE_CHARACTERS:
        raise FormatError(f"{where} is longer than a signature line.")


def proof(value: JsonValue, where: str) -> None:
    """A Merkle proof, as hashes in hex."""
    nodes = array(value, where)
    if len(nodes) > _MAX_PROOF:
        raise FormatError(f"{where} is longer than any can be.")
    for node in nodes:
        sha256_hex(node, where)


def consistency_proofs(value: JsonValue, where: str) -> None:
    """Proofs by the size that each begins at."""
    if type(value) is not dict or len(value) > MAX_CHECKPOINTS:
        raise FormatError(f"{where} is no object of proofs.")
    for size, nodes in value.items():
        matching(size, _NUMBER, where, "proofs by size")
        proof(nodes, where)


def cosignatures(value: JsonValue, where: str) -> None:
    """What a witness says of each checkpoint that it was asked about."""
    items = array(value, where)
    if len(items) > MAX_CHECKPOINTS:
        raise FormatError(f"{where} are more than were asked for.")
    for item in items:
        signed = isinstance(item, dict) and "line" in item
        fields = exact_fields(item, {"origin", "size", "line" if signed else "refused"}, where)
        matching(fields["origin"], ORIGIN, where, "of a log's origin")
        whole_number(fields["size"], where, least=0)
        if signed:
            signature_line(fields["line"], where)
        elif fields["refused"] not in ("stale", "conflict", "invalid"):
            raise FormatError(f"{where} has a refusal of another kind.")


def base64_of(most: int, exactly: int | None = None) -> Check:
    """A check of base64, in its one form, of at most or exactly so many bytes."""

    def check(value: JsonValue, where: str) -> None:
        if type(value) is not str or len(value) > 4 * (most // 3 + 1):
            raise FormatError(f"{where} is not base64 of moderate length.")
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise FormatError(f"{where} is not base64.") from error
        if base64.b64encode(data).decode() != value:
            raise FormatError(f"{where} is not base64 in its one form.")
        if len(data) > most or (exactly is not None and len(data) != exactly):
            raise FormatError(f"{where} is not as long as it must be.")

    return check


def hex_of(exactly: int) -> Check:
    """A check of so many bytes in lower-case hex."""

    def check(value: JsonValue, where: str) -> None:
        if len(matching(value, _HEX, where, "lower-case hex")) != 2 * exactly:
            raise FormatError(f"{where} is not {exactly} bytes in hex.")

    return check


def by_region(each: Check) -> Check:
    """A check of an object that has something for each of some regions."""

    def check(value: JsonValue, where: str) -> None:
        if type(value) is not dict or len(value) > MAX_REGIONS:
            raise FormatError(f"{where} is no object of at most {MAX_REGIONS} regions.")
        for region, item in value.items():
            party(region, where)
            each(item, where)

    return check


def record_of(checks: Mapping[str, Check]) -> Check:
    """A check of an object with exactly these fields."""

    def check(value: JsonValue, where: str) -> None:
        fields = exact_fields(value, checks.keys(), where)
        for name, each in checks.items():
            each(fields[name], f"{where}.{name}")

    return check


def digest_pair(value: JsonValue, where: str) -> None:
    """Two digests."""
    digests = array(value, where)
    if len(digests) != 2:
        raise FormatError(f"{where} is not of two digests.")
    for digest in digests:
        sha256_hex(digest, where)


def masked_before(value: JsonValue, where: str) -> None:
    """Which regions the newest attempt was of, or null."""
    if value is None:
        return
    fields = exact_fields(value, {"attempt", "regions"}, where)
    positive(fields["attempt"], where)
    regions = array(fields["regions"], where)
    if len(regions) > _MAX_REGIONS:
        raise FormatError(f"{where} names more regions than a plan has.")
    for region in regions:
        matching(region, _RUN, where, "a region's name")


def time(value: JsonValue, where: str) -> None:
    """A time of records' one form."""
    timestamp(value, where)


def decimal(value: JsonValue, where: str) -> None:
    """A decimal number as records write it."""
    matching(value, DECIMAL, where, "a decimal number")


def mechanism(value: JsonValue, where: str) -> None:
    """A mechanism's name."""
    matching(value, _MECHANISM, where, "a mechanism's name")
