"""One key of the registry: its owner, its role and when it is valid."""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.canonical_json import JsonValue
from common.errors import FormatError, VerificationError
from common.signatures import check_public_key
from common.signatures import key_id as id_of
from common.timestamps import format_time
from common.validate import exact_fields, party, sha256_hex, timestamp

#: What a key may be for; root keys stand apart, in the registry's ``root``.
ROLES = frozenset(
    {
        "log",
        "consent",
        "trainer",
        "aggregator",
        "witness",
        "permit",
        "controller",
        "requester",
        "approver",
    }
)

_FIELDS = frozenset(
    {"key_id", "public_key", "party", "role", "not_before", "not_after", "revoked_at"}
)


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key of the registry.

    Attributes:
        key_id: The key's id.
        public_key: 32 bytes.
        party: Whose it is: "server", or a region's name.
        role: One of `ROLES`.
        not_before_ms: Valid from then on, in milliseconds since the epoch.
        not_after_ms: Valid until just before then.
        revoked_at_ms: Revoked from then on, or None.
    """

    key_id: str
    public_key: bytes
    party: str
    role: str
    not_before_ms: int
    not_after_ms: int
    revoked_at_ms: int | None

    def to_record(self) -> dict[str, JsonValue]:
        """The fields as a registry record has them."""
        revoked = self.revoked_at_ms
        return {
            "key_id": self.key_id,
            "public_key": self.public_key.hex(),
            "party": self.party,
            "role": self.role,
            "not_before": format_time(self.not_before_ms),
            "not_after": format_time(self.not_after_ms),
            "revoked_at": None if revoked is None else format_time(revoked),
        }

    def is_valid_at(self, at_ms: int) -> bool:
        """Whether it may act at a time: within its validity, and not revoked by then."""
        revoked = self.revoked_at_ms
        return self.not_before_ms <= at_ms < self.not_after_ms and (
            revoked is None or at_ms < revoked
        )

    def continues(self, earlier: KeyEntry) -> bool:
        """Whether this may follow ``earlier`` in a later version: nothing but a revocation.

        A revocation may be dated back (a theft is found late), never taken back or postponed.
        """
        if self.revoked_at_ms is None:
            return self == earlier
        if earlier.revoked_at_ms is not None and self.revoked_at_ms > earlier.revoked_at_ms:
            return False
        return replace(self, revoked_at_ms=None) == replace(earlier, revoked_at_ms=None)


def parse_key_entry(value: JsonValue) -> KeyEntry:
    """Reads one key of a registry record.

    Raises:
        FormatError: A field is missing, unknown or malformed.
        VerificationError: The key is not sound, or its id is another key's.
    """
    fields = exact_fields(value, _FIELDS, "A registry key")
    identity, public_key = parse_public_key(fields["key_id"], fields["public_key"])
    where = f"The registry key {identity[:16]}…"
    role = fields["role"]
    if type(role) is not str or role not in ROLES:
        raise FormatError(f"{where} has none of the roles {', '.join(sorted(ROLES))}.")
    _, not_before = timestamp(fields["not_before"], f"{where}: not_before")
    _, not_after = timestamp(fields["not_after"], f"{where}: not_after")
    if not_before >= not_after:
        raise FormatError(f"{where} is never valid: not_before is not before not_after.")
    revoked = fields["revoked_at"]
    return KeyEntry(
        key_id=identity,
        public_key=public_key,
        party=party(fields["party"], f"{where}: party"),
        role=role,
        not_before_ms=not_before,
        not_after_ms=not_after,
        revoked_at_ms=None if revoked is None else timestamp(revoked, f"{where}: revoked_at")[1],
    )


def parse_public_key(key_id: JsonValue, public_key: JsonValue) -> tuple[str, bytes]:
    """Reads a key id and the public key it names.

    Raises:
        FormatError: Either is not 64 lower-case hex digits.
        VerificationError: The key is not sound, or the id is another key's.
    """
    identity = sha256_hex(key_id, "key_id")
    # A public key and a SHA-256 have the same form: 32 bytes in lower-case hex.
    raw = bytes.fromhex(sha256_hex(public_key, "public_key"))
    if id_of(raw) != identity:
        raise VerificationError(f"The key id {identity[:16]}… is not that of its public key.")
    check_public_key(raw)
    return identity, raw
