"""Regions that mask released arrays as the protocol says, without any transport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from common.envelope import Envelope, sign_record
from common.key_entry import KeyEntry
from common.keys import Registry, build_registry
from common.parameters import ArraySpec
from common.secure_aggregation import (
    MaskContext,
    MaskingKey,
    MaskingStatement,
    Quantiser,
    Roster,
    RoundContext,
    add_pairwise_masks,
    make_statement,
    shared_secret,
    to_ring,
)
from common.timestamps import format_time
from tests.support.memory_signer import MemorySigner

AT_MS = 1_800_000_000_000
Arrays = Mapping[str, np.ndarray]


def names(count: int) -> list[str]:
    return [f"region-{number:03d}" for number in range(1, count + 1)]


def context(count: int = 3, *, exponent: int = -12, **changes: object) -> RoundContext:
    fields = {
        "run": "run-1",
        "plan": "a" * 64,
        "server_round": 2,
        "mechanism": "factors",
        "model_in": "b" * 64,
        "quantiser": Quantiser(exponent, count),
    }
    return RoundContext(**{**fields, **changes})  # type: ignore[arg-type]


def trainer(region: str) -> MemorySigner:
    return MemorySigner(f"{region} trainer")


@cache
def registry(count: int = 5) -> Registry:
    """Trainer keys of that many regions."""
    root = MemorySigner("root")
    keys = [
        KeyEntry(
            key_id=trainer(region).key_id,
            public_key=trainer(region).public_key,
            party=region,
            role="trainer",
            not_before_ms=AT_MS - 1000,
            not_after_ms=AT_MS + 10**9,
            revoked_at_ms=None,
        ).to_record()
        for region in names(count)
    ]
    record = build_registry(
        federation="test.example",
        registry_version=1,
        issued_at=format_time(AT_MS),
        prev=None,
        threshold=1,
        witness_quorum=0,
        root_public_keys=[root.public_key],
        keys=keys,
    )
    return Registry.from_envelopes([sign_record(record, root)], root_key_ids=None)


def statement(
    region: str, key: MaskingKey, of: RoundContext, *, signer: MemorySigner | None = None
) -> Envelope:
    """A region's signed statement."""
    record = MaskingStatement(of, region, region.encode().hex().rjust(64, "0"), key.public)
    return Envelope.decode(make_statement(record, signer or trainer(region)))


def keys(regions: Sequence[str]) -> dict[str, MaskingKey]:
    return {region: MaskingKey.generate() for region in regions}


def roster_of(of: RoundContext, held: Mapping[str, MaskingKey]) -> Roster:
    return Roster.of([statement(region, key, of) for region, key in held.items()])


def masked(
    region: str,
    arrays: Arrays,
    roster: Roster,
    held: Mapping[str, MaskingKey],
    of: RoundContext,
    *,
    attempt: int = 1,
) -> np.ndarray:
    """A region's masked vector."""
    secrets = {
        each.region: shared_secret(held[region], each.public_key)
        for each in roster.statements
        if each.region != region
    }
    vector = to_ring(arrays, of.quantiser)
    add_pairwise_masks(vector, region, secrets, MaskContext(attempt, roster.digest(of)))
    return vector


def specs_of(arrays: Arrays) -> list[ArraySpec]:
    return [ArraySpec(name, "<f4", array.shape) for name, array in sorted(arrays.items())]
