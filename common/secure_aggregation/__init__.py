"""Sums of which the coordinator learns nothing but the sum: numbers, keys and masks.

Everything here is arithmetic and bytes: no transport, no files, no clock. A region's side is
`client.engine.masking`, the coordinator's `server.secure_sum`; `docs/developer.md` tells one round
of both, ``docs/decisions/0024-secure-sum.md`` why it is as it is.
"""

from common.secure_aggregation.key_agreement import MaskingKey, shared_secret
from common.secure_aggregation.masks import MaskContext, add_pairwise_masks
from common.secure_aggregation.quantiser import (
    MAX_SUMMED,
    RING_BITS,
    Quantiser,
    from_ring,
    ring_values,
    to_ring,
)
from common.secure_aggregation.refusal import SecureSumRefusedError
from common.secure_aggregation.roster import Roster, decode_roster, encode_roster
from common.secure_aggregation.statement import (
    MaskingStatement,
    RoundContext,
    make_statement,
    open_statement,
    verify_statement,
)

__all__ = [
    "MAX_SUMMED",
    "RING_BITS",
    "MaskContext",
    "MaskingKey",
    "MaskingStatement",
    "Quantiser",
    "Roster",
    "RoundContext",
    "SecureSumRefusedError",
    "add_pairwise_masks",
    "decode_roster",
    "encode_roster",
    "from_ring",
    "make_statement",
    "open_statement",
    "ring_values",
    "shared_secret",
    "to_ring",
    "verify_statement",
]
