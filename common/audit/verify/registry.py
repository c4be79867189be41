"""Step 1: the chain of key registry versions, from the root keys down to every party's keys."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from common.audit.verify.cosigned import SettledEntries
from common.audit.verify.fields import Record
from common.audit.verify.files import BundleFolder
from common.audit.verify.records import REGISTRY_SCHEMA
from common.audit.verify.verdict import REGISTRY, Findings, RootKey
from common.envelope import Envelope, pae
from common.errors import FedprefError, FormatError, VerificationError
from common.keys import check_public_key, key_id, verify_signature
from common.timestamps import parse_time

REGISTRY_FOLDER = "registry"
_MAX_REGISTRY_BYTES = 1 << 20


@dataclass(frozen=True)
class RegisteredKey:
    """One key of the registry, bound to one party and one role.

    Attributes:
        key_id: Its id, in hex.
        public_key: 32 bytes; a valid point of prime order.
        party: Whose it is.
        role: What it may sign.
        not_before_ms: First moment of its validity, in milliseconds since the epoch.
        not_after_ms: Last moment of its validity.
        revoked_at_ms: The moment from which it counts no more, if any.
    """

    key_id: str
    public_key: bytes
    party: str
    role: str
    not_before_ms: int
    not_after_ms: int
    revoked_at_ms: int | None

    def valid_at(self, time_ms: int) -> bool:
        """Whether it counts at a time, in milliseconds since the epoch."""
        return self.not_before_ms <= time_ms <= self.not_after_ms and (
            self.revoked_at_ms is None or time_ms < self.revoked_at_ms
        )

    def check_time(self, own_ms: int | None, order_ms: int | None) -> None:
        """Checks that it was valid when a record was signed.

        Args:
            own_ms: The time the record states, if it states one.
            order_ms: The latest time that the log states before the record: a clock set back does
                not make a record older than what stands before it.

        Raises:
            VerificationError: It was not.
        """
        for time_ms in (own_ms, order_ms):
            if time_ms is None:
                continue
            if self.revoked_at_ms is not None and time_ms >= self.revoked_at_ms:
                raise VerificationError(f"The key {self.key_id[:12]}… had been revoked by then.")
            if time_ms > self.not_after_ms:
                raise VerificationError(f"The key {self.key_id[:12]}… had expired by then.")
        if own_ms is not None and own_ms < self.not_before_ms:
            raise VerificationError(f"The key {self.key_id[:12]}… was not yet valid.")


@dataclass(frozen=True)
class RegistryVersion:
    """One verified version of the registry.

    Attributes:
        sha256: Digest of its envelope.
        issued_ms: When it was issued, in milliseconds since the epoch.
        witness_quorum: How many other parties must cosign a checkpoint for it to count.
    """

    sha256: bytes
    issued_ms: int
    witness_quorum: int


class KeyRing:
    """The keys of a verified registry.

    Args:
        keys: The newest version's keys; earlier versions' are among them.
        versions: Every version, oldest first; at least one.
    """

    def __init__(self, keys: Iterable[RegisteredKey], versions: Sequence[RegistryVersion]) -> None:
        self._keys = {key.key_id: key for key in keys}
        self._versions = tuple(versions)
        self.versions = frozenset(version.sha256 for version in versions)

    @property
    def witness_quorum(self) -> int:
        """How many other parties must cosign a checkpoint, by the newest version."""
        return self._versions[-1].witness_quorum

    def quorum_at(self, time_ms: int) -> int:
        """How many other parties had to cosign a checkpoint at a time.

        What was logged under an earlier version is judged by that version: a federation that adds
        a witness does not thereby undo its history.
        """
        issued = [version for version in self._versions if version.issued_ms <= time_ms]
        return (issued or self._versions[:1])[-1].witness_quorum

    def party_of(self, key_id: str) -> str | None:
        """Whose key this is; None if it is not in the registry."""
        key = self._keys.get(key_id)
        return None if key is None else key.party

    @property
    def parties(self) -> frozenset[str]:
        """Who has a log key, thus a log."""
        return frozenset(key.party for key in self._keys.values() if key.role == "log")

    @property
    def keys(self) -> tuple[RegisteredKey, ...]:
        """All keys, in the newest version's order."""
        return tuple(self._keys.values())

    def keys_of(self, role: str, party: str | None = None) -> list[RegisteredKey]:
        """All keys of a role, of one party or of all."""
        return [
            key for key in self._keys.values() if key.role == role and party in (None, key.party)
        ]

    def check_signatures(
        self,
        envelope: Envelope,
        *,
        party: str,
        role: str,
        own_ms: int | None,
        order_ms: int | None = None,
        settled: SettledEntries | None = None,
        index: int = 0,
    ) -> None:
        """Checks that every signature of an envelope is by a key of this party and role.

        Args:
            envelope: The envelope.
            party: Who must have signed.
            role: The role the key must have.
            own_ms: The time the record states, if it states one.
            order_ms: The latest time stated before it.
            settled: Which entries of the record's log other parties saw before a revocation; None
                if it stands in no log.
            index: The record's index in that log.

        Raises:
            VerificationError: A signature is missing, repeated or bad, or its key is unknown,
                another party's, of another role, or was not valid then.
        """
        if not envelope.signatures:
            raise VerificationError("It is not signed.")
        message = pae(envelope.payload_type, envelope.payload)
        seen: set[str] = set()
        for signature in envelope.signatures:
            key = self._keys.get(signature.key_id)
            if key is None:
                raise VerificationError("It is signed by a key that is not in the registry.")
            if (key.party, key.role) != (party, role):
                raise VerificationError(
                    f"It is signed by the {key.role} key of {key.party}, not by the {role} key of "
                    f"{party}."
                )
            if key.key_id in seen:
                raise VerificationError("One key has signed it twice.")
            seen.add(key.key_id)
            if not verify_signature(key.public_key, message, signature.signature):
                raise VerificationError(f"Its signature by {key.key_id[:12]}… does not hold.")
            self.check_time(
                key.key_id, own_ms=own_ms, order_ms=order_ms, settled=settled, index=index
            )

    def check_time(
        self,
        key_id: str,
        *,
        own_ms: int | None,
        order_ms: int | None,
        settled: SettledEntries | None,
        index: int,
    ) -> None:
        """Checks that a key of the registry was valid when it signed; see `check_signatures`.

        Raises:
            VerificationError: It was not, or nobody else saw the entry before its revocation.
        """
        key = self._keys[key_id]
        key.check_time(own_ms, order_ms)
        revoked_ms = key.revoked_at_ms
        if revoked_ms and settled and not settled.covers(index, revoked_ms):
            raise VerificationError(
                f"The key {key.key_id[:12]}… was revoked, and no checkpoint that covers this "
                "entry was cosigned by enough other parties before."
            )


def verify_registry(
    folder: BundleFolder, federation: str | None, pinned: Collection[str], findings: Findings
) -> tuple[KeyRing | None, tuple[RootKey, ...]]:
    """Verifies every registry version of the bundle; a fault is recorded and gives no key ring.

    Args:
        folder: The bundle.
        federation: The federation the manifest names, if it is readable.
        pinned: Ids of root keys that the reader trusts; empty trusts those found.
        findings: Where failures go.
    """
    findings.begin(REGISTRY)
    chain = _Chain(federation)
    number = len(folder.list_folder(REGISTRY_FOLDER))
    for version in range(1, max(number, 1) + 1):
        name = f"{REGISTRY_FOLDER}/{version}.json"
        try:
            chain.extend(folder.read(name, max_bytes=_MAX_REGISTRY_BYTES))
        except FedprefError as error:
            findings.fail(REGISTRY, "registry", f"{name}: {error.message}", file=name)
            return None, chain.root_keys(pinned)
        findings.count(REGISTRY, "versions")
    findings.count(REGISTRY, "keys", len(chain.keys))
    if pinned and chain.signed_by(pinned) < chain.threshold:
        findings.fail(
            REGISTRY,
            "root-keys",
            f"Of the root keys you named, {chain.signed_by(pinned)} signed the newest registry; "
            f"{chain.threshold} must.",
            file=f"{REGISTRY_FOLDER}/{number}.json",
        )
        return None, chain.root_keys(pinned)
    if not pinned:
        findings.note(
            "The root keys were taken from the bundle itself: compare them with those you hold."
        )
    return KeyRing(chain.keys.values(), chain.versions), chain.root_keys(pinned)


class _Chain:
    """Registry versions, each checked against the one before."""

    def __init__(self, federation: str | None) -> None:
        self._federation = federation
        self._roots: dict[str, bytes] = {}
        self._signers: frozenset[str] = frozenset()
        self.threshold = 0
        self.keys: dict[str, RegisteredKey] = {}
        self.versions: list[RegistryVersion] = []

    def root_keys(self, pinned: Collection[str]) -> tuple[RootKey, ...]:
        return tuple(RootKey(key, key in pinned) for key in sorted(self._roots))

    def signed_by(self, pinned: Collection[str]) -> int:
        """How many of some keys signed the newest version as roots of it."""
        return len(self._signers & self._roots.keys() & set(pinned))

    def extend(self, data: bytes) -> None:
        envelope = Envelope.decode(data, max_bytes=_MAX_REGISTRY_BYTES)
        if envelope.kind != "keys":
            raise FormatError(f"It is a {envelope.kind}, not a key registry.")
        record = envelope.record()
        REGISTRY_SCHEMA(record, "")
        self._check_order(record)
        roots, threshold = _roots(record["root"])
        signers = _signers(envelope, self._roots | roots)
        if len(signers & roots.keys()) < threshold:
            raise VerificationError(f"Fewer than {threshold} of its root keys signed it.")
        if len(signers & self._roots.keys()) < self.threshold:
            raise VerificationError(f"Fewer than {self.threshold} of the earlier root signed it.")
        keys = _keys(record["keys"])
        if roots.keys() & keys.keys():
            raise VerificationError("A root key has another role as well.")
        _check_kept(self.keys, keys)
        self._roots, self.threshold, self._signers = roots, threshold, signers
        self.keys = keys
        quorum = record["witness_quorum"]
        self.versions.append(
            RegistryVersion(
                sha256=hashlib.sha256(data).digest(),
                issued_ms=parse_time(str(record["issued_at"])),
                witness_quorum=quorum if isinstance(quorum, int) else 0,
            )
        )

    def _check_order(self, record: Record) -> None:
        version = len(self.versions) + 1
        if record["registry_version"] != version:
            raise VerificationError(f"It is not version {version}.")
        last = self.versions[-1] if self.versions else None
        if record["prev"] != (last.sha256.hex() if last else None):
            raise VerificationError("It does not name the digest of the version before.")
        if self._federation is None:
            self._federation = str(record["federation"])
        if record["federation"] != self._federation:
            raise VerificationError("It is the registry of another federation.")
        if last and parse_time(str(record["issued_at"])) < last.issued_ms:
            raise VerificationError("It was issued before the version before.")


def _roots(value: object) -> tuple[dict[str, bytes], int]:
    root = value if isinstance(value, dict) else {}
    keys = {item["key_id"]: _public_key(item) for item in root["keys"]}
    threshold = root["threshold"]
    if len(keys) != len(root["keys"]) or not 1 <= threshold <= len(keys):
        raise VerificationError("Its root keys are repeated, or fewer than their threshold.")
    return keys, threshold


def _signers(envelope: Envelope, roots: Mapping[str, bytes]) -> frozenset[str]:
    message = pae(envelope.payload_type, envelope.payload)
    ids = [signature.key_id for signature in envelope.signatures]
    if len(set(ids)) != len(ids):
        raise VerificationError("One key has signed it twice.")
    for signature in envelope.signatures:
        public = roots.get(signature.key_id)
        if public is None:
            raise VerificationError("It is signed by a key that is no root key.")
        if not verify_signature(public, message, signature.signature):
            raise VerificationError(f"The signature by {signature.key_id[:12]}… does not hold.")
    return frozenset(ids)


def _keys(items: object) -> dict[str, RegisteredKey]:
    keys: dict[str, RegisteredKey] = {}
    for item in items if isinstance(items, list) else []:
        revoked = item["revoked_at"]
        key = RegisteredKey(
            key_id=item["key_id"],
            public_key=_public_key(item),
            party=item["party"],
            role=item["role"],
            not_before_ms=parse_time(item["not_before"]),
            not_after_ms=parse_time(item["not_after"]),
            revoked_at_ms=None if revoked is None else parse_time(revoked),
        )
        if key.key_id in keys:
            raise VerificationError(f"The key {key.key_id[:12]}… has two roles or parties.")
        keys[key.key_id] = key
    return keys


def _public_key(item: Mapping[str, str]) -> bytes:
    public = bytes.fromhex(item["public_key"])
    _check_point(public)
    if key_id(public) != item["key_id"]:
        raise VerificationError(f"The id {item['key_id'][:12]}… is not that of its key.")
    return public


@cache
def _check_point(public: bytes) -> None:
    check_public_key(public)


def _check_kept(before: Mapping[str, RegisteredKey], after: Mapping[str, RegisteredKey]) -> None:
    """A key once registered stays: it may only be revoked, or revoked earlier."""
    for identity, old in before.items():
        new = after.get(identity)
        if new is None:
            raise VerificationError(f"The key {identity[:12]}… was removed instead of revoked.")
        if (new.party, new.role, new.not_before_ms) != (old.party, old.role, old.not_before_ms):
            raise VerificationError(f"The key {identity[:12]}… was given to another use.")
        undone = old.revoked_at_ms is not None and (
            new.revoked_at_ms is None or new.revoked_at_ms > old.revoked_at_ms
        )
        if undone or new.not_after_ms > old.not_after_ms:
            raise VerificationError(f"The revocation or expiry of {identity[:12]}… was undone.")
