"""The form of everything that may leave a region: default deny, by what was asked.

This is the half of the egress guard that needs neither plan nor log: exact fields, exact types,
closed lists and lengths. The engine's guard (`client.engine.egress`) judges by it, and by what is
sealed, charged and logged, before an answer reaches its socket; a region's relay judges by it what
a bundle gives it to send. Where a field's length were free, it could carry a record.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.canonical_json import JsonValue
from common.double_masking.shamir import SHARE_BYTES
from common.egress_fields import (
    Check,
    base64_of,
    by_region,
    consistency_proofs,
    cosignatures,
    count,
    count_of_lines,
    decimal,
    digest_pair,
    few,
    hex_of,
    masked_before,
    mechanism,
    note,
    ok,
    positive,
    proof,
    record_of,
    run_id,
    text,
    time,
)
from common.egress_reasons import REASONS
from common.errors import FedprefError, FormatError
from common.parameters import DTYPES
from common.validate import exact_fields, matching, party, sha256_hex

#: The most bytes that all arrays of one answer may have, and how many they may be, as in a message.
MAX_ARRAYS_BYTES = 256 << 20
MAX_ARRAYS = 64

_MAX_ENTRY_BYTES = 65_535
_MAX_STATEMENT_BYTES = 4096
_SIGNATURE_BYTES = 64
# Two shares, sealed by ChaCha20-Poly1305.
_CIPHERTEXT_BYTES = 2 * SHARE_BYTES + 16
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,127}")

Header = Mapping[str, JsonValue]
Arrays = Mapping[str, np.ndarray]


class EgressRefusedError(FedprefError):
    """What was about to leave the region is not what may; it stays."""


@dataclass(frozen=True)
class ArrayLimit:
    """What an array of a name may be at most.

    Attributes:
        dtypes: Its element types, of `common.parameters.DTYPES`.
        shape: The greatest length of each axis.
    """

    dtypes: frozenset[str]
    shape: tuple[int, ...]


def check_form(
    method: str, header: Header, arrays: Arrays, limits: Mapping[str, ArrayLimit] | None = None
) -> None:
    """Checks that an answer has the form of a method's answers, and no more.

    Args:
        method: What was asked.
        header: The answer's header.
        arrays: Its arrays.
        limits: By name, what arrays may be at all in this region; None for any name of ours.

    Raises:
        EgressRefusedError: Says what is wrong with it, without repeating a value.
    """
    try:
        if header.get("status") == "refused":
            _check_refusal(header, arrays)
        elif method in _FORMS:
            takes_arrays = _FORMS[method](header)
            _check_arrays(arrays, takes_arrays=takes_arrays, limits=limits)
        else:
            raise FormatError("There is no such method.")
    except FormatError as error:
        raise EgressRefusedError(
            f"An answer to {method[:32]!r} has not the form of one: {error.message}",
            remedy="Nothing left. This is a defect, or an attack: look into the region's log.",
        ) from error


def _check_refusal(header: Header, arrays: Arrays) -> None:
    # The relay's own refusals name no region.
    names = {"status", "reason"} | ({"region"} & header.keys())
    fields = exact_fields(dict(header), names, "A refusal")
    if type(fields["reason"]) is not str or fields["reason"] not in REASONS:
        raise FormatError("The reason is none of the codes that may leave.")
    if "region" in fields:
        party(fields["region"], "region")
    if arrays:
        raise FormatError("A refusal has arrays.")


def _check_arrays(
    arrays: Arrays, *, takes_arrays: bool, limits: Mapping[str, ArrayLimit] | None
) -> None:
    if bool(arrays) and not takes_arrays:
        raise FormatError("It has arrays, where none may be.")
    if len(arrays) > MAX_ARRAYS:
        raise FormatError(f"It has more than {MAX_ARRAYS} arrays.")
    for name, values in arrays.items():
        matching(name, _NAME, "An array's name", "a lower-case identifier")
        if type(values) is not np.ndarray or values.dtype.str not in DTYPES:
            raise FormatError("An array has elements of a type that is not exchanged.")
        if limits is not None and not _within(values, limits.get(name)):
            raise FormatError("An array is none that this region's policy lets out.")
    if sum(values.nbytes for values in arrays.values()) > MAX_ARRAYS_BYTES:
        raise FormatError(f"Its arrays have more than {MAX_ARRAYS_BYTES} bytes.")


def _within(values: np.ndarray, limit: ArrayLimit | None) -> bool:
    return (
        limit is not None
        and values.dtype.str in limit.dtypes
        and len(values.shape) == len(limit.shape)
        and all(length <= most for length, most in zip(values.shape, limit.shape, strict=True))
        and math.prod(values.shape) > 0
    )


# The answers, method by method. Each check gives whether arrays may come along.


def _describe(header: Header) -> bool:
    checks: dict[str, Check] = {
        "region": party,
        "protocol": count,
        "engine": sha256_hex,
        "trainer_key": sha256_hex,
    }
    _fields(header, checks)
    return False


def _publish(header: Header) -> bool:
    _fields(header, {**_OK, "checkpoint": note, "proofs": consistency_proofs})
    return False


def _cosign(header: Header) -> bool:
    _fields(header, {**_OK, "cosignatures": cosignatures})
    return False


def _keep(header: Header) -> bool:
    _fields(header, {**_OK, "kept": count_of_lines})
    return False


def _done(header: Header) -> bool:
    _fields(header, _OK)
    return False


def _train(header: Header) -> bool:
    checks: dict[str, Check] = {
        **_CONTEXT,
        **_LOGGED,
        "mechanism": mechanism,
        "update": sha256_hex,
        "round_entry": _base64_entry,
    }
    for extra in _IN_PLACE_OF_THE_UPDATE:
        if extra.keys() & header.keys():
            _fields(header, {**checks, **extra})
            return False
    _fields(header, checks)
    return True


def _mask(header: Header) -> bool:
    _fields(
        header,
        {
            **_CONTEXT,
            **_LOGGED,
            "roster": sha256_hex,
            "masked": sha256_hex,
            "mask_entry": _mask_parts,
        },
    )
    return True


def _execute(header: Header) -> bool:
    step = header.get("step")
    if not isinstance(step, str) or step not in _STEPS:
        raise FormatError("An execution has no such step.")
    _fields(header, {**_CONTEXT, "step": text, **_STEPS[step]})
    return step == "mask"


def _fields(header: Header, checks: Mapping[str, Check]) -> None:
    fields = exact_fields(dict(header), checks.keys(), "The answer")
    for name, check in checks.items():
        check(fields[name], name)


_base64_entry = base64_of(_MAX_ENTRY_BYTES)
_mask_parts = record_of(
    {
        "norm_bound": decimal,
        "time": time,
        "key_id": sha256_hex,
        "signature": base64_of(_SIGNATURE_BYTES, _SIGNATURE_BYTES),
    }
)
_OK: dict[str, Check] = {"status": ok, "region": party}
_CONTEXT: dict[str, Check] = {**_OK, "run": run_id, "round": positive, "attempt": positive}
_LOGGED: dict[str, Check] = {"leaf_index": count, "checkpoint": note, "inclusion_proof": proof}
_IN_PLACE_OF_THE_UPDATE: Sequence[dict[str, Check]] = (
    {"masking_key": base64_of(_MAX_STATEMENT_BYTES), "masked": masked_before},
    {"attempted": few},
)
_STEPS: dict[str, dict[str, Check]] = {
    "pin": {"keys": _base64_entry},
    "share": {
        "shares": record_of(
            {
                "statement": _base64_entry,
                "commitments": by_region(digest_pair),
                "ciphertexts": by_region(base64_of(_CIPHERTEXT_BYTES, _CIPHERTEXT_BYTES)),
            }
        )
    },
    "mask": {
        **_LOGGED,
        "roster": sha256_hex,
        "masked": sha256_hex,
        "mask_entry": _base64_entry,
    },
    "agree": {"agreement": _base64_entry},
    "unmask": {
        "reveal": record_of(
            {
                "seed_shares": by_region(hex_of(SHARE_BYTES)),
                "key_shares": by_region(hex_of(SHARE_BYTES)),
            }
        )
    },
}
_FORMS: dict[str, Callable[[Header], bool]] = {
    "describe": _describe,
    "publish": _publish,
    "cosign": _cosign,
    "keep": _keep,
    "train": _train,
    "mask": _mask,
    "execute": _execute,
    # The relay's own questions, which no bundle can ask.
    "admit": _done,
    "report": _done,
}
#: What may be asked at all.
METHODS = frozenset(_FORMS)
