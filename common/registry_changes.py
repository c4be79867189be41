"""Changes of the key registry: drafted, signed by one officer after another, finished.

Each step checks the whole draft anew and trusts no earlier step, nor whoever carried the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from common.envelope import Signature
from common.errors import FormatError, InputError, VerificationError
from common.key_entry import KeyEntry
from common.key_registry import MAX_REGISTRY_BYTES, Registry, build_registry
from common.key_request import KeyRequest, open_request
from common.registry_draft import Draft
from common.signatures import SIGNATURE_BYTES, Signer, verify_signature
from common.timestamps import format_time


@dataclass(frozen=True)
class CheckedDraft:
    """A draft all of whose claims hold; signatures may still be missing.

    Attributes:
        draft: The draft.
        previous: The registry that it follows; None for version 1.
        registry: What it makes of it.
    """

    draft: Draft
    previous: Registry | None
    registry: Registry

    @property
    def added(self) -> tuple[KeyEntry, ...]:
        """The keys that it adds."""
        known = self._known()
        return tuple(entry for entry in self.registry.entries if entry.key_id not in known)

    @property
    def revoked(self) -> tuple[KeyEntry, ...]:
        """The keys that it revokes, or whose revocation it dates back."""
        known = self._known()
        return tuple(
            entry
            for entry in self.registry.entries
            if entry.key_id in known and entry != known[entry.key_id]
        )

    def missing(self) -> tuple[int, int]:
        """How many signatures are missing: of the new version's root keys, of the previous's."""
        signed = {item.key_id for item in self.draft.signatures}
        own = self.registry.root_threshold - len(signed & self.registry.root_key_ids)
        if self.previous is None:
            return max(own, 0), 0
        old = self.previous.root_threshold - len(signed & self.previous.root_key_ids)
        return max(own, 0), max(old, 0)

    def _known(self) -> dict[str, KeyEntry]:
        return {} if self.previous is None else {e.key_id: e for e in self.previous.entries}


@dataclass(frozen=True)
class RootKeys:
    """The root keys of a new version, all of them, and how many must sign."""

    public_keys: tuple[bytes, ...]
    threshold: int


def draft_version(
    chain: Sequence[bytes],
    *,
    issued_at_ms: int,
    valid_for_s: int,
    requests: Sequence[bytes] = (),
    revocations: Mapping[str, int] | None = None,
    witness_quorum: int | None = None,
    root: RootKeys | None = None,
    federation: str = "",
) -> Draft:
    """Drafts the version that follows ``chain``, or version 1.

    Args:
        chain: The envelopes of the versions so far, oldest first.
        issued_at_ms: Now; also when added keys begin to be valid.
        valid_for_s: For how long they are, in seconds.
        requests: The signed requests of the keys to add.
        revocations: Key ids, or beginnings of them that name one key, with the time from which each
            is revoked.
        witness_quorum: The new quorum; None keeps the previous one.
        root: The new root; None keeps the previous one.
        federation: Its name, for version 1 only.

    Raises:
        InputError: What is asked for does not fit together, or changes nothing.
        FormatError: A request or a version is malformed.
        VerificationError: A request, a key or a version does not verify.
    """
    previous = Registry.from_envelopes(chain, root_key_ids=None) if chain else None
    if previous is None and (root is None or witness_quorum is None or not federation):
        raise InputError(
            "Version 1 of a registry needs the federation's name, its root keys and a quorum.",
            remedy="Give --federation, --new-root and --witness-quorum.",
        )
    if previous is not None:
        root = root or RootKeys(tuple(previous.root_keys.values()), previous.root_threshold)
        quorum = previous.witness_quorum if witness_quorum is None else witness_quorum
        federation = previous.federation
    elif root is None or witness_quorum is None:  # never: said above
        raise InputError("Version 1 of a registry needs its root keys and a quorum.")
    else:
        quorum = witness_quorum
    entries = _revoked(previous.entries if previous else (), revocations or {})
    entries += [_entry(open_request(data), issued_at_ms, valid_for_s) for data in requests]
    record = build_registry(
        federation=federation,
        registry_version=1 if previous is None else previous.version + 1,
        issued_at=format_time(issued_at_ms),
        prev=None if previous is None else previous.head_sha256,
        threshold=root.threshold,
        witness_quorum=quorum,
        root_public_keys=root.public_keys,
        keys=[entry.to_record() for entry in entries],
    )
    draft = Draft(tuple(chain), record, tuple(requests))
    checked = check_draft(draft)
    _check_size(checked)
    if previous is not None and _same(checked.registry, previous):
        raise InputError(
            "The draft changes nothing: no key is added or revoked, root and quorum are as before.",
        )
    return draft


def check_draft(draft: Draft) -> CheckedDraft:
    """Checks a draft: chain, record, succession, a request for each new key, every signature.

    Raises:
        FormatError: Something is malformed.
        VerificationError: Something does not hold; it must not be signed.
    """
    previous = Registry.from_envelopes(draft.chain, root_key_ids=None) if draft.chain else None
    registry = Registry.unsigned(draft.record, previous)
    checked = CheckedDraft(draft, previous, registry)
    _check_requests(checked)
    _check_quorum(registry)
    signers = {**registry.root_keys, **(previous.root_keys if previous else {})}
    seen: set[str] = set()
    for item in draft.signatures:
        public_key = signers.get(item.key_id)
        if public_key is None or item.key_id in seen:
            raise VerificationError(f"The key {item.key_id[:16]}… may not sign, or signs twice.")
        if not verify_signature(public_key, draft.message, item.signature):
            raise VerificationError(f"The signature of {item.key_id[:16]}… does not verify.")
        seen.add(item.key_id)
    return checked


def sign_draft(draft: Draft, signer: Signer) -> Draft:
    """Adds one officer's signature.

    Raises:
        InputError: This key has signed it.
        VerificationError: The draft does not hold, or the key is of neither root.
    """
    checked = check_draft(draft)
    roots = checked.registry.root_key_ids | (
        checked.previous.root_key_ids if checked.previous else frozenset()
    )
    if signer.key_id not in roots:
        raise VerificationError(
            f"The key {signer.key_id[:16]}… is no root key, neither of the version drafted nor of "
            "the one before it."
        )
    if any(item.key_id == signer.key_id for item in draft.signatures):
        raise InputError(f"The key {signer.key_id[:16]}… has signed this draft already.")
    signature = Signature(signer.key_id, signer.sign(draft.message))
    return replace(draft, signatures=(*draft.signatures, signature))


def finish_draft(draft: Draft) -> bytes:
    """Gives the envelope of the new version, if everything about it holds.

    Raises:
        VerificationError: Too few of the old or the new root have signed, or it may not follow.
        FormatError: It is too long for a registry.
    """
    own, old = check_draft(draft).missing()
    if own or old:
        raise VerificationError(
            f"Signatures are missing: {own} of the drafted version's root keys, {old} of those of "
            "the version before it.",
            remedy="Let further officers sign it: fedpref-region keys root sign.",
        )
    data = draft.envelope(draft.signatures).encode(max_bytes=MAX_REGISTRY_BYTES)
    Registry.from_envelopes([*draft.chain, data], root_key_ids=None)
    return data


def _revoked(entries: Sequence[KeyEntry], revocations: Mapping[str, int]) -> list[KeyEntry]:
    times: dict[str, int] = {}
    for beginning, time_ms in revocations.items():
        found = [entry.key_id for entry in entries if entry.key_id.startswith(beginning)]
        if len(found) != 1 or not beginning:
            raise InputError(
                f"{len(found)} keys of the registry have an id that begins with {beginning[:64]!r}."
            )
        times[found[0]] = time_ms
    return [
        replace(entry, revoked_at_ms=times[entry.key_id]) if entry.key_id in times else entry
        for entry in entries
    ]


def _entry(request: KeyRequest, issued_at_ms: int, valid_for_s: int) -> KeyEntry:
    return KeyEntry(
        key_id=request.key_id,
        public_key=request.public_key,
        party=request.party,
        role=request.role,
        not_before_ms=issued_at_ms,
        not_after_ms=issued_at_ms + valid_for_s * 1000,
        revoked_at_ms=None,
    )


def _check_requests(checked: CheckedDraft) -> None:
    """Every key that is added was asked for, by itself, for this party and role."""
    asked = {request.key_id: request for request in map(open_request, checked.draft.requests)}
    for request in asked.values():
        if request.federation != checked.registry.federation:
            raise VerificationError(
                f"The request of key {request.key_id[:16]}… is for the federation "
                f"{request.federation}, not for {checked.registry.federation}."
            )
    added = {entry.key_id: (entry.party, entry.role) for entry in checked.added}
    for key_id, use in added.items():
        own = asked.get(key_id)
        if own is None or (own.party, own.role) != use:
            raise VerificationError(
                f"The key {key_id[:16]}… of {use[0]} ({use[1]}) is added without its own request."
            )
    for key_id in asked.keys() - added.keys():
        raise VerificationError(f"The key {key_id[:16]}… is asked for, but not added.")


def _check_quorum(registry: Registry) -> None:
    """A quorum that no log can reach would stop every round."""
    at_ms = registry.issued_at_ms
    active = [entry for entry in registry.entries if entry.is_valid_at(at_ms)]
    witnesses = {entry.party for entry in active if entry.role == "witness"}
    for party in sorted({entry.party for entry in active if entry.role == "log"}):
        others = len(witnesses - {party})
        if others < registry.witness_quorum:
            raise VerificationError(
                f"The witness quorum is {registry.witness_quorum}, but {others} other parties than "
                f"{party} have a valid witness key: its checkpoints would never count.",
                remedy="Enrol further witness keys in the same draft, or lower the quorum.",
            )


def _check_size(checked: CheckedDraft) -> None:
    """A registry has a limit: told before anybody signs."""
    roots = set(checked.registry.root_keys)
    if checked.previous is not None:
        roots |= checked.previous.root_keys.keys()
    longest = tuple(Signature(key_id, bytes(SIGNATURE_BYTES)) for key_id in sorted(roots))
    try:
        checked.draft.envelope(longest).encode(max_bytes=MAX_REGISTRY_BYTES)
    except FormatError as error:
        raise InputError(
            f"The drafted version has {len(checked.registry.entries)} keys; signed by all, it "
            f"would be longer than a registry may be ({MAX_REGISTRY_BYTES} bytes)."
        ) from error


def _same(one: Registry, other: Registry) -> bool:
    return (one.entries, dict(one.root_keys), one.root_threshold, one.witness_quorum) == (
        other.entries,
        dict(other.root_keys),
        other.root_threshold,
        other.witness_quorum,
    )
