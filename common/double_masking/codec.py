"""The messages of an execution as JSON values, which is how they travel: both ways, strictly."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence

from common.canonical_json import JsonValue
from common.double_masking.messages import Reveal, SharesGiven
from common.double_masking.shamir import SHARE_BYTES
from common.double_masking.sharing import Delivery
from common.errors import FormatError
from common.validate import array, exact_fields, matching

#: As many as a sum may be of; and what each of its parts may take.
MAX_REGIONS = 128
_MAX_BYTES = 1 << 16
_DIGEST_BYTES = 32
_MAX_PROOF = 8
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def envelopes_to_json(envelopes: Sequence[bytes]) -> list[JsonValue]:
    """Signed records."""
    return [base64.b64encode(each).decode() for each in envelopes]


def envelopes_from_json(value: JsonValue) -> list[bytes]:
    """Reads them.

    Raises:
        FormatError: They are none, or too many.
    """
    items = array(value, "The records")
    if len(items) > MAX_REGIONS:
        raise FormatError(f"There are more than {MAX_REGIONS} records.")
    return [bytes_from_json(item) for item in items]


def bytes_to_json(data: bytes) -> JsonValue:
    """Bytes, as base64."""
    return base64.b64encode(data).decode()


def bytes_from_json(value: JsonValue) -> bytes:
    """Reads them.

    Raises:
        FormatError: It is not base64, or too long.
    """
    if not isinstance(value, str) or len(value) > 2 * _MAX_BYTES:
        raise FormatError("A field is not base64 of moderate length.")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("A field is not base64.") from error


def shares_to_json(given: SharesGiven) -> dict[str, JsonValue]:
    """What a region shares."""
    return {
        "statement": bytes_to_json(given.statement),
        "commitments": {
            holder: [key.hex(), seed.hex()] for holder, (key, seed) in given.commitments.items()
        },
        "ciphertexts": {holder: bytes_to_json(each) for holder, each in given.ciphertexts.items()},
    }


def shares_from_json(value: JsonValue) -> SharesGiven:
    """Reads it.

    Raises:
        FormatError: It is malformed.
    """
    fields = exact_fields(value, {"statement", "commitments", "ciphertexts"}, "The shares")
    commitments: dict[str, tuple[bytes, bytes]] = {}
    for holder, pair in _by_region(fields["commitments"]).items():
        digests = [_hex(item, _DIGEST_BYTES) for item in array(pair, "A commitment")]
        if len(digests) != 2:
            raise FormatError("A commitment is not to two shares.")
        commitments[holder] = (digests[0], digests[1])
    return SharesGiven(
        statement=bytes_from_json(fields["statement"]),
        commitments=commitments,
        ciphertexts={
            holder: bytes_from_json(each)
            for holder, each in _by_region(fields["ciphertexts"]).items()
        },
    )


def deliveries_to_json(deliveries: Mapping[str, Delivery]) -> dict[str, JsonValue]:
    """What a holder gets of all owners."""
    return {
        owner: {
            "statement": bytes_to_json(each.statement),
            "proof": [node.hex() for node in each.proof],
            "ciphertext": None if each.ciphertext is None else bytes_to_json(each.ciphertext),
        }
        for owner, each in deliveries.items()
    }


def deliveries_from_json(value: JsonValue) -> dict[str, Delivery]:
    """Reads it.

    Raises:
        FormatError: It is malformed.
    """
    deliveries: dict[str, Delivery] = {}
    for owner, item in _by_region(value).items():
        fields = exact_fields(item, {"statement", "proof", "ciphertext"}, "A delivery")
        proof = array(fields["proof"], "A proof")
        if len(proof) > _MAX_PROOF:
            raise FormatError("A proof is longer than any can be.")
        ciphertext = fields["ciphertext"]
        deliveries[owner] = Delivery(
            statement=bytes_from_json(fields["statement"]),
            proof=tuple(_hex(node, _DIGEST_BYTES) for node in proof),
            ciphertext=None if ciphertext is None else bytes_from_json(ciphertext),
        )
    return deliveries


def reveal_to_json(reveal: Reveal) -> dict[str, JsonValue]:
    """What a region gives up."""
    return {
        "seed_shares": {owner: share.hex() for owner, share in reveal.seed_shares.items()},
        "key_shares": {owner: share.hex() for owner, share in reveal.key_shares.items()},
    }


def reveal_from_json(value: JsonValue) -> Reveal:
    """Reads it.

    Raises:
        FormatError: It is malformed.
    """
    fields = exact_fields(value, {"seed_shares", "key_shares"}, "What is given up")
    seeds, keys = (
        {owner: _hex(share, SHARE_BYTES) for owner, share in _by_region(fields[name]).items()}
        for name in ("seed_shares", "key_shares")
    )
    return Reveal(seed_shares=seeds, key_shares=keys)


def _by_region(value: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(value, dict) or len(value) > MAX_REGIONS:
        raise FormatError(f"A field is no object of at most {MAX_REGIONS} regions.")
    return value


def _hex(value: JsonValue, n_bytes: int) -> bytes:
    # Without the form, spaces would pass, and stand for fewer bytes.
    text = matching(value, _HEX, "A field", "bytes in lower-case hex")
    if len(text) != 2 * n_bytes:
        raise FormatError(f"A field is not {n_bytes} bytes in lower-case hex.")
    return bytes.fromhex(text)
