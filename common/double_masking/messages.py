"""What goes to and fro in an execution of double masking, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from common.keys import Registry, Signer

SHARE_ROSTER = "fedpref-share-roster/1"


class Step(IntEnum):
    """What a region has done last."""

    BEGUN = 0
    PINNED = 1
    SHARED = 2
    MASKED = 3
    AGREED = 4
    UNMASKED = 5


@dataclass(frozen=True)
class SharesGiven:
    """What a region hands to the coordinator in the second step.

    Attributes:
        statement: Its signed ``execution-shares``.
        commitments: By holder, SHA-256 of the share of its masking key and of its seed.
        ciphertexts: By holder but itself, the encrypted shares.
    """

    statement: bytes
    commitments: dict[str, tuple[bytes, bytes]]
    ciphertexts: dict[str, bytes]


@dataclass(frozen=True, repr=False)
class Reveal:
    """What a region gives up in the last step, by owner: of nobody both.

    Attributes:
        seed_shares: Of the seeds of those whose masked values are in the sum.
        key_shares: Of the masking keys of those who were lost.
    """

    seed_shares: dict[str, bytes]
    key_shares: dict[str, bytes]


@dataclass(frozen=True)
class RegionIdentity:
    """Who takes part, and whom it believes.

    Attributes:
        region: Its name.
        signer: Its ``trainer`` key.
        registry: The verified key registry.
        now_ms: Its clock, in milliseconds since the epoch.
    """

    region: str
    signer: Signer
    registry: Registry
    now_ms: Callable[[], int]
