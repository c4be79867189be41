"""A federation whose customers have keys, and what a region gives them: receipts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common import canonical_json
from common.audit.customer_key import CustomerKey
from common.audit.federation_keys import FederationKeys
from common.audit.merkle import inclusion_proof, leaf_hash
from common.audit.receipt import MAX_RECEIPT_BYTES, FirstExcluded, make_receipt
from common.timestamps import format_time
from tests.support.bundle_builder import FEDERATION, Federation


@dataclass
class CustomersFederation(Federation):
    """A federation whose customers' pseudonyms are made as in production."""

    def sid(self, region: str, customer: int) -> str:
        return customer_key(region, customer).sid


def customer_key(region: str, customer: int) -> CustomerKey:
    secret = hashlib.sha256(f"secret {region} {customer}".encode()).digest()
    return CustomerKey(FEDERATION, region, f"customer-{customer}", secret)


def write_key(folder: Path, region: str, customer: int) -> Path:
    path = folder / f"{region}-{customer}.json"
    path.write_bytes(customer_key(region, customer).encode())
    return path


class ListedLog:
    """A log that is a list of entries."""

    def __init__(self, entries: list[bytes]) -> None:
        self._entries = entries
        self._leaves = [leaf_hash(entry) for entry in entries]

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        yield from list(enumerate(self._entries))[start:stop]

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        return inclusion_proof(self._leaves, index, size)


def keys_of(federation: Federation) -> FederationKeys:
    return FederationKeys.from_envelopes(federation.registry)


def receipt_of(
    federation: Federation,
    region: str,
    index: int,
    *,
    size: int | None = None,
    lang: str = "en",
    first_excluded: FirstExcluded | None = None,
    note: bytes | None = None,
) -> bytes:
    """A receipt as the region gives it, under the cosigned checkpoint of a size."""
    log = federation.logs[region]
    if note is None:
        note = federation.cosigned(region, len(log) if size is None else size)
    record = make_receipt(
        ListedLog(log),
        index,
        note,
        federation=FEDERATION,
        region=region,
        issued_at=format_time(federation.clock_ms),
        lang=lang,
        first_excluded=first_excluded,
    )
    return canonical_json.encode(record, max_bytes=MAX_RECEIPT_BYTES)
