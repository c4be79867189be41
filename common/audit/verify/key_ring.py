"""The keys that a verified registry binds to parties and roles, and whether one may have signed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.audit.verify.cosigned import SettledEntries
from common.envelope import Envelope, pae
from common.errors import VerificationError
from common.keys import verify_signature


@dataclass(frozen=True)
class RegisteredKey:
    """One key of the registry, bound to one party and one role.

    Attributes:
        key_id: Its id, in hex.
        public_key: 32 bytes; a valid point of prime order.
        party: Whose it is.
        role: What it may sign.
        not_before_ms: First moment of its validity, in milliseconds since the epoch.
        not_after_ms: From then on it is no longer valid.
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
        return self.not_before_ms <= time_ms < self.not_after_ms and (
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
            if time_ms >= self.not_after_ms:
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
        self._quorums = {version.sha256.hex(): version.witness_quorum for version in versions}

    @property
    def witness_quorum(self) -> int:
        """How many other parties must cosign a checkpoint, by the newest version."""
        return self._versions[-1].witness_quorum

    def quorum_of(self, sha256: str) -> int:
        """The witness quorum of one version.

        Args:
            sha256: The version's digest, in hex; one of `versions`.
        """
        return self._quorums[sha256]

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
