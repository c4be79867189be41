"""Key registries of a few keys, signed by one root key."""

from __future__ import annotations

from collections.abc import Sequence

from common.envelope import sign_record
from common.keys import KeyEntry, Registry, build_registry, key_id
from common.timestamps import format_time
from tests.support.memory_signer import MemorySigner

ROOT = MemorySigner("root of small registries")
FEDERATION = "small.example"
START_MS = 1_700_000_000_000
YEAR_MS = 365 * 24 * 3600 * 1000


def key_entry(
    party: str,
    role: str,
    public_key: bytes,
    *,
    not_before_ms: int = START_MS,
    not_after_ms: int = START_MS + 50 * YEAR_MS,
    revoked_at_ms: int | None = None,
) -> KeyEntry:
    return KeyEntry(
        key_id(public_key), public_key, party, role, not_before_ms, not_after_ms, revoked_at_ms
    )


def registry_chain(*versions: Sequence[KeyEntry], witness_quorum: int = 1) -> list[bytes]:
    """The envelopes of one version after the other, each with the keys given."""
    chain: list[bytes] = []
    for number, entries in enumerate(versions, start=1):
        head = Registry.from_envelopes(chain, root_key_ids=None).head_sha256 if chain else None
        record = build_registry(
            federation=FEDERATION,
            registry_version=number,
            issued_at=format_time(START_MS + number),
            prev=head,
            threshold=1,
            witness_quorum=witness_quorum,
            root_public_keys=[ROOT.public_key],
            keys=[entry.to_record() for entry in entries],
        )
        chain.append(sign_record(record, ROOT))
    return chain


def registry_of(*versions: Sequence[KeyEntry], witness_quorum: int = 1) -> Registry:
    """The registry after these versions."""
    chain = registry_chain(*versions, witness_quorum=witness_quorum)
    return Registry.from_envelopes(chain, root_key_ids=[ROOT.key_id])
