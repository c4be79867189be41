"""The key registry: which key is whose, for what, and until when (``fedpref-keys/1``).

An offline root key set signs every version, with a threshold. A version names its own root keys
and counts only if a threshold of the *previous* version's root and a threshold of its own root
signed it (The Update Framework, 5.3.4: root rotation). Versions are chained by digest.

A threshold is always more than half of the root keys: two different successors of one version
then share a signer, so that a fork convicts a key. Between versions a key may be added or revoked
(or its revocation dated back) and nothing else: what was once verifiable stays so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from common.canonical_json import JsonValue
from common.envelope import Envelope, verify_envelope
from common.errors import FormatError, VerificationError
from common.key_entry import KeyEntry, parse_key_entry, parse_public_key
from common.signatures import key_id as id_of
from common.validate import array, exact_fields, line, sha256_hex, timestamp, whole_number

#: A registry of a few thousand keys; a logged version must also fit a log entry.
MAX_REGISTRY_BYTES = 1 << 20

_FIELDS = frozenset(
    {"v", "federation", "registry_version", "issued_at", "prev", "witness_quorum", "root", "keys"}
)
_ROOT_FIELDS = frozenset({"threshold", "keys"})
_ROOT_KEY_FIELDS = frozenset({"key_id", "public_key"})


@dataclass(frozen=True)
class _Version:
    """One parsed version; ``root`` maps key ids to public keys."""

    federation: str
    number: int
    issued_at_ms: int
    prev: str | None
    witness_quorum: int
    threshold: int
    root: Mapping[str, bytes]
    entries: Mapping[str, KeyEntry]


class Registry:
    """A verified key registry, at its newest version; made by `from_envelopes` only.

    Attributes:
        federation: The federation's name.
        version: The newest version's number.
        issued_at_ms: When the newest version was issued, in milliseconds since the epoch.
        head_sha256: The digest of the newest envelope: what the next version's ``prev`` must be.
        witness_quorum: How many other parties must cosign a checkpoint for it to count.
        root_keys: The newest root's public keys by key id.
        root_key_ids: The newest root's key ids.
        root_threshold: How many of them must sign.
        entries: All keys, in the newest version's order.
    """

    def __init__(self, version: _Version, head_sha256: str) -> None:
        self.federation = version.federation
        self.version = version.number
        self.issued_at_ms = version.issued_at_ms
        self.head_sha256 = head_sha256
        self.witness_quorum = version.witness_quorum
        self.root_keys = version.root
        self.root_key_ids = frozenset(version.root)
        self.root_threshold = version.threshold
        self.entries = tuple(version.entries.values())
        self._by_id = version.entries
        by_role: dict[tuple[str, str], list[KeyEntry]] = {}
        for entry in self.entries:
            by_role.setdefault((entry.party, entry.role), []).append(entry)
        self._by_role = {of: tuple(entries) for of, entries in by_role.items()}
        self._version = version

    @classmethod
    def from_envelopes(
        cls, envelopes: Sequence[bytes], *, root_key_ids: Collection[str] | None
    ) -> Registry:
        """Verifies all versions, oldest first.

        Args:
            envelopes: The bytes of versions 1, 2, … without a gap.
            root_key_ids: The key ids of version 1's root keys, known from elsewhere (the trust
                anchor); they must be exactly those. None trusts version 1 as it is found, which
                proves consistency but not whose federation it is.

        Raises:
            FormatError: A version is malformed.
            VerificationError: A version does not verify; its number is named.
        """
        if not envelopes:
            raise VerificationError("The key registry has no version.")
        previous: _Version | None = None
        head: str | None = None
        for number, data in enumerate(envelopes, start=1):
            try:
                envelope = Envelope.decode(data, max_bytes=MAX_REGISTRY_BYTES)
                version = _parse_version(envelope.record())
                _check_succession(version, previous, number, head)
                _check_signatures(envelope, version, previous)
            except FormatError as error:
                raise FormatError(f"Key registry version {number}: {error}") from error
            except VerificationError as error:
                raise VerificationError(f"Key registry version {number}: {error}") from error
            if number == 1 and root_key_ids is not None:
                _check_anchor(version, root_key_ids)
            previous, head = version, hashlib.sha256(data).hexdigest()
        if previous is None or head is None:  # never: there is a first version
            raise VerificationError("The key registry has no version.")
        return cls(previous, head)

    @classmethod
    def unsigned(cls, record: JsonValue, previous: Registry | None) -> Registry:
        """Checks a version that nobody has signed yet, for those who are asked to.

        All rules hold but those about signatures.

        Args:
            record: What is to be signed.
            previous: The verified registry that it follows; None for version 1.

        Raises:
            FormatError: The record is malformed.
            VerificationError: A key is not sound, or the version may not follow ``previous``.
        """
        version = _parse_version(record)
        if previous is None:
            _check_succession(version, None, 1, None)
        else:
            _check_succession(
                version, previous._version, previous.version + 1, previous.head_sha256
            )
        return cls(version, "")

    def find(self, key_id: str, *, party: str, role: str, at_ms: int) -> bytes:
        """Gives a key's public bytes if it may act for this party in this role at this time.

        Args:
            key_id: The key's id.
            party: Who acts.
            role: What for, one of `ROLES`.
            at_ms: When, in milliseconds since the epoch. To hold against backdating this is the
                time of a checkpoint, cosigned by others, that covers the signature; a time that
                the signer states only shows what the signer claims.

        Raises:
            VerificationError: The key is unknown, another's, of another role, not yet or no
                longer valid, or revoked.
        """
        entry = self._by_id.get(key_id)
        name = f"The key {key_id[:16]}…"
        if entry is None:
            raise VerificationError(f"{name} is not in the key registry.")
        if entry.party != party:
            raise VerificationError(f"{name} belongs to {entry.party}, not to {party}.")
        if entry.role != role:
            raise VerificationError(f"{name} has the role {entry.role}, not {role}.")
        if at_ms < entry.not_before_ms:
            raise VerificationError(f"{name} was not valid yet at that time.")
        if at_ms >= entry.not_after_ms:
            raise VerificationError(f"{name} was no longer valid at that time.")
        if entry.revoked_at_ms is not None and at_ms >= entry.revoked_at_ms:
            raise VerificationError(f"{name} was revoked before that time.")
        return entry.public_key

    def keys_of(self, party: str, role: str) -> tuple[KeyEntry, ...]:
        """All keys of a party for a role, valid now or not: `find` judges the time."""
        return self._by_role.get((party, role), ())


def build_registry(
    *,
    federation: str,
    registry_version: int,
    issued_at: str,
    prev: str | None,
    threshold: int,
    witness_quorum: int,
    root_public_keys: Sequence[bytes],
    keys: Sequence[Mapping[str, JsonValue]],
) -> dict[str, JsonValue]:
    """Makes the record of one registry version, to be signed by the root keys.

    Args:
        federation: The federation's name.
        registry_version: 1, 2, …
        issued_at: When, as `common.timestamps` states times.
        prev: `Registry.head_sha256` of the version before; None for version 1.
        threshold: How many root keys must sign: more than half of them.
        witness_quorum: How many other parties must cosign a checkpoint for it to count.
        root_public_keys: This version's root keys.
        keys: The fields of each key (`KeyEntry.to_record`).

    Raises:
        FormatError: A field is malformed.
        VerificationError: A key is not sound, or listed twice.
    """
    record: dict[str, JsonValue] = {
        "v": "fedpref-keys/1",
        "federation": federation,
        "registry_version": registry_version,
        "issued_at": issued_at,
        "prev": prev,
        "witness_quorum": witness_quorum,
        "root": {
            "threshold": threshold,
            "keys": [
                {"key_id": id_of(public_key), "public_key": public_key.hex()}
                for public_key in root_public_keys
            ],
        },
        "keys": [dict(entry) for entry in keys],
    }
    _parse_version(record)
    return record


def _parse_version(record: JsonValue) -> _Version:
    fields = exact_fields(record, _FIELDS, "The registry")
    if fields["v"] != "fedpref-keys/1":
        raise FormatError("The record is not a key registry (fedpref-keys/1).")
    root_fields = exact_fields(fields["root"], _ROOT_FIELDS, "root")
    root: dict[str, bytes] = {}
    for item in array(root_fields["keys"], "root.keys"):
        root_key = exact_fields(item, _ROOT_KEY_FIELDS, "A root key")
        identity, public_key = parse_public_key(root_key["key_id"], root_key["public_key"])
        if identity in root:
            raise VerificationError(f"The root key {identity[:16]}… is listed twice.")
        root[identity] = public_key
    threshold = whole_number(root_fields["threshold"], "root.threshold", least=1)
    if not len(root) < 2 * threshold <= 2 * len(root):
        raise VerificationError(
            f"The root threshold {threshold} is not more than half of its {len(root)} keys,"
            " or is more than all."
        )
    entries: dict[str, KeyEntry] = {}
    for item in array(fields["keys"], "keys"):
        entry = parse_key_entry(item)
        if entry.key_id in entries or entry.key_id in root:
            # One key, one purpose: a signature must never mean two things.
            raise VerificationError(f"The key {entry.key_id[:16]}… is listed twice.")
        entries[entry.key_id] = entry
    prev = fields["prev"]
    return _Version(
        federation=line(fields["federation"], "federation"),
        number=whole_number(fields["registry_version"], "registry_version", least=1),
        issued_at_ms=timestamp(fields["issued_at"], "issued_at")[1],
        prev=None if prev is None else sha256_hex(prev, "prev"),
        witness_quorum=whole_number(fields["witness_quorum"], "witness_quorum", least=0),
        threshold=threshold,
        root=MappingProxyType(root),
        entries=MappingProxyType(entries),
    )


def _check_succession(
    version: _Version, previous: _Version | None, number: int, head: str | None
) -> None:
    if version.number != number:
        raise VerificationError(f"It says it is version {version.number}.")
    if version.prev != head:
        raise VerificationError("Its prev is not the digest of the version before it.")
    if previous is None:
        return
    if version.federation != previous.federation:
        raise VerificationError("It is of another federation than the version before it.")
    if version.issued_at_ms < previous.issued_at_ms:
        raise VerificationError("It was issued before the version that it follows.")
    for identity, old in previous.entries.items():
        new = version.entries.get(identity)
        if new is None or not new.continues(old):
            raise VerificationError(
                f"It drops or changes the key {identity[:16]}…; a key may only be revoked."
            )


def _check_signatures(envelope: Envelope, version: _Version, previous: _Version | None) -> None:
    known = dict(version.root) if previous is None else {**previous.root, **version.root}
    signed = set(verify_envelope(envelope, known))
    for owner, judge in (("its own", version), ("the previous version's", previous)):
        if judge is None:
            continue
        count = len(signed & judge.root.keys())
        if count < judge.threshold:
            raise VerificationError(
                f"{count} of {owner} root keys signed it; {judge.threshold} are required."
            )


def _check_anchor(version: _Version, root_key_ids: Collection[str]) -> None:
    if version.root.keys() != set(root_key_ids):
        raise VerificationError(
            "Key registry version 1 has other root keys than those expected.",
            remedy="Compare the root key ids with the federation's; do not trust this registry.",
        )
