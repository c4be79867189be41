"""Who takes part in an execution: the regions' keys first, their shares' commitments then."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from common import canonical_json
from common.canonical_json import JsonValue
from common.double_masking.records import (
    KEYS,
    Execution,
    Statement,
    bytes32,
    open_statement,
    require_survivors,
    threshold_of,
)
from common.keys import Registry
from common.secure_aggregation import SecureSumRefusedError
from common.secure_aggregation.key_agreement import is_canonical
from common.validate import sha256_hex

_MAX_BYTES = 1 << 18


@dataclass(frozen=True)
class KeyRoster:
    """The regions that pinned their keys, by name in order.

    Attributes:
        statements: Their ``execution-keys``, checked.
    """

    statements: tuple[Statement, ...]

    @cached_property
    def regions(self) -> tuple[str, ...]:
        """The regions, in order; a share's place is the holder's in it, from 1."""
        return tuple(each.region for each in self.statements)

    @property
    def threshold(self) -> int:
        """How many shares a secret takes; reckoned from the roster, never told."""
        return threshold_of(len(self.statements))

    @cached_property
    def digest(self) -> str:
        """SHA-256 that stands for all keys and whose they are, in hex."""
        return digest_of("fedpref-key-roster/1", self.statements)

    def place(self, region: str) -> int:
        """The place of a region's shares, from 1."""
        return self.regions.index(region) + 1

    def key(self, region: str, field: str) -> bytes:
        """A region's ``masking_key`` or ``sharing_key``."""
        return bytes32(self.statements[self.place(region) - 1], field)


def read_key_roster(
    envelopes: Sequence[bytes], execution: Execution, registry: Registry, *, at_ms: int
) -> KeyRoster:
    """Checks the keys of all regions of an execution.

    Raises:
        FormatError: A record is malformed.
        SecureSumRefusedError: As `open_statement`; ``region-twice``; ``key-shared`` if two keys of
            whatever kind are the same; ``key-weak``; ``too-few-survivors``.
    """
    statements = sorted(
        (open_statement(data, KEYS, execution, registry, at_ms=at_ms) for data in envelopes),
        key=lambda each: each.region,
    )
    if len({each.region for each in statements}) != len(statements):
        raise SecureSumRefusedError("region-twice", "The roster names a region twice.")
    keys = [bytes32(each, name) for each in statements for name in ("masking_key", "sharing_key")]
    if len(set(keys)) != len(keys):
        raise SecureSumRefusedError("key-shared", "Two of the regions' keys are the same.")
    if not all(is_canonical(key) for key in keys):
        raise SecureSumRefusedError("key-weak", "A key has another encoding than its own.")
    for each in statements:
        sha256_hex(each.record["round_entry"], "round_entry")
    roster = KeyRoster(tuple(statements))
    require_survivors(roster.regions, execution, len(statements))
    return roster


def digest_of(version: str, statements: Sequence[Statement]) -> str:
    """SHA-256 of what regions signed, by region in order, in hex."""
    payloads: list[JsonValue] = [
        hashlib.sha256(canonical_json.encode(each.record, max_bytes=1 << 16)).hexdigest()
        for each in sorted(statements, key=lambda each: each.region)
    ]
    record: dict[str, JsonValue] = {"v": version, "statements": payloads}
    return hashlib.sha256(canonical_json.encode(record, max_bytes=_MAX_BYTES)).hexdigest()
