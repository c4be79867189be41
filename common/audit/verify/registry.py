"""Step 1: the chain of key registry versions, from the root keys down to every party's keys."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from functools import cache

from common.audit.verify.fields import Record
from common.audit.verify.files import BundleFolder
from common.audit.verify.key_ring import KeyRing, RegisteredKey, RegistryVersion
from common.audit.verify.records import REGISTRY_SCHEMA
from common.audit.verify.verdict import REGISTRY, Findings, RootKey
from common.envelope import Envelope, pae
from common.errors import FedprefError, FormatError, VerificationError
from common.keys import check_public_key, key_id, verify_signature
from common.timestamps import parse_time

REGISTRY_FOLDER = "registry"
_MAX_REGISTRY_BYTES = 1 << 20


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
