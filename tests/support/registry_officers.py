"""A federation's root officers, who enrol keys as the commands let them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.key_request import make_request
from common.registry_changes import RootKeys, draft_version, finish_draft, sign_draft
from common.registry_draft import Draft
from tests.support.memory_signer import MemorySigner

FEDERATION = "retail.example"
START_MS = 1_760_000_000_000
DAY_S = 24 * 3600
OFFICERS = [MemorySigner(f"officer {number}") for number in range(3)]
ROOT = RootKeys(tuple(officer.public_key for officer in OFFICERS), 2)
ROOT_IDS = [officer.key_id for officer in OFFICERS]


def request(signer: MemorySigner, party: str = "region-1", role: str = "trainer", **changes: Any):  # type: ignore[no-untyped-def]
    arguments = {"federation": FEDERATION, "party": party, "role": role, "at_ms": START_MS}
    return make_request(signer, **(arguments | changes))


def drafted(chain: Sequence[bytes], **changes: Any) -> Draft:
    """The draft of the next version; version 1 has the three officers as its root."""
    first = {"root": ROOT, "federation": FEDERATION, "witness_quorum": 0} if not chain else {}
    arguments: dict[str, Any] = {
        "issued_at_ms": START_MS + len(chain) * 1000,
        "valid_for_s": 366 * DAY_S,
        **first,
        **changes,
    }
    return draft_version(chain, **arguments)


def signed(draft: Draft, *officers: MemorySigner) -> Draft:
    for officer in officers or OFFICERS[:2]:
        draft = sign_draft(draft, officer)
    return draft


def version(chain: Sequence[bytes], *officers: MemorySigner, **changes: Any) -> bytes:
    """The next version, signed by two officers."""
    return finish_draft(signed(drafted(chain, **changes), *officers))
